"""A broker that says nothing any more: every client notices within the set time and a second, idle and with something in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import aio_pika
import pika
import pytest

import holdfast
from holdfast.clients.amqp.aio_pika import connect as aconnect
from holdfast.clients.amqp.pika import connect
from holdfast.replay.parts.rabbitmq import RabbitServer
from holdfast.testing.faults import FaultProxy, Silence
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

_DEAD_AFTER = 2.0
_NOTICED = _DEAD_AFTER + 1.0


@pytest.fixture(params=["broker stopped", "nothing comes through"])
def silence(request: pytest.FixtureRequest, broker: RabbitServer) -> object:
    """A URL, and how the silence begins; it ends with the test."""
    if request.param == "broker stopped":
        yield broker.url, broker.suspend
        broker.resume()
    else:
        with FaultProxy(to=(broker.host, broker.port)) as proxy:
            yield broker.url_at("127.0.0.1", proxy.port), lambda: proxy.set(Silence())


Silent = tuple[str, Callable[[], None]]


def _seconds_until_lost(act: Callable[[], object], kind: type[Exception]) -> float:
    watch = Stopwatch()
    with pytest.raises(kind):
        act()
    return watch.took


def test_pika_notices_while_it_waits_for_events(silence: Silent) -> None:
    url, begin = silence
    connection = connect(url, dead_after=_DEAD_AFTER)
    connection.process_data_events(0.5)
    begin()
    assert _seconds_until_lost(lambda: connection.process_data_events(20), pika.exceptions.AMQPHeartbeatTimeout) <= _NOTICED
    assert connection.is_closed


def test_pika_notices_while_a_message_is_on_its_way(silence: Silent) -> None:
    url, begin = silence
    connection = connect(url, dead_after=_DEAD_AFTER)
    channel = connection.channel()
    channel.confirm_delivery()
    begin()
    assert _seconds_until_lost(lambda: channel.basic_publish("", "nobody", b"x"), pika.exceptions.AMQPHeartbeatTimeout) <= _NOTICED
    assert connection.is_closed


def test_aio_pika_notices_while_nobody_asks(silence: Silent) -> None:
    url, begin = silence

    async def main() -> float:
        connection = await aconnect(url, dead_after=_DEAD_AFTER)
        closed = asyncio.Event()
        connection.close_callbacks.add(lambda *_: closed.set())
        await asyncio.sleep(0.5)
        assert not closed.is_set()
        begin()
        watch = Stopwatch()
        async with asyncio.timeout(20):
            await closed.wait()
        return watch.took

    assert asyncio.run(main()) <= _NOTICED


def test_aio_pika_notices_while_a_message_is_on_its_way(silence: Silent) -> None:
    url, begin = silence

    async def main() -> float:
        connection = await aconnect(url, dead_after=_DEAD_AFTER)
        channel = await connection.channel()
        begin()
        watch = Stopwatch()
        with pytest.raises(ConnectionError):
            await channel.default_exchange.publish(aio_pika.Message(b"x"), "nobody")
        return watch.took

    assert asyncio.run(main()) <= _NOTICED


def test_an_idle_connection_of_a_healthy_broker_lives(broker: RabbitServer) -> None:
    connection = connect(broker.url, dead_after=1.0)
    connection.process_data_events(4.0)
    connection.channel().close()
    connection.close()


def test_a_connection_that_nobody_served_hears_what_has_arrived_before_it_judges(broker: RabbitServer) -> None:
    connection = connect(broker.url, dead_after=3.0)
    time.sleep(1.9)  # the broker closes connections that were silent for two to three heartbeats of 1 s
    connection.process_data_events(0.5)
    assert connection.is_open
    connection.close()


@pytest.mark.parametrize("what", ["operation", "connect"])
def test_the_deadline_ends_what_pika_does(silence: Silent, what: str) -> None:
    url, begin = silence
    connection = connect(url)
    channel = connection.channel()
    begin()
    watch = Stopwatch()
    with pytest.raises(pika.exceptions.AMQPConnectionError) as caught, holdfast.deadline(0.5):
        channel.queue_declare("x", passive=True) if what == "operation" else connect(url)
    assert watch.took < 0.8
    assert isinstance(caught.value, holdfast.DeadlineExceeded)
    assert connection.is_closed == (what == "operation"), "a connection in doubt is closed, and no other"
    if connection.is_open:
        connection.discard(ConnectionAbortedError())


@pytest.mark.parametrize("what", ["operation", "connect", "close"])
def test_the_deadline_ends_what_aio_pika_does(silence: Silent, what: str) -> None:
    url, begin = silence

    async def main() -> float:
        connection = await aconnect(url)
        channel = await connection.channel()
        begin()
        watch = Stopwatch()
        if what == "close":
            await connection.close()
        else:
            with pytest.raises(holdfast.DeadlineExceeded):
                async with holdfast.deadline(0.5):
                    await (channel.declare_queue("x") if what == "operation" else aconnect(url))
        took = watch.took
        connection.discard(ConnectionAbortedError())
        await asyncio.sleep(0.05)
        return took

    assert asyncio.run(main()) < (1.3 if what == "close" else 0.8)


def test_a_deadline_that_ends_a_wait_for_events_leaves_the_connection_as_it_was(broker: RabbitServer) -> None:
    connection = connect(broker.url)
    with pytest.raises(holdfast.DeadlineExceeded), holdfast.deadline(0.2):
        connection.process_data_events(5)
    connection.channel().close()
    connection.close()


def test_callbacks_of_a_connection_do_not_live_under_the_deadline_of_connecting(broker: RabbitServer) -> None:
    seen: list[float] = []

    async def main() -> None:
        async with holdfast.deadline(5.0):
            connection = await aconnect(broker.url)
        channel = await connection.channel()
        queue = await channel.declare_queue("callbacks", auto_delete=True)
        done = asyncio.Event()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            seen.append(holdfast.remaining())
            done.set()

        await queue.consume(take, no_ack=True)
        await channel.default_exchange.publish(aio_pika.Message(b"x"), "callbacks")
        await asyncio.wait_for(done.wait(), 5)
        await connection.close()

    asyncio.run(main())
    assert seen == [float("inf")]
