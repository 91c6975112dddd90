"""aio-pika's connection under the ambient deadline, with an eye on the broker.

    async with holdfast.deadline(2.0):
        connection = await holdfast.clients.amqp.aio_pika.connect("amqps://broker.internal/", policy=broker)

It is an `aio_pika.Connection`, not a robust one: that connects again by itself, for ever, and nobody is told. What differs from aio-pika's:

1. Connecting is bound: name, TCP, TLS and AMQP, by the ambient deadline or the policy's, and by 5 s where there is neither. What is done
   with the connection is cut off like any other async code.
2. A broker that has gone silent is noticed after `dead_after` seconds, whether anybody waits for it or not.
3. A connection that is closed is closed at once; a peer that is silent is not waited for.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from contextvars import Context, copy_context
from typing import Any, cast

from holdfast import errors
from holdfast.clients.amqp.judging import judge
from holdfast.clients.amqp.liveness import Frames, Liveness
from holdfast.clients.errors import Kinds
from holdfast.clients.operation import Guarding
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.net.async_eyeballs import aconnect
from holdfast.policy import Policy
from holdfast.scope import deadline
from holdfast.validation import Seconds

try:
    import aio_pika
    import aio_pika.exceptions
    from aiormq.connection import TransportFactory
    from yarl import URL
except ImportError as missing:
    raise ImportError("holdfast.clients.amqp.aio_pika needs the extra: pip install 'holdfast[amqp]'") from missing

# Where neither the policy nor a block says how long connecting may take.
CONNECT_TIMEOUT = 5.0

# How long a connection that is closed in order waits for the broker's last word.
CLOSE_TIMEOUT = 1.0

# As asyncio's own streams.
_LIMIT = 2**16


class DeadlineExceeded(errors.DeadlineExceeded, aio_pika.exceptions.AMQPConnectionError):
    """The time ran out; also an `aio_pika.exceptions.AMQPConnectionError`."""

    __str__ = errors.DeadlineExceeded.__str__


class BreakerOpen(errors.BreakerOpen, aio_pika.exceptions.AMQPConnectionError):
    """The breaker is open; also an `aio_pika.exceptions.AMQPConnectionError`: nobody was called."""


class BulkheadFull(errors.BulkheadFull, aio_pika.exceptions.AMQPConnectionError):
    """The bulkhead is full; also an `aio_pika.exceptions.AMQPConnectionError`: nobody was called."""


class RateLimited(errors.RateLimited, aio_pika.exceptions.AMQPConnectionError):
    """The rate is used up; also an `aio_pika.exceptions.AMQPConnectionError`: nobody was called."""


_KINDS = Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited)


async def connect(
    url: str, *, policy: Policy | None = None, dead_after: Seconds = 5.0, ssl_context: ssl.SSLContext | None = None
) -> aio_pika.Connection:
    """Connect to a broker, in attempts of the policy.

    Args:
        url: `amqp://` or `amqps://`; its heartbeat is replaced.
        policy: deadline, retries, breaker for connecting; None for one attempt within the ambient deadline, at most 5 s.
        dead_after: seconds after which a broker that has gone silent is noticed, >= 1.
        ssl_context: for `amqps://`; None for the system's certificates, or those that the URL names.

    Raises:
        DeadlineExceeded, Rejected: the policy's, as kinds of `aio_pika.exceptions.AMQPConnectionError`.
        aio_pika.exceptions.AMQPConnectionError: it could not connect.
        OSError: the name is not known.
        ValueError: an argument is out of its range.
    """
    where = checked_url(url)
    liveness = Liveness(dead_after)
    home = copy_context()
    with _KINDS.translated():
        return await Guarding(policy, "amqp", judge).arepeatedly(open_connection, where, liveness, ssl_context, home)


def checked_url(url: str) -> URL:
    """The URL.

    Raises:
        ValueError: it is no URL of a broker. What it says does not repeat the URL, which has a password.
    """
    if not isinstance(cast("object", url), str) or not url.startswith(("amqp://", "amqps://")):
        raise ValueError("url must begin with amqp:// or amqps://")
    try:
        return URL(url)
    except ValueError as error:
        raise ValueError(f"url is no URL of a broker: {type(error).__name__}") from None


class Connection(aio_pika.Connection):
    """A connection with an ear on the broker; made by `connect`."""

    def __init__(self, url: URL, liveness: Liveness, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(url.update_query(heartbeat=liveness.heartbeat), ssl_context=ssl_context)
        self._stream = _Stream(liveness)
        self.kwargs["transport_factory"] = self._stream

    @property
    def heard(self) -> float:
        """When the broker last said something; monotonic seconds."""
        return self._stream.heard

    def discard(self, error: Exception) -> None:
        """Give the connection up without another word: nobody knows its state. Whoever waits on it is told `error`."""
        self._stream.break_off(error)

    async def close(self, exc: Any = aio_pika.exceptions.ConnectionClosed) -> None:
        """Close it in order, within a second; without order where the broker does not answer."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await super().close(exc)
        except TimeoutError:
            self.discard(ConnectionAbortedError("the broker did not answer that the connection is closed"))
        finally:
            self._stream.break_off(None)


async def open_connection(url: URL, liveness: Liveness, ssl_context: ssl.SSLContext | None, home: Context) -> Connection:
    """One attempt to connect.

    Args:
        url: checked.
        liveness: when the broker counts as dead.
        ssl_context: None for the system's certificates.
        home: the context that the connection lives in, and with it every callback of its user's: there, the deadline of connecting
            must not be the ambient one for ever.
    """
    connection = Connection(url, liveness, ssl_context)
    try:
        async with deadline(CONNECT_TIMEOUT):
            home.run(ambient.set, None)
            await asyncio.get_running_loop().create_task(connection.connect(), context=home)
    except BaseException as error:
        connection._stream.break_off(None)
        connection._close_called = True
        if not connection._closed.done():  # its finaliser would close it once more, in a task
            connection._closed.set_result(True)
        if isinstance(error, Exception) and not isinstance(error, (aio_pika.exceptions.AMQPError, OSError, errors.HoldfastError)):
            # What it sent could not be read, or it sent nothing and closed (StopAsyncIteration).
            raise aio_pika.exceptions.AMQPConnectionError(f"this is no broker, or it has gone: {error!r}") from error
        raise
    return connection


class _Stream(TransportFactory):
    """Makes the stream of one connection, and listens to it."""

    def __init__(self, liveness: Liveness) -> None:
        self.heard = 0.0
        self._liveness = liveness
        self._reader: asyncio.StreamReader | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See aiormq."""
        loop = asyncio.get_running_loop()
        tls = await options["ssl_context_provider"].get_context() if url.scheme == "amqps" else None
        sock = await self._connect_tcp(url)
        reader = self._reader = asyncio.StreamReader(limit=_LIMIT, loop=loop)
        protocol = _Heard(self, reader, loop)
        try:
            transport, _ = await loop.create_connection(lambda: protocol, sock=sock, ssl=tls, server_hostname=url.host if tls else None)
        except BaseException:
            sock.close()
            raise
        self._transport = transport
        self.heard = clock.now()
        self._timer = loop.call_later(self._liveness.silence, self._listen)
        return reader, _Writer(transport, protocol, reader, loop)

    async def _connect_tcp(self, url: URL) -> socket.socket:
        try:
            return await aconnect((cast("str", url.host), cast("int", url.port)), self._liveness.tcp.as_list())
        except socket.gaierror:
            raise
        except OSError as error:
            raise aio_pika.exceptions.AMQPConnectionError(*error.args) from error

    def _listen(self) -> None:
        now = clock.now()
        wrong = self._liveness.says(self.heard, now)
        if wrong is None:
            self._timer = asyncio.get_running_loop().call_later(self._liveness.due(self.heard, now), self._listen)
        else:
            self.break_off(ConnectionAbortedError(wrong))

    def break_off(self, error: Exception | None) -> None:
        """End the stream at once, with `error` for whoever reads it."""
        transport, self._transport = self._transport, None
        if self._timer is not None:
            self._timer.cancel()
        if transport is None:
            return
        if error is not None and self._reader is not None and self._reader.exception() is None:
            self._reader.set_exception(error)
        transport.abort()


class _Heard(asyncio.StreamReaderProtocol):
    """Notes when a frame has arrived."""

    def __init__(self, stream: _Stream, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._listener = stream
        self._frames = Frames()

    def data_received(self, data: bytes) -> None:
        if self._frames.feed(data):
            self._listener.heard = clock.now()
        super().data_received(data)


class _Writer(asyncio.StreamWriter):
    """A writer that does not wait for the peer when it closes: by then AMQP has said what there was to say, or nobody listens."""

    def close(self) -> None:
        self.transport.abort()
