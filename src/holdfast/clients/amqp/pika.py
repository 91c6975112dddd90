"""pika's blocking connection under the ambient deadline, with an eye on the broker.

    with holdfast.deadline(2.0):
        connection = holdfast.clients.amqp.pika.connect("amqps://broker.internal/", policy=broker)
        channel = connection.channel()

It is a `pika.BlockingConnection`, and its channels are pika's. What differs:

1. The ambient deadline bounds every operation, and connecting: name, TCP, TLS and AMQP. One that was cut off leaves a connection whose
   state nobody knows, so it is closed; waiting for events (`process_data_events`, `start_consuming`) leaves it as it was.
2. A broker that has gone silent is noticed after `dead_after` seconds, while the connection is used or waits for events. pika has no thread
   of its own: a connection that nobody uses sends no heartbeats either, and the broker closes it after two or three of them.
3. pika's own attempts are one; doing it again is the policy's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, cast

from holdfast import errors
from holdfast.clients.amqp.judging import judge
from holdfast.clients.amqp.liveness import Liveness
from holdfast.clients.errors import Kinds
from holdfast.clients.operation import Guarding
from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock
from holdfast.net import connect as connect_tcp
from holdfast.policy import Policy
from holdfast.validation import Seconds

try:
    import pika
    import pika.connection
    import pika.exceptions
    from pika.adapters.base_connection import _StreamingProtocolShim
    from pika.adapters.select_connection import IOLoop, SelectConnection
    from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
except ImportError as missing:
    raise ImportError("holdfast.clients.amqp.pika needs the extra: pip install 'holdfast[amqp]'") from missing

if TYPE_CHECKING:
    from pika.connection import Parameters

# Where neither the policy nor a block says how long connecting may take.
CONNECT_TIMEOUT = 5.0


class DeadlineExceeded(errors.DeadlineExceeded, pika.exceptions.AMQPConnectionError):  # type: ignore[misc]  # pika has no types
    """The time ran out; also a `pika.exceptions.AMQPConnectionError`."""


class BreakerOpen(errors.BreakerOpen, pika.exceptions.AMQPConnectionError):  # type: ignore[misc]  # pika has no types
    """The breaker is open; also a `pika.exceptions.AMQPConnectionError`: nobody was called."""


class BulkheadFull(errors.BulkheadFull, pika.exceptions.AMQPConnectionError):  # type: ignore[misc]  # pika has no types
    """The bulkhead is full; also a `pika.exceptions.AMQPConnectionError`: nobody was called."""


class RateLimited(errors.RateLimited, pika.exceptions.AMQPConnectionError):  # type: ignore[misc]  # pika has no types
    """The rate is used up; also a `pika.exceptions.AMQPConnectionError`: nobody was called."""


_KINDS = Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited)


def connect(url: str | Parameters, *, policy: Policy | None = None, dead_after: Seconds = 5.0) -> Connection:
    """Connect to a broker, in attempts of the policy.

    Args:
        url: `amqp://` or `amqps://`, or pika's parameters; their heartbeat, timeouts, attempts and TCP options are replaced.
        policy: deadline, retries, breaker for connecting; None for one attempt within the ambient deadline, at most 5 s.
        dead_after: seconds after which a broker that has gone silent is noticed, >= 1.

    Raises:
        DeadlineExceeded, Rejected: the policy's, as kinds of `pika.exceptions.AMQPConnectionError`.
        pika.exceptions.AMQPConnectionError: it could not connect.
        OSError: the name is not known, or nobody listens there.
        ValueError: an argument is out of its range.
    """
    parameters = parameters_of(url)
    liveness = Liveness(dead_after)
    with _KINDS.translated():
        return Guarding(policy, "amqp", judge).repeatedly(Connection, parameters, liveness)


def parameters_of(url: str | Parameters) -> Parameters:
    """Parameters as pika knows them.

    Raises:
        ValueError: it is no URL of a broker. What it says does not repeat the URL, which has a password.
    """
    if not isinstance(url, str):
        if not isinstance(url, pika.connection.Parameters):
            raise ValueError(f"url must be an amqp:// URL or pika's parameters, got {type(url).__name__}")  # noqa: TRY004  (a range, to its user)
        return copy(url)
    if not url.startswith(("amqp://", "amqps://")):
        raise ValueError("url must begin with amqp:// or amqps://")
    try:
        return pika.URLParameters(url)
    except Exception as error:
        raise ValueError(f"url is no URL of a broker: {type(error).__name__}") from None


class _Listening(SelectConnection):  # type: ignore[misc]  # pika has no types
    """A connection that notices the broker's silence."""

    liveness: Liveness
    heard = 0.0
    _adapter_call_later: Callable[[float, Callable[[], None]], object]

    def watch(self, liveness: Liveness) -> None:
        """Begin to listen."""
        self.liveness = liveness
        self.heard = clock.now()
        self._adapter_call_later(liveness.silence, self._listen)

    def _output_marshaled_frames(self, marshaled_frames: list[bytes]) -> None:
        # A message is three frames, and pika sends each by itself: three system calls, and three packets.
        cast("Any", super())._output_marshaled_frames([b"".join(marshaled_frames)])

    def _trim_frame_buffer(self, byte_count: int) -> None:
        # A whole frame was read. Bytes alone are no sign of life: what began as noise stays an unfinished frame for ever.
        self.heard = clock.now()
        cast("Any", super())._trim_frame_buffer(byte_count)

    def _listen(self) -> None:
        # Timers ring after what has arrived was read: what waited while nobody looked is heard first.
        if self.is_closed:
            return
        now = clock.now()
        wrong = self.liveness.says(self.heard, now)
        if wrong is None:
            self._adapter_call_later(self.liveness.due(self.heard, now), self._listen)
        else:
            cast("Any", self)._terminate_stream(pika.exceptions.AMQPHeartbeatTimeout(wrong))


class Connection(pika.BlockingConnection):  # type: ignore[misc]  # pika has no types
    """A blocking connection under the ambient deadline; made by `connect`."""

    _impl: Any
    _cleanup: Callable[[], None]

    def __init__(self, parameters: Parameters, liveness: Liveness) -> None:
        self._liveness = liveness
        self._waits_for_events = False
        parameters.heartbeat = liveness.heartbeat
        parameters.blocked_connection_timeout = None  # whoever publishes says how long it may be
        super().__init__(parameters, _Listening)

    @property
    def heard(self) -> float:
        """When the broker last said something; monotonic seconds."""
        return cast("float", self._impl.heard)

    def discard(self, error: Exception) -> None:
        """Close it without another word: nobody knows its state. Channels and callbacks are told `error`."""
        impl = self._impl
        if not impl.is_closed:
            impl._terminate_stream(error)
            while not impl.is_closed:  # the end is a callback of its loop, which waits for nothing
                impl.ioloop.process_timeouts()
        self._cleanup()

    def process_data_events(self, time_limit: float | None = 0) -> None:
        """See pika. The deadline ends the wait, and leaves the connection as it was."""
        self._waits_for_events = True
        try:
            cast("Any", super()).process_data_events(time_limit)
        finally:
            self._waits_for_events = False

    # What pika's operations wait in.

    def _flush_output(self, *waiters: Callable[[], bool]) -> None:
        limit = ambient.get()
        idle, self._waits_for_events = self._waits_for_events, False
        if limit is None:
            cast("Any", super())._flush_output(*waiters)
            return
        alarm = _Alarm(self._impl, limit, idle)
        try:
            with alarm:
                cast("Any", super())._flush_output(*waiters, alarm.rang)
        except errors.DeadlineExceeded as cut:
            self.discard(cut)
            raise _KINDS.exceeded(cut) from cut
        if alarm.rang() and not any(ready() for ready in waiters):
            raise _KINDS.exceeded(limit.exceeded(clock.now()))

    def _create_connection(self, configs: Any = None, impl_class: Any = None) -> Any:
        limit = ambient.get()
        if limit is None or limit.remaining(clock.now()) > CONNECT_TIMEOUT:
            limit = Deadline(clock.now() + CONNECT_TIMEOUT, CONNECT_TIMEOUT, None, limit)
        token = ambient.set(limit)
        loop = IOLoop()
        try:
            loop.activate_poller()
            return self._link_up(configs, impl_class, loop, limit)
        except BaseException as error:
            loop.close()
            if isinstance(error, Exception) and not isinstance(error, (pika.exceptions.AMQPError, OSError, errors.HoldfastError)):
                raise pika.exceptions.AMQPConnectionError(f"this is no broker: {error!r}") from error  # what it sent could not be read
            raise
        finally:
            ambient.reset(token)

    def _link_up(self, parameters: Any, impl_class: Any, loop: Any, limit: Deadline) -> Any:
        """TCP by ourselves, TLS and AMQP by pika, all until `limit`."""
        services = SelectorIOServicesAdapter(loop)
        impl = impl_class(parameters, custom_ioloop=services, internal_connection_workflow=False)
        outcome: list[BaseException | None] = []
        impl.add_on_open_error_callback(lambda _, error: outcome.append(error), remove_default=True)
        impl.add_on_open_callback(lambda _: outcome.append(None))
        sock = connect_tcp((parameters.host, parameters.port), None, None, self._liveness.tcp.as_list())
        plain = socket.socket(fileno=sock.detach())
        plain.setblocking(False)
        tls = parameters.ssl_options
        pending = services.create_streaming_connection(
            protocol_factory=lambda: _StreamingProtocolShim(impl),
            sock=plain,
            on_done=lambda result: outcome.append(result) if isinstance(result, BaseException) else None,
            ssl_context=None if tls is None else tls.context,
            server_hostname=None if tls is None else tls.server_hostname or parameters.host,
        )
        try:
            with _Alarm(impl, limit, False):
                while not outcome:
                    loop.poll()
                    loop.process_timeouts()
            if outcome[0] is not None:
                raise outcome[0]
        except BaseException:
            pending.cancel()  # closes the socket, which TLS has put another object over
            if impl._transport is not None:
                impl._transport._sock.close()
            raise
        impl.watch(self._liveness)
        return impl


class _Alarm:
    """Rings in a connection's loop at the deadline.

    An operation is cut off: the alarm raises through the loop, since pika goes on for as long as there is something to write. A wait
    for events ends: the alarm is one of the things it waits for.
    """

    __slots__ = ("_idle", "_impl", "_limit", "_rang", "_timer")

    def __init__(self, impl: Any, limit: Deadline, idle: bool) -> None:
        self._impl = impl
        self._limit = limit
        self._idle = idle
        self._rang = False
        self._timer: Any = None

    def rang(self) -> bool:
        """Whether it did."""
        return self._rang

    def __enter__(self) -> None:
        self._timer = self._impl._adapter_call_later(self._limit.remaining(clock.now()), self._ring)

    def __exit__(self, *_: object) -> None:
        if not self._rang:
            self._impl._adapter_remove_timeout(self._timer)

    def _ring(self) -> None:
        self._rang = True
        if not self._idle or self._impl._get_write_buffer_size():
            raise self._limit.exceeded(max(clock.now(), self._limit.at))
