"""A consumer for asyncio; its rules are those of `consumer`, with tasks for threads.

    await AsyncConsumer("amqps://broker.internal/", "receipts", send_receipt, inbox=Inbox(store, name="receipts")).run()

A handler that is still at work when its deadline passes, or when draining is over, is cancelled, and its message goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import replace
from typing import TYPE_CHECKING

from aio_pika.exceptions import AMQPError

from holdfast.backoff import Backoff
from holdfast.clients.amqp.aio_pika import checked_url, open_connection
from holdfast.clients.amqp.async_publisher import AsyncPublisher
from holdfast.clients.amqp.async_session import AsyncSession
from holdfast.clients.amqp.consumer_settings import PAUSE, SIGNALS, ConsumerSettings, Stopped
from holdfast.clients.amqp.delivery import Delivered, Done, Move, Step
from holdfast.clients.amqp.errors import Disconnected
from holdfast.clients.amqp.judging import judge
from holdfast.clients.amqp.settings import Settings
from holdfast.errors import HoldfastError
from holdfast.policy import Policy
from holdfast.scope import deadline as bounded
from holdfast.servers.idempotency.inbox import Inbox
from holdfast.validation import Seconds

if TYPE_CHECKING:
    import ssl


class AsyncConsumer:
    """Consumes one queue. Arguments are those of `Consumer`; `handler` is `async def`.

    Args:
        url: `amqp://` or `amqps://`.
        queue: whose messages.
        handler: called with each message.
        inbox: knows which messages were handled.
        prefetch: how many messages are handled at once.
        deadline: seconds that a handler has.
        attempts: how often a message is tried.
        losses: how often its consumer may be lost.
        backoff: the waits between attempts.
        dead_letter: the queue's name; None for the queue's name and ".dead".
        drain: seconds that messages in hand have when the consumer is stopped.
        dead_after: seconds after which a broker that has gone silent is noticed.
        policy: guards connecting and publishing of copies.
        ssl_context: for `amqps://`; None for the system's certificates.

    Raises:
        ValueError, TypeError: an argument is out of its range.
    """

    def __init__(
        self,
        url: str,
        queue: str,
        handler: Callable[[Delivered], Awaitable[object]],
        *,
        inbox: Inbox | None = None,
        prefetch: int = 10,
        deadline: Seconds = 30.0,
        attempts: int = 5,
        losses: int = 20,
        backoff: Backoff = Backoff(base=0.1, cap=5.0),  # noqa: B008  (frozen)
        dead_letter: str | None = None,
        drain: Seconds = 10.0,
        dead_after: Seconds = 5.0,
        policy: Policy | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url = checked_url(url)
        self._handler = handler
        self._ssl_context = ssl_context
        self._settings = ConsumerSettings(
            queue,
            handler,
            inbox=inbox,
            prefetch=prefetch,
            deadline=deadline,
            attempts=attempts,
            losses=losses,
            backoff=backoff,
            dead_letter=dead_letter,
            drain=drain,
            policy=policy,
        )
        self._connecting = Settings(policy, dead_after, 10.0, 1.0)
        self._publisher = AsyncPublisher(url, policy=self._connecting.policy, dead_after=dead_after, ssl_context=ssl_context)
        self._stopping = asyncio.Event()
        self._moving: dict[str, asyncio.Event] = {}  # by message id: published again, and not acknowledged yet
        self._working: set[asyncio.Task[None]] = set()
        self._home = Context()

    def stop(self) -> None:
        """End `run`, drained."""
        self._stopping.set()

    async def run(self) -> None:
        """Consume until stopped. The broker may come and go meanwhile.

        Raises:
            aio_pika.exceptions.AMQPError: the broker refuses us for what we are: credentials, permissions, arguments.
            ssl.SSLCertVerificationError: its certificate is not to be trusted.
        """
        self._home = copy_context()
        try:
            with self._signals():
                while not self._stopping.is_set():
                    session = await self._connect()
                    if session is None:
                        await self._wait(self._stopping, PAUSE)
                    else:
                        await self._serve(session)
        finally:
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)
            await self._publisher.close()

    async def _connect(self) -> AsyncSession | None:
        try:
            return await self._connecting.guarding.arepeatedly(self._open)
        except HoldfastError:
            return None
        except (AMQPError, OSError) as error:
            if not judge(error)[1]:
                raise
            return None

    async def _open(self) -> AsyncSession:
        if self._stopping.is_set():
            raise Stopped
        connection = await open_connection(self._url, self._connecting.liveness, self._ssl_context, copy_context())
        session = AsyncSession(connection, self._take)
        try:
            await session.begin(self._settings.queue, self._settings.rules.dead_letter, self._settings.prefetch)
        except BaseException:
            connection.discard(Disconnected("there is no channel"))
            raise
        return session

    async def _serve(self, session: AsyncSession) -> None:
        lost = asyncio.ensure_future(session.lost.wait())
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({lost, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not session.lost.is_set():
                await session.no_more()
                if self._working:
                    await asyncio.wait(self._working, timeout=self._settings.drain)
        finally:
            lost.cancel()
            stopped.cancel()
            await session.close()

    def _take(self, session: AsyncSession, message: Delivered, tag: int) -> None:
        # Not in the context of connecting, whose deadline is over, and of whose policy the handler's calls are no part.
        task = asyncio.get_running_loop().create_task(self._handle(session, message, tag), context=self._home.copy())
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _handle(self, session: AsyncSession, message: Delivered, tag: int) -> None:
        if self._stopping.is_set() or session.lost.is_set():
            return  # it goes back to the queue with its connection
        moving = self._moving.get(message.message_id)
        if moving is not None:
            await self._wait(moving, PAUSE)
        step = self._settings.rules.before(message) or await self._work(message)
        if isinstance(step, Move):
            await self._move(session, step, tag)
        else:
            await session.done(tag)

    async def _move(self, session: AsyncSession, step: Move, tag: int) -> None:
        if step.delay:
            await self._wait(self._stopping, step.delay)
        # The copy comes at once, maybe to us. Were it to kill us before the original is acknowledged, there would be two of it.
        name = step.message.message_id
        moved = self._moving[name] = asyncio.Event()
        try:
            await self._publisher.send(step.message)
        except Exception:
            await self._wait(self._stopping, PAUSE)
            await session.back(tag)
        else:
            await session.done(tag)  # it has been written when this returns
        finally:
            moved.set()
            self._moving.pop(name, None)

    async def _work(self, message: Delivered) -> Step:
        rules, rng = self._settings.rules, self._settings.rng
        claimed = False
        try:
            if self._settings.inbox is None:
                claimed = True
                async with bounded(self._settings.deadline):
                    await self._handler(message)
                return Done()
            async with self._settings.inbox.once(message.message_id) as delivery:
                claimed = True
                if delivery.first:
                    async with bounded(self._settings.deadline):
                        await self._handler(replace(message, _delivery=delivery))
        except Exception as error:
            self._settings.report(message, error, claimed)
            return rules.after(message, error, claimed, rng)
        return Done()

    async def _wait(self, event: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)
