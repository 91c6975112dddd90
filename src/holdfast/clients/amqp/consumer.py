"""A consumer for blocking code: each message's effect once, whatever becomes of connections, brokers and consumers.

    def send_receipt(message):
        database = message.connection(sqlalchemy.Connection)
        ...

    Consumer("amqps://broker.internal/", "receipts", send_receipt, inbox=Inbox(SQLStore(engine), name="receipts")).run()

1. The handler runs under a deadline, in one of as many threads as the broker hands out messages at once (`prefetch`, a bulkhead). What
   becomes of the message is in `delivery`: acknowledged after its effect, tried again, or put aside.
2. The connection is served by the thread that called `run`, so heartbeats go out while handlers work. One that is lost is made anew, for as
   long as the consumer runs; messages that were not acknowledged come again, and the inbox knows which were handled.
3. SIGTERM and SIGINT (in the main thread), or `stop`, drain it: no new messages, and those in hand have `drain` seconds. What is not done
   by then goes back to the queue.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pika.exceptions

from holdfast.backoff import Backoff
from holdfast.clients.amqp.consumer_settings import PAUSE, SIGNALS, ConsumerSettings, Stopped
from holdfast.clients.amqp.delivery import Delivered, Done, Move, Step
from holdfast.clients.amqp.judging import judge
from holdfast.clients.amqp.pika import Connection, parameters_of
from holdfast.clients.amqp.publisher import Publisher
from holdfast.clients.amqp.session import Session
from holdfast.clients.amqp.settings import Settings
from holdfast.drivers import clock
from holdfast.errors import HoldfastError
from holdfast.policy import Policy
from holdfast.scope import deadline as bounded
from holdfast.servers.idempotency.inbox import Inbox
from holdfast.validation import Seconds

if TYPE_CHECKING:
    from pika.connection import Parameters

    Item = tuple[Session, Delivered, int]


class Consumer:
    """Consumes one queue.

    Args:
        url: `amqp://` or `amqps://`, or pika's parameters.
        queue: whose messages. One that does not exist is made, durable.
        handler: called with each message. What it returns is not looked at; an exception is a failure.
        inbox: knows which messages were handled; None handles every delivery. Its `lease` should be longer than `deadline`.
        prefetch: how many messages are handled at once, and how many the broker hands out, 1 to 65535.
        deadline: seconds that a handler has, as ambient deadline.
        attempts: how often a message is tried before it goes to the dead-letter queue, >= 1.
        losses: how often its consumer may be lost before it does, >= 1.
        backoff: the waits between attempts.
        dead_letter: the queue's name; None for the queue's name and ".dead".
        drain: seconds that messages in hand have when the consumer is stopped, >= 0.
        dead_after: seconds after which a broker that has gone silent is noticed, >= 1.
        policy: guards connecting and publishing of copies; None for 10 s with retries.

    Raises:
        ValueError, TypeError: an argument is out of its range.
    """

    def __init__(
        self,
        url: str | Parameters,
        queue: str,
        handler: Callable[[Delivered], object],
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
    ) -> None:
        self._parameters = parameters_of(url)
        self._handler = handler
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
        self._publisher = Publisher(url, policy=self._connecting.policy, dead_after=dead_after)
        self._stopping = threading.Event()
        self._moving: dict[str, threading.Event] = {}  # by message id: published again, and not acknowledged yet

    def stop(self) -> None:
        """End `run`, drained. From any thread, and from a signal's handler."""
        self._stopping.set()

    def run(self) -> None:
        """Consume until stopped. The broker may come and go meanwhile.

        Raises:
            pika.exceptions.AMQPError: the broker refuses us for what we are: credentials, permissions, arguments.
            ssl.SSLCertVerificationError: its certificate is not to be trusted.
        """
        hands = _Hands(self._settings.prefetch, self._handle)
        try:
            with self._signals():
                while not self._stopping.is_set():
                    session = self._connect(hands.give)
                    if session is None:
                        self._stopping.wait(PAUSE)
                        continue
                    self._serve(session, hands)
        finally:
            hands.dismiss()
            self._publisher.close()

    def _connect(self, take: Callable[[Item], None]) -> Session | None:
        try:
            return self._connecting.guarding.repeatedly(self._open, take)
        except HoldfastError:
            return None
        except (pika.exceptions.AMQPError, OSError) as error:
            if not judge(error)[1]:
                raise
            return None

    def _open(self, take: Callable[[Item], None]) -> Session:
        if self._stopping.is_set():
            raise Stopped
        connection = Connection(self._parameters, self._connecting.liveness)
        try:
            made: list[Session] = []
            settings = self._settings
            other = settings.rules.dead_letter
            session = Session(connection, settings.queue, other, settings.prefetch, lambda message, tag: take((made[0], message, tag)))
            made.append(session)
        except BaseException as error:
            connection.discard(error if isinstance(error, Exception) else ConnectionAbortedError())
            raise
        return session

    def _serve(self, session: Session, hands: _Hands) -> None:
        try:
            session.serve(self._stopping.is_set)
            session.no_more()
            end = clock.now() + self._settings.drain
            session.serve(lambda: hands.idle or clock.now() >= end)
        except pika.exceptions.AMQPError:
            pass  # lost: what was in hand is delivered again
        finally:
            session.close()

    # In one of the hands' threads.

    def _handle(self, item: Item) -> None:
        session, message, tag = item
        if self._stopping.is_set() or not session.open:
            return  # it goes back to the queue with its connection
        moving = self._moving.get(message.message_id)
        if moving is not None:
            moving.wait(PAUSE)
        step = self._settings.rules.before(message) or self._work(message)
        if isinstance(step, Move):
            self._move(session, step, tag)
        else:
            session.done(tag)

    def _move(self, session: Session, step: Move, tag: int) -> None:
        if step.delay:
            self._stopping.wait(step.delay)
        # The copy comes at once, maybe to us. Were it to kill us before the original is acknowledged, there would be two of it.
        name = step.message.message_id
        moved = self._moving[name] = threading.Event()
        try:
            self._publisher.send(step.message)
        except Exception:
            moved.set()
            self._stopping.wait(PAUSE)
            session.back(tag)
        else:
            session.done(tag, moved.set)
            moved.wait(PAUSE)
        finally:
            self._moving.pop(name, None)

    def _work(self, message: Delivered) -> Step:
        rules, rng = self._settings.rules, self._settings.rng
        claimed = False
        try:
            if self._settings.inbox is None:
                claimed = True
                with bounded(self._settings.deadline):
                    self._handler(message)
                return Done()
            with self._settings.inbox.once(message.message_id) as delivery:
                claimed = True
                if delivery.first:
                    with bounded(self._settings.deadline):
                        self._handler(replace(message, _delivery=delivery))
        except Exception as error:
            self._settings.report(message, error, claimed)
            return rules.after(message, error, claimed, rng)
        except BaseException as error:  # sys.exit() in a thread of ours is no reason to lose the thread
            self._settings.report(message, error, claimed)
            return rules.after(message, RuntimeError(repr(error)), claimed, rng)
        return Done()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Hands:
    """The threads that handle messages, as many as are needed and no more than there may be. They end with the process: a handler that
    hangs cannot be stopped, and must not keep the process.
    """

    def __init__(self, most: int, handle: Callable[[Item], None]) -> None:
        self._most = most
        self._handle = handle
        self._items: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._open = 0  # given and not handled

    @property
    def idle(self) -> bool:
        """Whether nothing is in hand."""
        return self._open == 0

    def give(self, item: Item) -> None:
        """Let one of them handle it."""
        with self._lock:
            self._open += 1
            hire = self._open > self._threads < self._most
            self._threads += hire
        if hire:
            threading.Thread(target=self._work, name=f"holdfast-amqp-{os.getpid()}", daemon=True).start()
        self._items.put(item)

    def dismiss(self) -> None:
        """Let them end as soon as they have nothing in hand."""
        for _ in range(self._threads):
            self._items.put(None)

    def _work(self) -> None:
        while True:
            item = self._items.get()
            if item is None:
                return
            try:
                self._handle(item)
            finally:
                with self._lock:
                    self._open -= 1
