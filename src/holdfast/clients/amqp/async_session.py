"""One live connection of an async consumer: what it is given, and what is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

from aio_pika.exceptions import AMQPError
from aiormq.exceptions import ChannelNotFoundEntity

from holdfast.clients.amqp.aio_pika import Connection
from holdfast.clients.amqp.consumer_settings import delivered
from holdfast.clients.amqp.delivery import Delivered


class AsyncSession:
    """A connection that consumes one queue.

    Args:
        connection: open, and used by nobody else.
        take: is given each message with its tag.
    """

    def __init__(self, connection: Connection, take: Callable[[AsyncSession, Delivered, int], None]) -> None:
        self._connection = connection
        self._take = take
        self._tag = ""
        self._channel: Any = None
        self.lost = asyncio.Event()

    async def begin(self, queue: str, other: str, prefetch: int) -> None:
        """Make the queues that are missing, durable, and consume.

        Args:
            queue: whose messages.
            other: a queue that must exist beside it.
            prefetch: how many messages may be unacknowledged.
        """
        underlay = cast("Any", self._connection.transport).connection
        for name in (queue, other):
            await _make(underlay, name)
        self._channel = await underlay.channel(publisher_confirms=False)
        self._channel.closing.add_done_callback(self._on_closed)
        await self._channel.basic_qos(prefetch_count=prefetch)
        begun = await self._channel.basic_consume(queue, self._on_message)
        self._tag = begun.consumer_tag
        self._channel.on_consumer_cancel_callbacks.add(lambda *_: self.lost.set())

    async def done(self, tag: int) -> None:
        """Acknowledge a message. Where the session is over, the broker delivers it again."""
        with contextlib.suppress(AMQPError, OSError, RuntimeError):
            await self._channel.basic_ack(tag)

    async def back(self, tag: int) -> None:
        """Give a message back to its queue."""
        with contextlib.suppress(AMQPError, OSError, RuntimeError):
            await self._channel.basic_nack(tag, requeue=True)

    async def no_more(self) -> None:
        """Ask for no further messages."""
        with contextlib.suppress(AMQPError, OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._channel.basic_cancel(self._tag)

    async def close(self) -> None:
        """Close it; what is not acknowledged goes back to its queue."""
        self.lost.set()
        await self._connection.close()

    async def _on_message(self, message: Any) -> None:
        properties = message.header.properties
        self._take(self, delivered(message.delivery, properties, message.body, properties.message_type), message.delivery.delivery_tag)

    def _on_closed(self, closing: asyncio.Future[Any]) -> None:
        if not closing.cancelled():
            closing.exception()  # asked for, so that asyncio does not report it as lost
        self.lost.set()


async def _make(underlay: Any, name: str) -> None:
    # Asked first: one that exists may have been made with other arguments, and is right as it is.
    channel = await underlay.channel(publisher_confirms=False)
    try:
        await channel.queue_declare(name, passive=True)
    except ChannelNotFoundEntity:
        channel = await underlay.channel(publisher_confirms=False)
        await channel.queue_declare(name, durable=True)
    await channel.close()
