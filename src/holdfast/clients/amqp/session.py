"""One live connection of a blocking consumer: what it is given, and what is acknowledged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, cast

import pika.exceptions

from holdfast.clients.amqp.consumer_settings import delivered
from holdfast.clients.amqp.delivery import Delivered
from holdfast.clients.amqp.errors import Disconnected
from holdfast.clients.amqp.pika import Connection
from holdfast.scope import deadline

# How often the loop looks whether it is to end: a signal's handler may only set a flag.
_LOOK = 0.1
_CLOSE_TIMEOUT = 1.0


class Session:
    """A connection that consumes one queue. The thread that made it serves it; `done` may be called by any.

    Args:
        connection: open, and used by nobody else.
        queue: whose messages.
        other: a queue that must exist beside it; what is missing is made, durable.
        prefetch: how many messages may be unacknowledged.
        take: is given each message with its tag; called by the thread that serves.
    """

    def __init__(self, connection: Connection, queue: str, other: str, prefetch: int, take: Callable[[Delivered, int], None]) -> None:
        self._connection = connection
        self._impl: Any = connection._impl
        self._take = take
        self.open = True
        for name in (queue, other):
            self._make(name)
        channel: Any = connection.channel()
        channel.basic_qos(prefetch_count=prefetch)
        self._channel = channel._impl
        self._channel.add_on_close_callback(self._on_closed)
        self._channel.add_on_cancel_callback(lambda _: self._on_closed(None, Disconnected("the broker cancelled the consumer")))
        self._tag = self._channel.basic_consume(queue, self._on_message)

    def serve(self, until: Callable[[], bool]) -> None:
        """Hand messages over until the answer is true.

        Raises:
            pika.exceptions.AMQPError: the connection is lost.
        """
        if until():
            return
        over = [False]

        def look() -> None:
            over[0] = until()
            if not over[0]:
                self._impl._adapter_call_later(_LOOK, look)

        look()
        cast("Any", self._connection)._flush_output(lambda: over[0])

    def done(self, tag: int, then: Callable[[], object] | None = None) -> None:
        """Acknowledge a message, and call `then` when that has been written. Where the session is over, the broker delivers it again."""

        def written() -> None:
            if not self._impl.is_closed and self._impl._get_write_buffer_size():
                self._impl._adapter_call_later(0.001, written)
            elif then is not None:
                then()

        def acknowledge() -> None:
            self._channel.basic_ack(tag)
            if then is not None:
                written()

        self._call(acknowledge)

    def back(self, tag: int) -> None:
        """Give a message back to its queue."""
        self._call(lambda: self._channel.basic_nack(tag, requeue=True))

    def no_more(self) -> None:
        """Ask for no further messages; those that were handed over can still be acknowledged."""
        self._call(lambda: self._channel.basic_cancel(self._tag))

    def close(self) -> None:
        """Close it; what is not acknowledged goes back to its queue."""
        self.open = False
        with contextlib.suppress(pika.exceptions.AMQPError), deadline(_CLOSE_TIMEOUT):
            if self._connection.is_open:
                self._connection.close()

    def _call(self, act: Callable[[], object]) -> None:
        def acting() -> None:
            with contextlib.suppress(pika.exceptions.AMQPError):
                act()

        with contextlib.suppress(Exception):  # the loop is closed with its connection
            self._impl.ioloop.add_callback_threadsafe(acting)

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._take(delivered(method, properties, body, properties.type), method.delivery_tag)

    def _on_closed(self, _channel: Any, error: Exception) -> None:
        if self.open and not self._impl.is_closed:
            self._impl._terminate_stream(error)

    def _make(self, name: str) -> None:
        # Asked first: one that exists may have been made with other arguments, and is right as it is.
        channel: Any = self._connection.channel()
        try:
            channel.queue_declare(name, passive=True)
            channel.close()
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != 404:
                raise
            channel = self._connection.channel()
            channel.queue_declare(name, durable=True)
            channel.close()
