"""Consumers: each effect once, failures again, poison aside, and an end in order."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import holdfast
from holdfast import Backoff
from holdfast.clients.amqp import AsyncConsumer, Consumer, Delivered, Poison, Publisher
from holdfast.clients.amqp.pika import connect
from holdfast.replay.parts.rabbitmq import RabbitServer
from holdfast.servers.idempotency.inbox import Inbox
from holdfast.servers.idempotency.memory import MemoryStore
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime


class Running:
    """A consumer of either kind in a thread; the handler is plain, and made async where it must be."""

    def __init__(self, kind: str, url: str, queue: str, handler: Callable[[Delivered], Any], **options: Any) -> None:
        options = {"backoff": Backoff(base=0.02, cap=0.1), "drain": 2.0, **options}
        self._loop: asyncio.AbstractEventLoop | None = None
        if kind == "sync":
            self.consumer: Any = Consumer(url, queue, handler, **options)
            self.thread = threading.Thread(target=self.consumer.run)
        else:

            async def handle(message: Delivered) -> None:
                result = handler(message)
                if asyncio.iscoroutine(result):
                    await result

            async def main() -> None:
                self._loop = asyncio.get_running_loop()
                self.consumer = AsyncConsumer(url, queue, handle, **options)
                await self.consumer.run()

            self.thread = threading.Thread(target=lambda: asyncio.run(main()))
        self.thread.start()

    def ask_to_stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.consumer.stop)
        else:
            self.consumer.stop()

    def stop(self) -> None:
        self.ask_to_stop()
        self.thread.join()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def queue(broker: RabbitServer) -> str:
    name = f"c-{uuid.uuid4().hex}"
    connection = connect(broker.url)
    connection.channel().queue_declare(name, durable=True)
    connection.close()
    return name


@pytest.fixture
def publisher(broker: RabbitServer) -> Iterator[Publisher]:
    with Publisher(broker.url) as publisher:
        yield publisher


def wait(done: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def taken(broker: RabbitServer, queue: str) -> list[tuple[bytes, dict[str, Any]]]:
    connection = connect(broker.url)
    channel = connection.channel()
    found = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        found.append((got[2], got[1].headers))
    connection.close()
    return found


def test_an_id_that_was_handled_is_not_handled_again(broker: RabbitServer, queue: str, publisher: Publisher, kind: str) -> None:
    seen: list[str] = []
    for _ in range(3):
        publisher.publish(b"x", queue, message_id="same")
    publisher.publish(b"x", queue, message_id="other")
    running = Running(kind, broker.url, queue, lambda m: seen.append(m.message_id), inbox=Inbox(MemoryStore(), name="t"), prefetch=1)
    wait(lambda: "other" in seen)
    running.stop()
    assert seen == ["same", "other"]
    assert taken(broker, queue) == []


def test_a_failure_is_tried_again_and_the_last_goes_to_the_dead_letter_queue(
    broker: RabbitServer, queue: str, publisher: Publisher, kind: str
) -> None:
    attempts: list[int] = []

    def fail(message: Delivered) -> None:
        attempts.append(message.attempts)
        raise ValueError("not this one")

    publisher.publish(b"x", queue, headers={"mine": 1})
    running = Running(kind, broker.url, queue, fail, attempts=3, inbox=Inbox(MemoryStore()))
    wait(lambda: len(attempts) == 3)
    running.stop()
    ((body, headers),) = taken(broker, f"{queue}.dead")
    assert (attempts, body, headers["mine"], headers["x-holdfast-reason"]) == ([0, 1, 2], b"x", 1, "ValueError: not this one")
    assert (headers["x-holdfast-routing-key"], headers["x-holdfast-attempts"]) == (queue, 3)


def test_poison_and_messages_without_an_id_go_aside_at_once(broker: RabbitServer, queue: str, publisher: Publisher, kind: str) -> None:
    began = threading.Event()

    def refuse(message: Delivered) -> None:
        began.set()
        raise Poison("a receipt without an order")

    publisher.publish(b"poison", queue)
    connection = connect(broker.url)
    connection.channel().basic_publish("", queue, b"nameless")
    connection.close()
    running = Running(kind, broker.url, queue, refuse, inbox=Inbox(MemoryStore()))
    aside: list[tuple[bytes, dict[str, Any]]] = []
    assert began.wait(10)
    wait(lambda: aside.extend(taken(broker, f"{queue}.dead")) or len(aside) == 2)
    running.stop()
    reasons = {body: headers["x-holdfast-reason"] for body, headers in aside}
    assert reasons == {b"poison": "Poison: a receipt without an order", b"nameless": "it has no message id"}


def test_the_handler_runs_under_its_deadline(broker: RabbitServer, queue: str, publisher: Publisher, kind: str) -> None:
    left: list[float] = []
    publisher.publish(b"x", queue)
    running = Running(kind, broker.url, queue, lambda _: left.append(holdfast.remaining()), deadline=20.0)
    wait(lambda: bool(left))
    running.stop()
    assert 15.0 < left[0] <= 20.0


def test_a_handler_that_outruns_its_deadline_has_failed(broker: RabbitServer, queue: str, publisher: Publisher) -> None:
    ends: list[str] = []

    async def sleep(_message: Delivered) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            ends.append("cut off")
            raise

    publisher.publish(b"x", queue)
    running = Running("async", broker.url, queue, sleep, deadline=0.2, attempts=2)
    wait(lambda: len(ends) == 2)
    running.stop()
    assert "DeadlineExceeded" in taken(broker, f"{queue}.dead")[0][1]["x-holdfast-reason"]


def test_prefetch_is_how_many_are_handled_at_once(broker: RabbitServer, queue: str, publisher: Publisher, kind: str) -> None:
    lock, now, most, done = threading.Lock(), [0], [0], [0]

    def begin(change: int) -> None:
        with lock:
            now[0] += change
            most[0] = max(most[0], now[0])

    def work(_message: Delivered) -> None:
        begin(1)
        time.sleep(0.05)
        begin(-1)
        done[0] += 1

    async def awork(_message: Delivered) -> None:
        begin(1)
        await asyncio.sleep(0.05)
        begin(-1)
        done[0] += 1

    for _ in range(20):
        publisher.publish(b"x", queue)
    running = Running(kind, broker.url, queue, work if kind == "sync" else awork, prefetch=4)
    wait(lambda: done[0] == 20)
    running.stop()
    assert most[0] == 4


def test_stopping_lets_what_is_in_hand_finish_and_gives_the_rest_back(
    broker: RabbitServer, queue: str, publisher: Publisher, kind: str
) -> None:
    began, go_on, ended = threading.Event(), threading.Event(), []

    def work(message: Delivered) -> None:
        began.set()
        go_on.wait(10)
        ended.append(message.body)

    async def awork(message: Delivered) -> None:
        began.set()
        await asyncio.to_thread(go_on.wait, 10)
        ended.append(message.body)

    for n in range(5):
        publisher.publish(b"%d" % n, queue)
    running = Running(kind, broker.url, queue, work if kind == "sync" else awork, prefetch=1)
    assert began.wait(10)
    running.ask_to_stop()
    go_on.set()
    watch = Stopwatch()
    running.thread.join()
    assert watch.took < 1.5
    assert ended == [b"0"]
    assert [body for body, _ in taken(broker, queue)] == [b"1", b"2", b"3", b"4"]


def test_draining_has_an_end_and_what_is_not_done_by_then_comes_again(
    broker: RabbitServer, queue: str, publisher: Publisher, kind: str
) -> None:
    began, release = threading.Event(), threading.Event()

    def hang(_message: Delivered) -> None:
        began.set()
        release.wait(20)

    async def ahang(_message: Delivered) -> None:
        began.set()
        await asyncio.sleep(20)

    publisher.publish(b"x", queue)
    running = Running(kind, broker.url, queue, hang if kind == "sync" else ahang, drain=0.5)
    assert began.wait(10)
    watch = Stopwatch()
    running.stop()
    assert 0.4 < watch.elapsed
    assert watch.took < 2.0
    release.set()
    wait(lambda: [body for body, _ in taken(broker, queue)] == [b"x"])


def test_a_message_that_is_at_work_elsewhere_is_left_to_whoever_works_on_it(
    broker: RabbitServer, queue: str, publisher: Publisher, kind: str
) -> None:
    store, seen = MemoryStore(), []
    inbox = Inbox(store, name="t")
    with inbox.once("m-1"):
        publisher.publish(b"x", queue, message_id="m-1")
        running = Running(kind, broker.url, queue, lambda m: seen.append(m.message_id), inbox=inbox, attempts=2)
        time.sleep(1.0)
        assert seen == []
    time.sleep(0.5)
    running.stop()
    assert seen == []
    assert taken(broker, queue) + taken(broker, f"{queue}.dead") == []


def test_headers_from_the_wire_are_taken_for_what_they_are(broker: RabbitServer, queue: str, publisher: Publisher, kind: str) -> None:
    seen: list[Delivered] = []
    for value in (-5, 10**15, "many", [1], True):
        publisher.publish(b"x", queue, headers={"x-holdfast-attempts": value, "x-holdfast-losses": value, "x-holdfast-exchange": value})
    running = Running(kind, broker.url, queue, seen.append)
    wait(lambda: len(seen) == 5)
    running.stop()
    assert {(message.attempts, message.losses) for message in seen} == {(0, 0)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prefetch": 0}, "prefetch must be a whole number >= 1"),
        ({"prefetch": 65536}, r"\[1, 65535\]"),
        ({"attempts": 0}, "attempts"),
        ({"losses": 0}, "losses"),
        ({"deadline": 0}, "deadline"),
        ({"drain": -1}, "drain"),
        ({"queue": ""}, "queue"),
    ],
)
@pytest.mark.parametrize("cls", [Consumer, AsyncConsumer])
def test_arguments_name_their_range(cls: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cls(**{"url": "amqp://127.0.0.1/", "queue": "q", "handler": print, **options})


_PROGRAM = """
import sys, time, asyncio, logging
from holdfast.clients.amqp import Consumer, AsyncConsumer
logging.disable(50)
def say(word):
    sys.stdout.write(word + "\\n"); sys.stdout.flush()
def work(message):
    say("began"); time.sleep(0.5); say("ended")
async def awork(message):
    say("began"); await asyncio.sleep(0.5); say("ended")
if sys.argv[3] == "sync":
    Consumer(sys.argv[1], sys.argv[2], work).run()
else:
    async def main():
        await AsyncConsumer(sys.argv[1], sys.argv[2], awork).run()
    asyncio.run(main())
say("over")
"""


def test_sigterm_drains(broker: RabbitServer, queue: str, publisher: Publisher, kind: str) -> None:
    publisher.publish(b"x", queue)
    program = subprocess.Popen([sys.executable, "-c", _PROGRAM, broker.url, queue, kind], stdout=subprocess.PIPE, text=True)
    assert program.stdout is not None
    assert program.stdout.readline() == "began\n"
    os.kill(program.pid, signal.SIGTERM)
    said, _ = program.communicate(timeout=10)
    assert (said.split(), program.returncode) == (["ended", "over"], 0)
    assert taken(broker, queue) == []


def test_what_kills_consumers_goes_aside(broker: RabbitServer, queue: str, publisher: Publisher, kind: str) -> None:
    found: list[tuple[bytes, dict[str, Any]]] = []
    publisher.publish(b"x", queue)
    code = _PROGRAM.replace("time.sleep(0.5)", "__import__('os')._exit(9)").replace("await asyncio.sleep(0.5)", "__import__('os')._exit(9)")
    code = code.replace(", work)", ", work, losses=2)").replace(", awork)", ", awork, losses=2)")
    for _ in range(3):
        command = [sys.executable, "-c", code, broker.url, queue, kind]
        assert subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=30).returncode == 9
    running = Running(kind, broker.url, queue, lambda _: pytest.fail("it was to be put aside"), losses=2)
    wait(lambda: found.extend(taken(broker, f"{queue}.dead")) or bool(found))
    running.stop()
    # A consumer that dies between a copy's confirm and the original's acknowledgement leaves both, under one id.
    assert {headers["x-holdfast-reason"] for _, headers in found} == {"its consumer was lost 3 times"}
