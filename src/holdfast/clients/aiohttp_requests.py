"""Requests of aiohttp that tell when they are written, know whether they can be written again, and need not be made anew; its responses.

For each call of a session aiohttp merges headers, looks for cookies, credentials, proxies and traces, and mostly comes to what it came to
the last time. A `Prototype` is what it came to, for one method at one origin with headers of the same names; the next request is a copy
with another address, other values, and a body of its own.
"""

from __future__ import annotations

import functools
from inspect import signature
from types import TracebackType
from typing import Any, TypeAlias, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.hdrs import CONTENT_LENGTH, EXPECT
from aiohttp.helpers import TimerNoop
from aiohttp.payload import BytesPayload, IOBasePayload, JsonPayload
from multidict import getversion
from yarl import URL

from holdfast.clients.aiohttp_connections import Connector
from holdfast.clients.exchange import Exchange


class Marked:
    """A request that tells when it begins to be written: everything before is getting a connection."""

    _exchange: Written | None = None

    def send(self, conn: Any) -> Any:
        """See aiohttp."""
        exchange = self._exchange
        if exchange is not None:
            exchange.sent = True
            exchange.transport = conn.transport
        return super().send(conn)  # type: ignore[misc]  # a request of aiohttp comes behind it

    async def write_bytes(self, writer: Any, conn: Any, *options: Any) -> None:
        """See aiohttp. The headers go out with the first of the body, and nothing does where the peer has closed."""
        exchange = self._exchange
        if exchange is not None and (conn.transport is None or conn.transport.is_closing()):
            exchange.sent = False
        await super().write_bytes(writer, conn, *options)  # type: ignore[misc]  # as above


class Written(Exchange):
    """An exchange that knows what its attempt is written to."""

    __slots__ = ("transport",)

    request: Any
    transport: Any


@functools.cache  # the user may have brought a class of their own, so ours goes over it
def marked(base: type[aiohttp.ClientRequest]) -> type[aiohttp.ClientRequest]:
    """The class of requests, with marks."""
    return type(base.__name__, (Marked, base), {"__doc__": base.__doc__})


def can_share(body: Any) -> bool:
    """Whether two requests can write this body at once."""
    return not body or isinstance(body, BytesPayload)


def can_repeat(body: Any) -> bool:
    """Whether aiohttp can write this body again: it rewinds files that can be rewound, and nothing else that runs out."""
    if can_share(body):
        return True
    if isinstance(body, IOBasePayload):
        return bool(body._value.seekable())
    if isinstance(body, aiohttp.MultipartWriter):
        return all(can_repeat(part) for part, *_ in body)
    return False


class Response(aiohttp.ClientResponse):
    """aiohttp's, left at once where nothing is still being written: aiohttp releases it twice, before and after it has waited for that."""

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """See aiohttp."""
        self._in_context = False
        self.release()
        if self._writer is not None:
            await self.wait_for_close()


# Those that say how the session reads answers; which there are depends on aiohttp's version.
_READING = ("read_bufsize", "auto_decompress", "max_line_size", "max_field_size", "max_headers")
_PARAMETERS = signature(ResponseHandler.set_response_params).parameters

# What a copy may have of its own.
_OWN = frozenset({"allow_redirects", "params", "headers", "data", "json"})


class Prototype:
    """A request that aiohttp has made ready, without its body, to be copied for other addresses of its origin.

    Args:
        request: the request, nothing of ours in its headers yet.
        timeouts: without a total.
        version: of the session's headers, which it was made from.
    """

    __slots__ = ("_headers", "_key", "_kind", "_reading", "_state", "timeouts", "version")

    def __init__(self, request: aiohttp.ClientRequest, timeouts: aiohttp.ClientTimeout, version: int) -> None:
        self.version = version
        self.timeouts = timeouts
        session = cast("Any", request.session)
        self._kind = type(request)
        self._key = request.connection_key
        self._headers = request.headers.copy()
        if request._body is not None:
            for name in (CONTENT_LENGTH, *cast("Any", request._body.headers)):
                if name not in session._default_headers:
                    self._headers.popall(name, None)
        # The session has this, and not the other way round.
        self._state = {**request.__dict__, "_session": None, "_body": None, "chunked": None}
        self._reading = {name: getattr(session, f"_{name}") for name in _READING if name in _PARAMETERS}
        self._reading |= {
            "timer": TimerNoop(),
            "skip_payload": request.method == "HEAD",
            "read_until_eof": True,
            "read_timeout": timeouts.sock_read,
            "timeout_ceil_threshold": session.connector._timeout_ceil_threshold,
        }

    def copy(self, session: aiohttp.ClientSession, url: URL, options: dict[str, Any]) -> aiohttp.ClientRequest:
        """A request for an address of the same origin, with values of its own for the same headers, and a body of its own."""
        request = object.__new__(self._kind)
        headers = self._headers.copy()
        request.__dict__ = {
            **self._state,
            "_session": session,
            "headers": headers,
            "original_url": url,
            "url": url.with_fragment(None) if url.raw_fragment else url,
        }
        own = options.get("headers")
        if own:
            for name, value in own.items():
                headers[name] = value
        jar = cast("Any", session._cookie_jar)
        if jar.__class__ is not aiohttp.CookieJar or jar._cookies:  # its length is counted, each time
            request.update_cookies(jar.filter_cookies(url))
        body = _body(session, options)
        if body is not None:
            request.update_body_from_data(body)
            request.update_transfer_encoding()
        return request

    async def send(self, request: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
        """What aiohttp does with a request when middlewares have done with it."""
        connector = cast("aiohttp.BaseConnector", request.session.connector)
        connection = connector.reuse(self._key) if isinstance(connector, Connector) else None
        if connection is None:
            try:
                connection = await connector.connect(request, [], self.timeouts)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {request.url}") from error
        try:
            cast("ResponseHandler", connection.protocol).set_response_params(**self._reading)
            response = await request.send(connection)
            try:
                await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise
        return response


def _body(session: aiohttp.ClientSession, options: dict[str, Any]) -> Any:
    json = options.get("json")
    if json is None:
        return options.get("data")
    to_bytes = getattr(session, "_json_serialize_bytes", None)
    return JsonPayload(json, dumps=session._json_serialize) if to_bytes is None else aiohttp.payload.JsonBytesPayload(json, dumps=to_bytes)


def _is_plain(options: dict[str, Any]) -> bool:
    """Whether these options leave aiohttp nothing to find out but values."""
    headers, data, json = options.get("headers"), options.get("data"), options.get("json")
    return (
        options.keys() <= _OWN
        and (headers is None or headers.__class__ is dict)
        and (data is None or (json is None and data.__class__ in (bytes, str)))
    )


# aiohttp's own, before anybody puts something else there.
_REQUEST = aiohttp.ClientSession._request

# As many kinds of requests does a session remember; then it begins anew.
_MOST = 256

# The method, scheme and authority, whether there is a body, and the names of its own headers.
_Kind: TypeAlias = "tuple[str, str, str, bool, tuple[str, ...]]"


def kind_of(method: str, url: URL, options: dict[str, Any]) -> _Kind:
    """What requests have in common that can be copies of one prototype."""
    has_body = options.get("json") is not None or options.get("data") is not None
    return method, url.scheme, url.raw_authority, has_body, tuple(options.get("headers") or ())


class Prototypes:
    """What the usual requests of a session look like.

    Args:
        session: the session, made.
    """

    __slots__ = ("_known", "_usual")

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._known: dict[_Kind, Prototype] = {}
        # Nothing in it that is to be found out for each request.
        self._usual = (
            session._request_class is marked(aiohttp.ClientRequest)
            and session._default_auth is None
            and session._default_proxy is None
            and not session._trust_env
            and not callable(session._raise_for_status)
            and not session._loop.get_debug()
        )

    def serve(self, session: aiohttp.ClientSession, options: dict[str, Any]) -> bool:
        """Whether a request with these options is one like others of its kind."""
        return (
            self._usual
            and _is_plain(options)
            # Nor has anything come to the session since. (Headers tell their version.)
            and not (session._trace_configs or session._middlewares or session.closed)
            and aiohttp.ClientSession._request is _REQUEST  # and not a double, which users' tests put there
        )

    def find(self, session: aiohttp.ClientSession, kind: _Kind) -> Prototype | None:
        """The prototype of this kind, if there is one that still holds."""
        known = self._known.get(kind)
        return known if known is not None and known.version == _version(session) else None

    def learn(self, kind: _Kind, url: URL, timeouts: aiohttp.ClientTimeout, request: aiohttp.ClientRequest) -> None:
        """Remember this request of aiohttp's."""
        if request.original_url != url or len(request.session.cookie_jar):
            return  # a user and a password were in it, or cookies are
        headers = request.headers
        if EXPECT in headers or any(len(headers.getall(name)) != 1 for name in kind[-1]):
            return  # it waits for an answer before its body, or has a name in two ways of writing
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[kind] = Prototype(request, timeouts, _version(request.session))


def _version(session: aiohttp.ClientSession) -> int:
    return getversion(cast("Any", session._default_headers))
