"""Publishers: what `publish` promises, while the broker is well and while it is not."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pika
import pytest

import holdfast
from holdfast import Backoff, Breaker, Bulkhead, Policy, Retry
from holdfast.clients.amqp import AsyncPublisher, Blocked, Disconnected, Nacked, Publisher, TooLarge, Unroutable
from holdfast.replay.parts.rabbitmq import RabbitServer
from holdfast.testing.faults import FaultProxy, Reset, Silence
from stopwatch import Stopwatch

# As the broker of these tests has it, see conftest.py.
MAX_MESSAGE = 4_000_000


class Driver:
    """A publisher of either kind, called from blocking code."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.kind = kind
        if kind == "sync":
            self.publisher: Any = Publisher(url, **options)
        else:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
            self.publisher = AsyncPublisher(url, **options)

    def publish(self, *args: Any, **kwargs: Any) -> str:
        if self.kind == "sync":
            return self.publisher.publish(*args, **kwargs)
        return self._run(self.publisher.publish(*args, **kwargs))

    def many(self, count: int, queue: str) -> list[str]:
        if self.kind == "sync":
            with ThreadPoolExecutor(16) as pool:
                return list(pool.map(lambda n: self.publisher.publish(b"%d" % n, queue), range(count)))

        async def together() -> list[str]:
            return await asyncio.gather(*(self.publisher.publish(b"%d" % n, queue) for n in range(count)))

        return self._run(together())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        if self.kind == "sync":
            self.publisher.close()
        elif self._thread.is_alive():
            self._run(self.publisher.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


Make = Callable[..., Driver]


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Driver] = []

    def maker(url: str, **options: Any) -> Driver:
        made.append(Driver(request.param, url, **options))
        return made[-1]

    yield maker
    for driver in made:
        driver.close()


class Queue:
    """A queue of the test's own."""

    def __init__(self, broker: RabbitServer, **arguments: Any) -> None:
        self.name = f"q-{uuid.uuid4().hex}"
        self._connection = pika.BlockingConnection(pika.URLParameters(broker.url))
        self._channel = self._connection.channel()
        self._channel.queue_declare(self.name, durable=True, arguments=arguments)

    def take(self) -> list[tuple[bytes, Any]]:
        found = []
        while True:
            method, properties, body = self._channel.basic_get(self.name, auto_ack=True)
            if method is None:
                return found
            found.append((body, properties))

    def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()
        self._connection._impl.ioloop.close()


@pytest.fixture
def queue(broker: RabbitServer) -> Iterator[Queue]:
    queue = Queue(broker)
    yield queue
    queue.close()


def quick(**options: Any) -> Policy:
    return Policy("broker", **{"deadline": 5.0, "attempt_timeout": 1.0, "retry": Retry(attempts=50, backoff=Backoff(cap=0.3)), **options})


def test_a_message_arrives_persistent_with_its_properties(broker: RabbitServer, queue: Queue, make: Make) -> None:
    given = make(broker.url).publish(
        b"body", queue.name, message_id="m-1", headers={"a": 1, "b": ["x"]}, content_type="text/plain", correlation_id="c", kind="receipt",
        reply_to="r", priority=3, expires=60,
    )  # fmt: skip
    ((body, properties),) = queue.take()
    assert (given, body, properties.message_id, properties.delivery_mode) == ("m-1", b"body", "m-1", 2)
    assert (properties.headers, properties.content_type, properties.correlation_id) == ({"a": 1, "b": ["x"]}, "text/plain", "c")
    assert (properties.type, properties.reply_to, properties.priority, properties.expiration) == ("receipt", "r", 3, "60000")


def test_a_message_gets_an_id_of_its_own(broker: RabbitServer, queue: Queue, make: Make) -> None:
    publisher = make(broker.url)
    ids = {publisher.publish(b"", queue.name), publisher.publish(b"", queue.name)}
    assert {properties.message_id for _, properties in queue.take()} == ids
    assert len(ids) == 2


def test_many_threads_and_tasks_share_one_connection(broker: RabbitServer, queue: Queue, make: Make) -> None:
    with FaultProxy(to=(broker.host, broker.port)) as proxy:
        publisher = make(broker.url_at("127.0.0.1", proxy.port))
        ids = publisher.many(200, queue.name)
        assert proxy.counts.connections == 1
        publisher.close()
    assert sorted(ids) == sorted(properties.message_id for _, properties in queue.take())


def test_mandatory_without_a_queue_is_unroutable_and_the_breaker_does_not_mind(broker: RabbitServer, make: Make) -> None:
    policy = quick(breaker=Breaker(min_calls=1, consecutive=1))
    publisher = make(broker.url, policy=policy)
    watch = Stopwatch()
    with pytest.raises(Unroutable, match="NO_ROUTE") as caught:
        publisher.publish(b"x", "no-such-queue", message_id="lost")
    assert caught.value.message_id == "lost"
    with pytest.raises(Unroutable, match="NOT_FOUND"):
        publisher.publish(b"x", "key", "no-such-exchange")
    assert watch.took < 1, "it is not tried again"
    assert policy.breaker.state == "closed"
    publisher.publish(b"x", "no-such-queue", mandatory=False)


def test_a_message_larger_than_the_broker_allows_is_not_tried_again(broker: RabbitServer, make: Make, queue: Queue) -> None:
    policy = quick(breaker=Breaker(min_calls=1, consecutive=1))
    publisher = make(broker.url, policy=policy)
    watch = Stopwatch()
    with pytest.raises(TooLarge, match="larger than"):
        publisher.publish(b"x" * (MAX_MESSAGE + 1), queue.name)
    assert watch.took < 1
    assert policy.breaker.state == "closed"
    assert len(publisher.many(5, queue.name)) == 5
    publisher.close()


def test_one_message_to_a_missing_exchange_does_not_fail_the_others(broker: RabbitServer, queue: Queue) -> None:
    with Publisher(broker.url, policy=quick()) as publisher, ThreadPoolExecutor(8) as pool:
        good = [pool.submit(publisher.publish, b"x", queue.name) for _ in range(20)]
        bad = pool.submit(publisher.publish, b"x", "key", "no-such-exchange")
        good += [pool.submit(publisher.publish, b"x", queue.name) for _ in range(20)]
        assert isinstance(bad.exception(), Unroutable)
        ids = {one.result() for one in good}
    assert {properties.message_id for _, properties in queue.take()} == ids


def test_a_queue_that_is_full_refuses(broker: RabbitServer, make: Make) -> None:
    full = Queue(broker, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    publisher = make(broker.url, policy=quick(retry=None))
    publisher.publish(b"x", full.name)
    with pytest.raises(Nacked):
        publisher.publish(b"x", full.name)
    full.close()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"body": "text"}, TypeError, "body must be bytes"),
        ({"body": b"", "routing_key": "k" * 256}, ValueError, "routing_key must have at most 255 bytes, got 256"),
        ({"body": b"", "message_id": ""}, ValueError, "message_id must not be empty"),
        ({"body": b"", "priority": 256}, ValueError, r"priority must be a whole number in \[0, 255\]"),
        ({"body": b"", "expires": 0}, ValueError, "expires must be > 0"),
        ({"body": b"", "headers": {"x": object()}}, TypeError, "header 'x' must be"),
        ({"body": b"", "headers": {"x": [{"y": 2**63}]}}, ValueError, "64 bits"),
    ],
)
def test_what_amqp_cannot_carry_is_said_before_anything_is_sent(
    make: Make, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        make("amqp://127.0.0.1:1/").publish(**{"routing_key": "q", **arguments})


@pytest.mark.parametrize(
    ("options", "said"),
    [({"confirm_timeout": 0}, "confirm_timeout"), ({"blocked_after": -1}, "blocked_after"), ({"dead_after": 0.2}, "dead_after")],
)
def test_arguments_name_their_range(make: Make, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make("amqp://127.0.0.1/", **options)


@pytest.mark.realtime
def test_a_stopped_broker_ends_at_the_deadline_and_goes_on_when_it_does(broker: RabbitServer, queue: Queue, make: Make) -> None:
    publisher = make(broker.url, policy=quick(deadline=2.0))
    publisher.publish(b"before", queue.name)
    broker.suspend()
    watch = Stopwatch()
    with pytest.raises(holdfast.DeadlineExceeded):
        publisher.publish(b"during", queue.name, message_id="during")
    assert watch.took < 2.3
    broker.resume()
    publisher.publish(b"during", queue.name, message_id="during")
    assert {body for body, _ in queue.take()} == {b"before", b"during"}


@pytest.mark.realtime
def test_a_flow_that_died_silently_is_left_and_the_message_goes_out_under_its_id(broker: RabbitServer, queue: Queue, make: Make) -> None:
    with FaultProxy(to=(broker.host, broker.port)) as proxy:
        publisher = make(broker.url_at("127.0.0.1", proxy.port), policy=quick())
        publisher.publish(b"warm", queue.name)
        proxy.set(Silence())
        threading.Timer(0.5, proxy.clear).start()  # for new connections; what the old one holds comes as well, later
        watch = Stopwatch()
        publisher.publish(b"x", queue.name, message_id="receipt")
        assert watch.took < 3
        publisher.close()
    assert {properties.message_id for body, properties in queue.take() if body == b"x"} == {"receipt"}


@pytest.mark.realtime
def test_an_idle_publisher_keeps_its_connection_and_replaces_a_broken_one_unnoticed(broker: RabbitServer, queue: Queue, make: Make) -> None:
    with FaultProxy(to=(broker.host, broker.port)) as proxy:
        publisher = make(broker.url_at("127.0.0.1", proxy.port), policy=quick(retry=None), dead_after=2.0)
        publisher.publish(b"1", queue.name)
        time.sleep(5.0)  # the broker would close a connection that sends no heartbeats
        assert proxy.counts.open == 1
        publisher.publish(b"2", queue.name)
        assert proxy.counts.connections == 1
        proxy.set(Reset())
        time.sleep(0.3)
        proxy.clear()
        publisher.publish(b"3", queue.name)
        assert proxy.counts.connections == 2
        publisher.close()


@pytest.mark.realtime
def test_a_broker_that_takes_nothing_is_blocked_in_time_and_then_at_once(broker: RabbitServer, queue: Queue, make: Make) -> None:
    publisher = make(broker.url, policy=quick(attempt_timeout=None), blocked_after=0.5)
    publisher.publish(b"1", queue.name)
    broker.block()
    try:
        watch = Stopwatch()
        with pytest.raises(Blocked, match="low on memory") as caught:
            publisher.publish(b"2", queue.name)
        assert watch.took < 1.5
        assert caught.value.sent
        time.sleep(0.6)
        watch = Stopwatch()
        with pytest.raises(Blocked) as caught:
            publisher.publish(b"3", queue.name)
        assert watch.took < 0.2
        assert not caught.value.sent
    finally:
        broker.unblock()
    end = time.monotonic() + 5
    while True:
        try:
            publisher.publish(b"4", queue.name)
            break
        except Blocked:  # it has not said yet that it goes on
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.mark.realtime
def test_nobody_there_is_disconnected_after_the_attempts_and_then_refused(make: Make) -> None:
    policy = quick(retry=Retry(attempts=2), breaker=Breaker(min_calls=2))
    publisher = make("amqp://127.0.0.1:1/", policy=policy)
    with pytest.raises(Disconnected, match="no connection to the broker"):
        publisher.publish(b"x", "q")
    with pytest.raises(holdfast.BreakerOpen):
        publisher.publish(b"x", "q")


@pytest.mark.realtime
def test_a_caller_with_a_short_deadline_does_not_wait_for_one_that_connects_slowly(broker: RabbitServer) -> None:
    broker.suspend()
    publisher = Publisher(broker.url, policy=Policy("broker", deadline=3.0, bulkhead=Bulkhead(10)))
    ends: list[Exception] = []

    def publish_slowly() -> None:
        try:
            publisher.publish(b"x", "no-such-queue")
        except Exception as error:
            ends.append(error)

    slow = threading.Thread(target=publish_slowly)
    slow.start()
    time.sleep(0.2)
    watch = Stopwatch()
    with pytest.raises(holdfast.DeadlineExceeded), holdfast.deadline(0.3):
        publisher.publish(b"x", "q")
    assert watch.took < 0.6
    broker.resume()
    slow.join()
    assert isinstance(ends[0], Unroutable), "it had the time to wait until the broker went on"
    publisher.close()


def test_a_child_of_a_fork_has_a_connection_of_its_own_and_the_parents_lives(broker: RabbitServer, queue: Queue) -> None:
    with FaultProxy(to=(broker.host, broker.port)) as proxy:
        publisher = Publisher(broker.url_at("127.0.0.1", proxy.port), policy=quick())
        publisher.publish(b"parent", queue.name)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                publisher.publish(b"child", queue.name)
                publisher.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        publisher.publish(b"parent", queue.name)
        assert proxy.counts.connections == 2
        publisher.close()
    assert sorted(body for body, _ in queue.take()) == [b"child", b"parent", b"parent"]


def test_a_closed_publisher_says_so_and_leaves_no_thread(broker: RabbitServer, queue: Queue) -> None:
    before = threading.active_count()
    publisher = Publisher(broker.url)
    publisher.publish(b"x", queue.name)
    publisher.close()
    publisher.close()
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="closed"):
        publisher.publish(b"x", queue.name)


def test_a_forgotten_publisher_ends_its_thread(broker: RabbitServer, queue: Queue) -> None:
    before = threading.active_count()
    publisher = Publisher(broker.url)
    publisher.publish(b"x", queue.name)
    del publisher
    gc.collect()
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_an_async_publisher_goes_from_loop_to_loop(broker: RabbitServer, queue: Queue) -> None:
    publisher = AsyncPublisher(broker.url)

    async def once() -> None:
        await publisher.publish(b"x", queue.name)
        await publisher._link.close()  # type: ignore[union-attr]  # the loop ends, so its connection does

    asyncio.run(once())
    asyncio.run(once())
    assert len(queue.take()) == 2
