"""One live connection of a blocking publisher: a channel in confirm mode, and the thread that keeps it.

pika's connections belong to one thread at a time. The caller's thread opens one, under its own deadline; then a thread of the link's has
it, sends heartbeats while nobody publishes, and hands each message over for whoever asks. Callers wait for their confirm, each until its
own deadline, and any number of messages is on its way at once.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Any, cast

import pika
import pika.exceptions
from pika.spec import Basic

from holdfast.clients.amqp.errors import Blocked, ChannelLost, Disconnected, Nacked, Unroutable
from holdfast.clients.amqp.judging import why_closed
from holdfast.clients.amqp.message import Message
from holdfast.clients.amqp.pika import Connection
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.scope import deadline

# A connection that is closed in order waits this long for the broker's last word.
_CLOSE_TIMEOUT = 1.0


class _Pending:
    """A message on its way, and the thread that waits for it."""

    __slots__ = ("_done", "error", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.error: Exception | None = None
        self._done = threading.Lock()
        self._done.acquire()

    def wait(self, seconds: float) -> bool:
        """Whether its end came in time."""
        return self._done.acquire(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def end(self, error: Exception | None) -> None:
        """It is confirmed, or it is not to be."""
        self.error = error
        self._done.release()


class Link:
    """A connection, taken over from the thread that opened it.

    Args:
        connection: open, and used by nobody else from now on.
        blocked_after: seconds that a blocked connection is waited for.

    Raises:
        DeadlineExceeded: the ambient deadline passed while the channel was opened.
        pika.exceptions.AMQPError: there is no channel to be had.
    """

    def __init__(self, connection: Connection, blocked_after: float) -> None:
        self._connection = connection
        self._impl: Any = connection._impl
        self._blocked_after = blocked_after
        self._lock = threading.Lock()  # what callers and the link's thread share: the queue, and whether it is the end
        self._queue: deque[_Pending] = deque()
        self._woken = False
        self._lost: Exception | None = None
        self._on_way: dict[int, _Pending] = {}  # by delivery tag, in the order in which they were sent
        self._returned: dict[str, str] = {}
        self._tag = 0
        self._closing = False
        self._blocked_since: float | None = None
        self._reason = ""
        self._channel = self._confirming()
        self._impl.add_on_connection_blocked_callback(self._on_blocked)
        self._impl.add_on_connection_unblocked_callback(self._on_unblocked)
        self._thread = threading.Thread(target=self._keep, name="holdfast-amqp", daemon=True)
        self._thread.start()

    # What publishers ask, in their threads.

    @property
    def usable(self) -> bool:
        """Whether a message may be handed to it."""
        return self._lost is None and not self._closing

    def publish(self, message: Message, timeout: float) -> None:
        """Send it and wait until the broker has confirmed it.

        Args:
            message: to be sent.
            timeout: seconds for the confirm where no ambient deadline ends first.

        Raises:
            Disconnected: the connection broke, or was given up.
            Unroutable, Nacked, Blocked: what the broker said.
            DeadlineExceeded: the deadline passed; a connection that said nothing since is given up.
            TimeoutError: `timeout` passed, likewise.
        """
        limit = ambient.get()
        began = clock.now()
        self._refuse_blocked(message, began)
        pending = _Pending(message)
        self._hand_over(pending)
        wait = timeout if limit is None else min(timeout, limit.at - began)
        if not pending.wait(wait):
            self._overdue(began)
            now = clock.now()
            if self._blocked_since is not None:
                raise Blocked(message.message_id, self._reason, True)
            if limit is not None and now >= limit.at:
                raise limit.exceeded(now)
            raise TimeoutError(f"message {message.message_id}: no confirm within {timeout:g} s")
        if pending.error is not None:
            try:
                raise pending.error
            finally:
                del pending  # its error's traceback holds this frame

    def close(self) -> None:
        """Close it in order, within a second or so."""
        self._closing = True
        self._wake()
        self._thread.join(_CLOSE_TIMEOUT + 1.0)

    def give_up(self, reason: str) -> None:
        """Close it without a word; whoever waits is told. The thread ends by itself."""
        self._call(lambda: self._break_off(ConnectionAbortedError(reason)))

    def _refuse_blocked(self, message: Message, now: float) -> None:
        since = self._blocked_since
        if since is not None and now - since >= self._blocked_after:
            raise Blocked(message.message_id, self._reason, False)

    def _overdue(self, began: float) -> None:
        # Somebody who was heard since then is slow; somebody who was not may be gone.
        if self._connection.heard < began:
            self.give_up("nothing was heard from the broker while a message waited for its confirm")

    def _hand_over(self, pending: _Pending) -> None:
        with self._lock:
            if self._lost is not None or self._closing:
                raise Disconnected(str(self._lost or "the publisher was closed"))
            self._queue.append(pending)
            wake, self._woken = not self._woken, True
        if wake:
            self._call(self._send)

    def _wake(self) -> None:
        self._call(lambda: None)

    def _call(self, callback: Any) -> None:
        with contextlib.suppress(Exception):  # the loop is closed: the end has come, and everybody is told
            self._impl.ioloop.add_callback_threadsafe(callback)

    # What the thread does.

    def _keep(self) -> None:
        error: Exception = Disconnected("the connection was closed")
        try:
            cast("Any", self._connection)._flush_output(lambda: self._closing)
            with deadline(_CLOSE_TIMEOUT):
                self._connection.close()
        except Exception as broken:
            error = broken
        finally:
            self._tell_all(error)

    def _tell_all(self, error: Exception) -> None:
        with self._lock:
            self._lost = error
            pending = [*self._on_way.values(), *self._queue]
            self._on_way.clear()
            self._queue.clear()
        for each in pending:
            each.end(_for(each, error))

    def _send(self) -> None:
        with self._lock:
            self._woken = False
            batch = [*self._queue]
            self._queue.clear()
        for pending in batch:
            self._tag += 1
            self._on_way[self._tag] = pending
            try:
                message = pending.message
                properties = pika.BasicProperties(type=message.kind, **message.properties)
                self._channel.basic_publish(message.exchange, message.routing_key, message.body, properties, message.mandatory)
            except Exception as error:
                # Before anything was written: the channel is gone, or AMQP cannot carry something.
                del self._on_way[self._tag]
                self._tag -= 1
                pending.end(ValueError(f"AMQP cannot carry this message: {error}") if self._channel.is_open else ChannelLost(str(error)))

    def _on_confirm(self, frame: Any) -> None:
        tag: int = frame.method.delivery_tag
        taken = isinstance(frame.method, Basic.Ack)
        if not frame.method.multiple:
            self._confirm(tag, taken)
            return
        for each in [sent for sent in self._on_way if sent <= tag or tag == 0]:
            self._confirm(each, taken)

    def _confirm(self, tag: int, taken: bool) -> None:
        pending = self._on_way.pop(tag, None)
        if pending is None:
            return
        name = pending.message.message_id
        returned = self._returned.pop(name, None)
        if not taken:
            pending.end(Nacked(name, "the broker refused the message"))
        else:
            pending.end(None if returned is None else Unroutable(name, returned))

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        # It comes before the confirm of its message.
        if any(pending.message.message_id == properties.message_id for pending in self._on_way.values()):
            self._returned[properties.message_id] = f"{method.reply_code} {method.reply_text}"

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        if self._blocked_since is None:
            self._blocked_since = clock.now()
            self._reason = f"the broker takes no messages: {str(frame.method.reason)[:200]}"
            self._impl._adapter_call_later(self._blocked_after, self._still_blocked)

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self._blocked_since = None

    def _still_blocked(self) -> None:
        since = self._blocked_since
        if since is None or clock.now() - since < self._blocked_after:
            return
        pending = [*self._on_way.values()]
        self._on_way.clear()
        for each in pending:
            each.end(Blocked(each.message.message_id, self._reason, True))

    def _on_channel_closed(self, _channel: Any, error: Exception) -> None:
        if not self._closing:
            self._break_off(error)

    def _break_off(self, error: Exception) -> None:
        # The thread, which waits in the connection's loop, is told by it.
        if not self._impl.is_closed:
            self._impl._terminate_stream(error)

    def _confirming(self) -> Any:
        """A channel in confirm mode."""
        channel: Any = self._connection.channel()
        impl = channel._impl
        selected: list[object] = []
        impl.add_on_return_callback(self._on_return)
        impl.confirm_delivery(self._on_confirm, callback=selected.append)
        cast("Any", self._connection)._flush_output(lambda: bool(selected))
        impl.add_on_close_callback(self._on_channel_closed)
        return impl


def _for(pending: _Pending, error: Exception) -> Exception:
    """What the end of a connection means for one message that was on its way."""
    if isinstance(error, pika.exceptions.ChannelClosedByBroker):
        return why_closed(pending.message, error.reply_code, error.reply_text)
    raised = Disconnected(str(error) or repr(error))
    raised.__cause__ = error
    return raised
