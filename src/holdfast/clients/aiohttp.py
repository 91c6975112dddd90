"""aiohttp behind policies.

    async with holdfast.clients.aiohttp.ClientSession(policy=billing) as session:
        async with session.get("https://billing.internal/tax") as response:
            print(await response.json())

1. `ClientSession` is aiohttp's and takes everything that it takes. Each request that leaves (after each redirect, each step of an
   authentication, each middleware of the user) passes the policy of its host; the deadline is for all of them and for the body.
2. Timeouts are never none by accident: where the caller gives none, 5 s to get a connection (queue, look-up, connect and TLS together),
   10 s for each read, and aiohttp's 300 s in all unless the policy has a deadline. `ClientTimeout(sock_read=0)` says none on purpose.
   `total` is enforced as a deadline, so no attempt follows it.
3. aiohttp hands a response out before its body has come, so a failure in the middle of a body is not retried. Until the body has come
   the response holds its place and permit; it gives them back when it is closed, released or forgotten, and when the deadline passes.
4. Names are looked up by `holdfast.net.agetaddrinfo`, so that a look-up that hangs holds neither the deadline nor the process's exit. A
   `connector` that is given is left as it is: give it `resolver=Resolver()` for the same.
5. aiohttp's silent second try of an idempotent request whose connection broke is off: `Retry` does it, counted.
6. A websocket's handshake passes the policy; the websocket then lives for as long as it likes.

Errors are aiohttp's as well as ours: `except aiohttp.ServerTimeoutError` catches DeadlineExceeded, `except aiohttp.ClientConnectionError`
that and a refusal.
"""

from __future__ import annotations

import asyncio
import functools
import math
import socket
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.helpers import sentinel
from aiohttp.payload import BytesPayload, IOBasePayload

from holdfast import errors
from holdfast.clients.exchange import (
    CONNECT_TIMEOUT,
    FAILURE_BODY,
    READ_TIMEOUT,
    REQUEST_ID,
    Exchange,
    Policies,
    is_failure,
    mint_id,
    whole_call,
    wrote,
)
from holdfast.deadlines import Deadline, ambient, restore
from holdfast.drivers import aio, clock
from holdfast.flow import Call
from holdfast.net import agetaddrinfo
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict
from holdfast.plan import Plan
from holdfast.policy import Policy

# aiohttp's own default.
TOTAL_TIMEOUT = 300.0

_OURS = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)

# Seconds between looks at how long the body of a failure has become: streams tell when they end, and not when they are full.
_LOOK = 0.02


class DeadlineExceeded(errors.DeadlineExceeded, aiohttp.ServerTimeoutError):
    """The time ran out; also an `aiohttp.ServerTimeoutError`."""


class BreakerOpen(errors.BreakerOpen, aiohttp.ClientConnectionError):
    """The breaker is open; also an `aiohttp.ClientConnectionError`: nothing was sent."""


class BulkheadFull(errors.BulkheadFull, aiohttp.ClientConnectionError):
    """The bulkhead is full; also an `aiohttp.ClientConnectionError`: nothing was sent."""


class RateLimited(errors.RateLimited, aiohttp.ClientConnectionError):
    """The rate is used up; also an `aiohttp.ClientConnectionError`: nothing was sent."""


_REFUSALS: dict[type[errors.Rejected], type[errors.Rejected]] = {
    errors.BreakerOpen: BreakerOpen,
    errors.BulkheadFull: BulkheadFull,
    errors.RateLimited: RateLimited,
}


class Resolver(AbstractResolver):
    """Name look-up for an `aiohttp.TCPConnector` in threads of holdfast's: aiohttp's own default runs in the loop's executor, for which
    `asyncio.run` waits at its end.
    """

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """See aiohttp."""
        found: list[ResolveResult] = []
        for kind, _, proto, _, address in await agetaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG):
            if kind == socket.AF_INET6 and len(address) < 4:
                continue  # a Python without IPv6
            # Asked for in numbers this does not wait; it writes the scope of a link-local address.
            numeric, _ = socket.getnameinfo(cast("tuple[str, int]", address), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            found.append(ResolveResult(hostname=host, host=numeric, port=cast("int", address[1]), family=kind, proto=proto, flags=flags))
        return found

    async def close(self) -> None:
        """There is nothing to close: the threads are the process's."""


class _Plain:
    # aiohttp warns of every subclass, since its attributes may change; ours are registered in ATTRS.
    def __init_subclass__(cls) -> None:
        pass


class ClientSession(_Plain, aiohttp.ClientSession):
    """`aiohttp.ClientSession` behind a policy.

    Args:
        base_url: see aiohttp.
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        options: those of `aiohttp.ClientSession`.
    """

    ATTRS = aiohttp.ClientSession.ATTRS | {"_policies", "_times"}

    def __init__(self, base_url: Any = None, *, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        self._policies = Policies(policy)
        if options.get("connector") is None:
            shared = {name: options[name] for name in ("loop",) if options.get(name) is not None}
            if "ssl_shutdown_timeout" in options:
                shared["ssl_shutdown_timeout"] = options.pop("ssl_shutdown_timeout")
            options["connector"] = aiohttp.TCPConnector(resolver=Resolver(), **shared)
        options["request_class"] = _requests(options.get("request_class", aiohttp.ClientRequest))
        options["response_class"] = _responses(options.get("response_class", aiohttp.ClientResponse))
        super().__init__(base_url, **options)
        unsaid = options.get("timeout", sentinel) in (sentinel, None) and "read_timeout" not in options and "conn_timeout" not in options
        self._times = _Times(self._timeout, None if unsaid else self._timeout)
        self._timeout = self._times.shown
        # aiohttp sends an idempotent request once more when its connection breaks, without a word and whatever came of it: one attempt of
        # ours would be two on the wire, and neither the budget nor the breaker would know. The policy's retries do the same, counted.
        self._retry_connection = False

    async def _request(self, method: str, str_or_url: Any, **options: Any) -> aiohttp.ClientResponse:
        host = ""
        with suppress(TypeError, ValueError):  # aiohttp says what is wrong with it
            str_or_url = self._build_url(str_or_url)
            host = str_or_url.host or ""
        plan = self._policies.plan(host)
        total, options["timeout"] = self._times.of(options.get("timeout", sentinel), plan)
        given = options.get("middlewares")
        # The innermost of all, so that what the user's middlewares do (authentication, signatures) is part of the logical call.
        options["middlewares"] = (*(self._middlewares if given is None else given), _LogicalCall(self._policies))
        token = ambient.set(_end_of(plan, total))
        try:
            return await super()._request(method, str_or_url, **options)
        finally:
            restore(token)


class _Times:
    """The timeouts of a session: where the caller gives none, there are some all the same.

    Args:
        shown: what aiohttp made of the caller's.
        given: the caller's; None where there is none.
    """

    __slots__ = ("_sent", "_total", "_unsaid", "shown")

    def __init__(self, shown: aiohttp.ClientTimeout, given: aiohttp.ClientTimeout | None) -> None:
        self._unsaid = given is None
        if given is None:
            given = aiohttp.ClientTimeout(TOTAL_TIMEOUT, CONNECT_TIMEOUT, READ_TIMEOUT, CONNECT_TIMEOUT, shown.ceil_threshold)
        self.shown = _filled(given, CONNECT_TIMEOUT, READ_TIMEOUT)
        self._total = self.shown.total
        self._sent = _without_total(self.shown)

    def of(self, given: Any, plan: Plan) -> tuple[float | None, aiohttp.ClientTimeout]:
        """The total of a request, and the rest of its timeouts."""
        if given is sentinel:
            return (None if self._unsaid and plan.deadline is not None else self._total), self._sent
        if not isinstance(given, aiohttp.ClientTimeout):
            given = aiohttp.ClientTimeout(total=given)
        own = self._sent
        return given.total, _without_total(_filled(given, own.connect, own.sock_read, own.sock_connect))


def _filled(given: aiohttp.ClientTimeout, connect: float | None, read: float | None, dial: float | None = None) -> aiohttp.ClientTimeout:
    if given.connect is not None:
        connect = given.connect
    elif given.sock_connect:
        connect = CONNECT_TIMEOUT + given.sock_connect  # it is a part of the way to a connection; the rest gets what it always gets
    return aiohttp.ClientTimeout(
        given.total,
        connect,
        read if given.sock_read is None else given.sock_read,
        dial if given.sock_connect is None else given.sock_connect,
        given.ceil_threshold,
    )


def _without_total(times: aiohttp.ClientTimeout) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(None, times.connect, times.sock_read, times.sock_connect, times.ceil_threshold)


def _end_of(plan: Plan, total: float | None) -> Deadline | None:
    """The deadline of a logical call that begins now. aiohttp's total is one, and named like the policy's: the server was slow."""
    outer = whole_call(plan)
    if not total or total < 0:
        return outer
    end = clock.now() + total
    return Deadline(end, total, plan.name, outer) if outer is None or end < outer.at else outer


class _LogicalCall:
    """The middleware that makes the attempts; one for each call of the user, over its redirects."""

    __slots__ = ("_name", "_policies")

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._name = ""

    async def __call__(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if self._name:
            request.headers.setdefault(REQUEST_ID, self._name)
        else:
            mint_id(request.headers)
            self._name = request.headers[REQUEST_ID]
        plan = self._policies.plan(request.url.host or "")
        exchange = _Exchange(request.method, request.headers, _can_repeat(request.body), _OURS)
        cast("_Marked", request)._exchange = exchange
        try:
            return await aio.run(plan, _attempt, (request, handler, exchange), {}, exchange)
        except Exception as error:
            _raise_ours(error)
            raise


async def _attempt(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, exchange: _Exchange) -> aiohttp.ClientResponse:
    if exchange.attempt:
        await request.close()  # the last attempt's writer, which may not have let go of the body yet
    exchange.begin()
    response = await handler(request)
    exchange.answered = response.status
    if is_failure(response.status) and exchange.may_repeat:
        try:
            await _read(response.content)
        except BaseException:
            response.close()
            raise
    exchange.whole = response.content.is_eof()
    return response


async def _read(content: aiohttp.StreamReader) -> None:
    """Wait until a body has come, or is longer than is worth it. It stays in the stream, for whoever gets the response."""
    most = min(FAILURE_BODY, content.get_read_buffer_limits()[1])  # beyond this aiohttp stops reading
    while not content.is_eof() and content.total_bytes <= most:
        error = content.exception()
        if error is not None:
            raise error
        try:
            async with asyncio.timeout(_LOOK):
                await content.wait_eof()
        except TimeoutError:
            continue  # a look; or the stream's own, which is its exception then


class _Exchange(Exchange):
    """The exchange of an attempt, whose response may be handed on while its body still comes."""

    __slots__ = ("_response",)

    def result(self, _result: Any) -> tuple[Verdict | None, bool]:
        self._response = _result
        return super().result(_result)

    def unfinished(self, call: Call) -> None:
        _Reading(self._response, call)
        del self._response


class _Reading:
    """A response whose body still comes, with the place and permit of its call.

    Whatever waits for the body waits in its stream, so the deadline ends the stream: one timer, whoever reads and however.
    """

    __slots__ = ("_alarm", "_call", "_connection", "_content", "_failed", "_limit", "_response")

    def __init__(self, response: aiohttp.ClientResponse, call: Call) -> None:
        self._call: Call | None = call
        self._limit = limit = call.deadline
        self._failed = is_failure(response.status)
        self._content = response.content
        self._connection = connection = cast("aiohttp.connector.Connection", response.connection)
        self._response = weakref.ref(response)
        self._alarm: asyncio.TimerHandle | None = None
        if limit is not None and limit.at < math.inf:
            time = clock.current.get()
            self._alarm = asyncio.get_running_loop().call_later(time.delay(limit.remaining(time.now())), self._expire)
        connection.add_callback(self._released)
        cast("_Forgettable", response)._reading = self

    def _released(self) -> None:
        # The body has come, or somebody closed the response, perhaps because it broke; aiohttp's word for "closed" is this very class.
        if self._alarm is not None:
            self._alarm.cancel()
        error = self._content.exception()
        if isinstance(error, Exception) and type(error) is not aiohttp.ClientConnectionError:
            self._end(FAILURE, error)
        else:
            self._end(SUCCESS)

    def _expire(self) -> None:
        limit, call = cast("Deadline", self._limit), self._call
        error = _converted(limit.exceeded(max(clock.now(), limit.at), attempt=0 if call is None else call.attempt))
        self._end(FAILURE, error)
        self._content.set_exception(error)
        response = self._response()
        if response is not None:
            response.close()
        transport = self._connection.transport
        self._connection.close()
        if transport is not None:
            transport.abort()  # TLS would wait for the peer's last word, 30 s from one that is silent

    def forgotten(self) -> None:
        """Nobody has the response any more: that says nothing about the server, but its place is needed.

        Somebody may have its stream, so the connection lives until the body has come, or until the deadline.
        """
        self._end(IGNORED)
        self._content.on_eof(self._connection.release)

    def _end(self, verdict: Verdict, error: Exception | None = None) -> None:
        call, self._call = self._call, None
        if call is None:
            return
        now = clock.now()
        if error is not None and call.cut_by_caller(error, now):
            verdict = IGNORED
        elif verdict is SUCCESS and self._failed:
            verdict = FAILURE
        call.close(verdict, now, error)


class _Forgettable:
    """A response that can be forgotten. aiohttp's cannot while its body comes: the stream, which the loop holds, holds the response."""

    _reading: _Reading | None = None

    @property
    def _response_eof(self) -> Any:
        return functools.partial(_ended, weakref.ref(self))

    def __del__(self) -> None:
        reading, response = self._reading, cast("Any", self)
        if reading is not None and response._connection is not None:
            response._connection = None
            reading.forgotten()
        super().__del__()  # type: ignore[misc]


def _ended(response: weakref.ref[Any]) -> None:
    if (alive := response()) is not None:
        cast("Any", super(_Forgettable, alive))._response_eof()


class _Marked:
    """A request that tells when it begins to be written: everything before is getting a connection."""

    _exchange: Exchange | None = None

    def send(self, conn: Any) -> Any:
        wrote(self._exchange)
        return super().send(conn)  # type: ignore[misc]


# The user may have brought classes of their own, so ours go over them.


@functools.cache
def _requests(base: type[aiohttp.ClientRequest]) -> type[aiohttp.ClientRequest]:
    return type(base.__name__, (_Marked, base), {"__doc__": base.__doc__})


@functools.cache
def _responses(base: type[aiohttp.ClientResponse]) -> type[aiohttp.ClientResponse]:
    return type(base.__name__, (_Forgettable, base), {"__doc__": base.__doc__})


def _can_repeat(body: Any) -> bool:
    """Whether aiohttp can write this body again: it rewinds files that can be rewound, and nothing else that runs out."""
    if not body or isinstance(body, BytesPayload):
        return True
    if isinstance(body, IOBasePayload):
        return bool(body._value.seekable())
    if isinstance(body, aiohttp.MultipartWriter):
        return all(_can_repeat(part) for part, *_ in body)
    return False


def _converted(error: errors.DeadlineExceeded) -> DeadlineExceeded:
    ours = DeadlineExceeded(error.policy, error.budget, error.elapsed, error.started, error.attempt, error.what)
    ours._source = error._source
    return ours


def _raise_ours(error: Exception) -> None:
    """Raise the error that is ours and aiohttp's both, where `error` is ours; return where it is not."""
    raised: Exception
    if isinstance(error, errors.Rejected):
        kind = _REFUSALS.get(type(error))
        if kind is None:
            return
        raised = kind(error.policy, error.retry_after)
    elif isinstance(error, errors.DeadlineExceeded) and not isinstance(error, DeadlineExceeded):
        raised = _converted(error)
    else:
        return
    for line in getattr(error, "__notes__", ()):
        raised.add_note(line)
    try:
        raise raised from error
    finally:
        del raised
