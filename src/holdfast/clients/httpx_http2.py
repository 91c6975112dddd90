"""HTTP/2 below httpx: what httpcore leaves undone when a request is over before its response.

**Async requests share a connection.** httpcore forgets one that was cut off, and does not tell the server, which goes on counting its
stream among those that it allows; and what has come of its body is never acknowledged. After enough of them the connection serves nobody,
and stays in its pool. Here the stream is reset (RFC 9113, 6.4), and what came of it is acknowledged.

**Blocking requests have a connection each**, as with HTTP/1.1. On one that is shared httpcore's threads wait for each other in locks, which
no deadline ends, and read for each other, so that the deadline of one is the error of all. One that was cut off is closed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from holdfast.clients.exchange import wrote
from holdfast.clients.httpx_bodies import over

# RFC 9113, 7: the server has not looked at the request; the client does not want it any more.
_REFUSED_STREAM = 7
_CANCEL = 8

# h2's words for a connection that is closed before its first frame, or before the first of a request.
_NOT_BEGUN = ("Invalid input ConnectionInputs.SEND_SETTINGS", "Invalid input ConnectionInputs.SEND_HEADERS")


def share(pool: Any, library: Any) -> None:
    """Have the connections of an async pool end their streams. The library is httpcore, or httpcore2."""
    _make(pool, _Shared, library)


def separate(pool: Any, library: Any) -> None:
    """Have the connections of a blocking pool serve one request at a time."""
    _make(pool, _Separate, library)


def _make(pool: Any, kind: type, library: Any) -> None:
    create = pool.create_connection

    def create_connection(origin: Any) -> Any:
        connection = create(origin)
        _put_over(connection, kind)
        connection._of_pool, connection._library = pool, library
        return connection

    pool.create_connection = create_connection


def _put_over(made: Any, kind: type) -> None:
    theirs: type = type(made)
    made.__class__ = over(theirs, kind)  # httpcore makes it itself, and has no argument for another class


class _Connection:
    """A connection that may turn out to speak HTTP/2; above it, `_connection` does, once that is known."""

    _protocol: type
    _of_pool: Any
    _library: Any

    @property
    def _connection(self) -> Any:
        return vars(self)["_connection"]

    @_connection.setter
    def _connection(self, made: Any) -> None:
        if hasattr(made, "_h2_state"):
            _put_over(made, self._protocol)
            made._library = self._library
        vars(self)["_connection"] = made

    def has_expired(self) -> bool:
        """See httpcore, which leaves an idle connection that broke in its pool: no request goes there, and nobody closes it."""
        ours: Any = super()
        return ours.has_expired() or (ours.is_idle() and not ours.is_available())


class _Permits:
    """httpcore's semaphore of the streams that may be open, of which one that is free is taken without a wait: as a connection begins
    httpcore takes all but one in a loop, and a cut-off in the middle of that would leave the connection with a wrong number for good.
    """

    async def acquire(self) -> None:
        """See httpcore."""
        ours: Any = self
        if not ours._backend:
            ours.setup()
        inner = ours._trio_semaphore if ours._backend == "trio" else ours._anyio_semaphore
        if inner.value:
            inner.acquire_nowait()
        else:
            await super().acquire()  # type: ignore[misc]  # httpcore's class comes behind this one, here and below


class _Streams:
    """HTTP/2 whose streams end for the server too."""

    @property
    def _max_streams_semaphore(self) -> Any:
        return vars(self)["_max_streams_semaphore"]

    @_max_streams_semaphore.setter
    def _max_streams_semaphore(self, made: Any) -> None:
        _put_over(made, _Permits)
        vars(self)["_max_streams_semaphore"] = made

    async def handle_async_request(self, request: Any) -> Any:
        """See httpcore. What was closed while the request waited for its turn leaves it to another connection."""
        ours: Any = self
        try:
            return await super().handle_async_request(request)  # type: ignore[misc]  # as above
        except Exception as error:
            if _never_began(error):
                raise ours._library.ConnectionNotAvailable from error
            raise

    async def _response_closed(self, stream_id: int) -> None:
        _end(self, stream_id)  # before httpcore has the next request begin, for which there may be no other place
        await super()._response_closed(stream_id)  # type: ignore[misc]  # as above


def _never_began(error: Exception) -> bool:
    from h2.exceptions import ProtocolError

    said = error if isinstance(error, ProtocolError) else error.__context__
    return isinstance(said, ProtocolError) and str(said).startswith(_NOT_BEGUN)


def _end(connection: Any, stream_id: int) -> None:
    from h2.exceptions import ProtocolError  # only here is it certain to be installed

    state = connection._h2_state
    with suppress(ProtocolError):  # the connection is over
        unread = sum(getattr(event, "flow_controlled_length", 0) for event in connection._events[stream_id])
        state.acknowledge_received_data(unread, stream_id)
        if _is_open(state, stream_id):
            state.reset_stream(stream_id, _CANCEL)
    post = getattr(connection._network_stream, "post", None)
    if post is not None:  # on trio, where only one task may write, it goes out with the next request
        post(state.data_to_send())


class _Stream:
    """HTTP/2 with one stream; where that is not over, the connection is closed."""

    def _response_closed(self, stream_id: int) -> None:
        connection: Any = self
        is_open = _is_open(connection._h2_state, stream_id)
        super()._response_closed(stream_id)  # type: ignore[misc]  # as above
        if is_open:
            connection.close()


def _is_open(state: Any, stream_id: int) -> bool:
    stream = state.streams.get(stream_id)
    return stream is not None and not stream.closed


class _Shared(_Connection):
    """A connection of an async pool."""

    _protocol = _Streams
    _connects = False

    @property
    def _connect_failed(self) -> bool:
        """That nobody is to use it. httpcore says so too when somebody is cancelled who only waits, and then its pool forgets the
        connection, which is being made all the same.
        """
        return bool(vars(self)["_connect_failed"])

    @_connect_failed.setter
    def _connect_failed(self, failed: bool) -> None:
        vars(self)["_connect_failed"] = failed and not self._connects

    async def _connect(self, request: Any) -> Any:
        # Those who waited for it would try to connect next, on what has left the pool by then, and which nobody would close.
        if self._connect_failed:
            raise self._library.ConnectionNotAvailable
        self._connects = True
        try:
            return await super()._connect(request)  # type: ignore[misc]  # as above
        finally:
            self._connects = False


class _Separate(_Connection):
    """A connection of a blocking pool."""

    _protocol = _Stream

    def is_available(self) -> bool:
        """See httpcore. The pool asks under its lock, and a request is in its list from before it has a connection until it is over."""
        ours: Any = super()
        return all(request.connection is not self for request in self._of_pool._requests) and ours.is_available()


class _Noticed:
    """A `trace` of httpcore's that notices when a request may be written."""

    def __init__(self, given: Callable[[str, dict[str, Any]], Awaitable[object]] | None) -> None:
        self._given = given

    async def __call__(self, name: str, info: dict[str, Any]) -> None:
        if name.endswith(".send_request_headers.started"):
            wrote()
        if self._given is not None:
            await self._given(name, info)


def noticed(extensions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Extensions of an async request, with which it is noticed as it is handed over to be written. The stream below sees who writes, and
    on a shared connection that may be another request.
    """
    given = extensions.get("trace")
    return extensions if isinstance(given, _Noticed) else {**extensions, "trace": _Noticed(given)}


def unprocessed(error: BaseException | None) -> bool:
    """Whether an HTTP/2 server said that it has done nothing about the request, so that it may be sent again whatever it is.

    Args:
        error: httpcore's, with h2's event.
    """
    event: object = error.args[0] if error is not None and error.args else None
    if hasattr(event, "stream_id"):
        return getattr(event, "error_code", None) == _REFUSED_STREAM
    return getattr(event, "last_stream_id", None) == 0  # with another number httpcore itself sends again what came after it
