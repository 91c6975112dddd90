"""One live connection of an async publisher: a channel in confirm mode, and what the broker says about taking messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

from aiormq import spec
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelInvalidStateError,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
)
from aiormq.exceptions import PublishError as Returned

from holdfast.clients.amqp.aio_pika import Connection
from holdfast.clients.amqp.errors import Blocked, Disconnected, Nacked, Unroutable
from holdfast.clients.amqp.judging import why_closed
from holdfast.clients.amqp.message import Message
from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock

# aiormq keeps AMQP's reply codes to itself, as classes.
_CODES = {ChannelAccessRefused: 403, ChannelNotFoundEntity: 404, ChannelPreconditionFailed: 406}

# Timers of a loop ring by its clock, a rounding apart from ours.
_EARLY = 2e-3


class AsyncLink:
    """A connection that only publishes; made by `open_link`.

    Args:
        connection: open, and used by nobody else.
        channel: aiormq's, in confirm mode.
        blocked_after: seconds that a blocked connection is waited for.
    """

    def __init__(self, connection: Connection, channel: Any, blocked_after: float) -> None:
        self._connection = connection
        self._channel = channel
        self._blocked_after = blocked_after
        self._blocked_since: float | None = None
        self._reason = ""
        self._waits: set[asyncio.Timeout] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._listen_for_blocked(channel.connection)

    @property
    def usable(self) -> bool:
        """Whether a message may be handed to it, in this event loop."""
        return not self._channel.is_closed and self._channel.connection.is_opened and self._loop is asyncio.get_running_loop()

    async def publish(self, message: Message, timeout: float) -> None:
        """Send it and wait until the broker has confirmed it. Raises as `Link.publish` does.

        Args:
            message: to be sent.
            timeout: seconds for the confirm where no ambient deadline ends first.
        """
        began = clock.now()
        since = self._blocked_since
        if since is not None and began - since >= self._blocked_after:
            raise Blocked(message.message_id, self._reason, False)
        limit = ambient.get()
        # A moment before whoever cuts off at the deadline: a blocked broker is to be told from a silent one.
        wait = asyncio.timeout(timeout if limit is None else min(timeout, limit.at - began - _EARLY))
        self._waits.add(wait)
        try:
            async with wait:
                await self._confirmed(message)
        except TimeoutError:
            raise self._overdue(message, began, limit, timeout) from None
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # nobody cancelled us: it is how aiormq ends what a closed channel leaves
                raise Disconnected("the channel was closed") from error
            raise
        except (AMQPError, ChannelInvalidStateError, OSError) as error:
            raise self._for(message, error) from error
        except Exception as error:
            await asyncio.sleep(0)  # what aiormq could not read ends its channel, in a task
            if self.usable:
                raise
            raise Disconnected(f"the broker sent what cannot be read: {error!r}") from error
        finally:
            self._waits.discard(wait)

    async def close(self) -> None:
        """Close it in order, within a second or so."""
        if self._timer is not None:
            self._timer.cancel()
        await self._connection.close()

    def give_up(self, reason: str) -> None:
        """Close it without a word; whoever waits is told."""
        if self._timer is not None:
            self._timer.cancel()
        self._connection.discard(ConnectionAbortedError(reason))

    def _confirmed(self, message: Message) -> Awaitable[object]:
        confirmed: Awaitable[object] = self._channel.basic_publish(
            message.body,
            exchange=message.exchange,
            routing_key=message.routing_key,
            properties=spec.Basic.Properties(message_type=message.kind, **message.properties),
            mandatory=message.mandatory,
        )
        return confirmed

    def _overdue(self, message: Message, began: float, limit: Deadline | None, timeout: float) -> Exception:
        """What to raise where the confirm has not come in time."""
        if self._blocked_since is not None:
            return Blocked(message.message_id, self._reason, True)
        # Somebody who was heard since then is slow; somebody who was not may be gone.
        if self._connection.heard < began:
            self.give_up("nothing was heard from the broker while a message waited for its confirm")
        now = clock.now()
        if limit is not None and now >= limit.at - _EARLY:
            return limit.exceeded(max(now, limit.at))
        return TimeoutError(f"message {message.message_id}: no confirm within {timeout:g} s")

    def _for(self, message: Message, error: Exception) -> Exception:
        name = message.message_id
        if isinstance(error, Returned):
            returned = cast("spec.Basic.Return", error.frame)
            return Unroutable(name, f"{returned.reply_code} {returned.reply_text}")
        if isinstance(error, DeliveryError):
            return Nacked(name, "the broker refused the message")
        if isinstance(error, ChannelClosed):
            self.give_up("the broker closed the channel")
            return why_closed(message, _CODES.get(type(error), 0), str(error))
        return Disconnected(str(error) or repr(error))

    def _listen_for_blocked(self, connection: Any) -> None:
        """Aiormq keeps this to itself, so its two handlers are surrounded."""
        blocked, unblocked = connection._Connection__handle_connection_blocked, connection._Connection__handle_connection_unblocked

        async def on_blocked(frame: Any) -> None:
            await blocked(frame)
            if self._blocked_since is None:
                self._blocked_since = clock.now()
                self._reason = f"the broker takes no messages: {str(frame.reason)[:200]}"
                self._timer = self._loop.call_later(self._blocked_after, self._still_blocked)

        async def on_unblocked(frame: Any) -> None:
            await unblocked(frame)
            self._blocked_since = None
            if self._timer is not None:
                self._timer.cancel()

        connection._Connection__handle_connection_blocked = on_blocked
        connection._Connection__handle_connection_unblocked = on_unblocked

    def _still_blocked(self) -> None:
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(self._loop.time())


async def open_link(connection: Connection, blocked_after: float) -> AsyncLink:
    """Open a channel in confirm mode on a connection that has just been made.

    Raises:
        aio_pika.exceptions.AMQPError, OSError: there is none to be had.
    """
    underlay = cast("Any", connection.transport).connection
    channel = await underlay.channel(publisher_confirms=True, on_return_raises=True)
    return AsyncLink(connection, channel, blocked_after)
