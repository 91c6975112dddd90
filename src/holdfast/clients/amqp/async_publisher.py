"""A publisher for asyncio: one connection for many messages, from any task. Its rules are those of `publisher`.

async with AsyncPublisher("amqps://broker.internal/", policy=broker) as publisher:
    await publisher.publish(b"...", "receipts", message_id="receipt-4711")
"""

from __future__ import annotations

import asyncio
import os
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING

from aio_pika.exceptions import AMQPError

from holdfast.clients.amqp.aio_pika import checked_url, open_connection
from holdfast.clients.amqp.async_link import AsyncLink, open_link
from holdfast.clients.amqp.errors import Disconnected
from holdfast.clients.amqp.message import Message, Properties, make
from holdfast.clients.amqp.settings import Settings
from holdfast.errors import DeadlineExceeded
from holdfast.policy import Policy
from holdfast.validation import Seconds

if TYPE_CHECKING:
    import ssl
    from typing import Self, Unpack


class AsyncPublisher:
    """Publishes messages; any task of one event loop may use it.

    Args:
        url: `amqp://` or `amqps://`.
        policy: deadline, retries, breaker and the rest of a message, connecting included; None for 10 s with retries.
        dead_after: seconds after which a broker that has gone silent is noticed, >= 1.
        confirm_timeout: seconds that one attempt waits for its confirm, where neither the policy nor a block ends it sooner.
        blocked_after: seconds that a broker which takes no messages is waited for, >= 0.
        ssl_context: for `amqps://`; None for the system's certificates.

    Raises:
        ValueError, TypeError: an argument is out of its range.
    """

    def __init__(
        self,
        url: str,
        *,
        policy: Policy | None = None,
        dead_after: Seconds = 5.0,
        confirm_timeout: Seconds = 10.0,
        blocked_after: Seconds = 1.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url = checked_url(url)
        self._settings = Settings(policy, dead_after, confirm_timeout, blocked_after)
        self._ssl_context = ssl_context
        self.policy = self._settings.policy
        self._link: AsyncLink | None = None
        self._home: tuple[int, asyncio.AbstractEventLoop | None] = (0, None)
        self._opening = asyncio.Lock()
        self._closed = False

    async def publish(
        self,
        body: bytes,
        routing_key: str,
        exchange: str = "",
        message_id: str | None = None,
        *,
        mandatory: bool = True,
        **properties: Unpack[Properties],
    ) -> str:
        """Publish a message and wait until the broker has it. Arguments, result and errors are those of `Publisher.publish`."""
        message = make(body, routing_key, exchange, message_id, mandatory=mandatory, **properties)
        await self.send(message)
        return message.message_id

    async def send(self, message: Message) -> None:
        """Publish a message that is made already. Raises as `publish` does."""
        await self._settings.guarding.arepeatedly(self._attempt, message)

    async def close(self) -> None:
        """Close the connection. Messages that are on their way are `Disconnected`; closing again does nothing."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None and self._home == (os.getpid(), asyncio.get_running_loop()):
            await link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _attempt(self, message: Message) -> None:
        link = self._link
        if link is None or not link.usable:
            link = await self._open()
        await link.publish(message, self._settings.confirm_timeout)

    async def _open(self) -> AsyncLink:
        """The link of all tasks; the first that needs one opens it, and the others wait, each until its own deadline."""
        home = (os.getpid(), asyncio.get_running_loop())
        if home != self._home:  # a child of a fork, or another loop: what was made elsewhere is of no use here
            self._home, self._link, self._opening = home, None, asyncio.Lock()
        async with self._opening:
            if self._closed:
                raise RuntimeError("the publisher is closed")
            link = self._link
            if link is None or not link.usable:
                link = self._link = await self._connect()
            return link

    async def _connect(self) -> AsyncLink:
        try:
            connection = await open_connection(self._url, self._settings.liveness, self._ssl_context, copy_context())
        except (AMQPError, OSError) as error:
            if isinstance(error, DeadlineExceeded):
                raise
            raise Disconnected(f"no connection to the broker: {str(error) or repr(error)}") from error
        try:
            return await open_link(connection, self._settings.blocked_after)
        except BaseException:
            connection.discard(Disconnected("there is no channel"))
            raise
