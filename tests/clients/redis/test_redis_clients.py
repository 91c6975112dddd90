"""redis-py's clients, blocking and async, against a real server that is stopped, killed, silent or restarted."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis as redis_py

import holdfast
from holdfast import Backoff, Breaker, BreakerOpen, DeadlineExceeded, Policy, Retry
from holdfast.clients import redis as redis_behind
from holdfast.clients.redis.commands import command_of, is_repeatable
from holdfast.replay.parts.redis import RedisServer, redis_server
from holdfast.testing.faults import Cut, FaultProxy, Silence
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

DEAD = 1.0
LATE = 0.10


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


Ask = Callable[..., Any]


@contextmanager
def _sync(url: str, **options: Any) -> Iterator[Ask]:
    with redis_behind.from_url(url, **options) as client:
        yield client.execute_command


@contextmanager
def _async(url: str, **options: Any) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        client = redis_behind.async_from_url(url, **options)

        async def ask(*args: Any) -> Any:
            return await client.execute_command(*args)

        yield lambda *args: runner.run(ask(*args), context=contextvars.copy_context())  # with the deadline
        runner.run(client.aclose())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("command", [("GET", "a"), ("BLPOP", "nothing", 0)], ids=["get", "blpop"])
def test_a_stopped_server_is_left_at_the_deadline_and_noticed_without_one(client, server, command):
    with client(server.url, dead_after=DEAD) as ask:
        ask("PING")
        server.suspend()
        try:
            for limit, kind, bar in ((0.5, DeadlineExceeded, 0.5 + LATE), (30.0, redis_py.RedisError, DEAD + 1.0)):
                watch = Stopwatch()
                with pytest.raises(kind), holdfast.deadline(limit):
                    ask(*command)
                assert watch.took < bar
        finally:
            server.resume()
        assert ask("PING")


def test_a_silent_network_is_left_at_the_deadline_and_noticed_without_one(client, server):
    with FaultProxy(to=("127.0.0.1", server.port)) as proxy:
        with client(f"redis://127.0.0.1:{proxy.port}/0", dead_after=DEAD) as ask:
            for limit, bar in ((0.5, 0.5 + LATE), (30.0, DEAD + 1.0)):
                ask("PING")
                proxy.set(Silence())
                watch = Stopwatch()
                with pytest.raises(redis_py.RedisError if limit > 1 else DeadlineExceeded), holdfast.deadline(limit):
                    ask("GET", "a")
                assert watch.took < bar
                proxy.clear()


def test_a_blocking_command_may_wait_longer_than_a_vanished_server(client, server):
    with client(server.url, dead_after=0.4) as ask:
        watch = Stopwatch()
        assert ask("BLPOP", "nothing", 1.2) is None
        assert watch.elapsed >= 1.2


def test_a_read_is_done_again_when_the_server_is_back_and_a_count_is_not(client, server):
    policy = Policy("carts", deadline=5.0, retry=Retry(attempts=20, backoff=Backoff(base=0.05, cap=0.2)))
    with FaultProxy(to=("127.0.0.1", server.port)) as proxy:
        with client(f"redis://127.0.0.1:{proxy.port}/0", policy=policy, dead_after=DEAD) as ask:
            ask("SET", "n", 1)
            for command, repeated in ((("GET", "n"), True), (("INCR", "n"), False)):
                calls: list[Any] = []
                stop = holdfast.events.subscribe(lambda event, calls=calls: (calls.append(event), proxy.clear()))
                proxy.set(Cut(where="data"))  # it has run, and its answer does not come
                try:
                    assert int(ask(*command)) == 1
                    assert repeated
                except redis_py.RedisError:
                    assert not repeated
                finally:
                    stop()
                    proxy.clear()
            assert int(ask("GET", "n")) == 2


def test_what_was_not_sent_is_done_whatever_it_is(client, server):
    policy = Policy("carts", deadline=5.0, retry=Retry(attempts=50, backoff=Backoff(base=0.05, cap=0.1)))
    with client(server.url, policy=policy, dead_after=DEAD) as ask:
        server.kill()
        restarted: list[Any] = []
        stop = holdfast.events.subscribe(lambda event: None if restarted else (restarted.append(1), server.restart()))
        try:
            assert ask("INCR", "fresh") == 1
        finally:
            stop()


def test_the_breaker_opens_on_silence_and_not_on_errors_of_commands(client, server):
    policy = Policy("carts", deadline=0.3, breaker=Breaker(consecutive=2))
    with client(server.url, policy=policy) as ask:
        for _ in range(4):
            with pytest.raises(redis_py.ResponseError):
                ask("GET")
        server.suspend()
        try:
            for kind in (DeadlineExceeded, DeadlineExceeded, BreakerOpen):
                with pytest.raises(kind):
                    ask("GET", "a")
        finally:
            server.resume()


def test_no_answer_is_ever_that_of_another_command(client, server):
    with FaultProxy(to=("127.0.0.1", server.port)) as proxy, client(f"redis://127.0.0.1:{proxy.port}/0") as ask:
        answered = 0
        for number in range(150):
            proxy.set(Silence(after=number % 40)) if number % 5 == 2 else proxy.clear()
            try:
                with holdfast.deadline(0.04 if number % 5 == 2 else 5.0):
                    assert int(ask("ECHO", str(number))) == number
                    answered += 1
            except (DeadlineExceeded, redis_py.RedisError):
                pass
        assert answered >= 120


def test_a_pipeline_is_one_attempt_and_ends_at_the_deadline(server):
    with redis_behind.from_url(server.url) as client:
        with client.pipeline() as pipe:
            assert pipe.set("a", 1).get("a").execute() == [True, b"1"]
        server.suspend()
        try:
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded), holdfast.deadline(0.5), client.pipeline() as pipe:
                pipe.set("a", 1).execute()
            assert watch.took < 0.5 + LATE
        finally:
            server.resume()


def test_watching_keys_and_subscribing_end_at_the_deadline_too(server):
    policy = Policy("carts", deadline=0.3, retry=Retry(attempts=3))
    with redis_behind.from_url(server.url, policy=policy) as client, client.pubsub() as subscription:
        client.ping()
        subscription.subscribe("news")
        subscription.get_message(timeout=1.0)
        server.suspend()
        try:
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded), client.pipeline() as pipe:
                pipe.watch("a")
            assert watch.took < 0.3 + LATE
            for wait in (lambda: subscription.get_message(timeout=9.0), lambda: client.pubsub().subscribe("more")):
                watch = Stopwatch()
                with pytest.raises(DeadlineExceeded), holdfast.deadline(0.3):
                    wait()
                assert watch.took < 0.3 + LATE
        finally:
            server.resume()


def test_watching_keys_ends_at_the_deadline_in_asyncio(server):
    async def main() -> float:
        async with redis_behind.async_from_url(server.url, policy=Policy("carts", deadline=0.3)) as client:
            await client.ping()
            server.suspend()
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded):
                async with client.pipeline() as pipe:
                    await pipe.watch("a")
            return watch.took

    try:
        assert asyncio.run(main()) < 0.3 + LATE
    finally:
        server.resume()


def test_a_subscription_waits_and_notices_a_stopped_server(server):
    with redis_behind.from_url(server.url, dead_after=DEAD) as client, client.pubsub() as subscription:
        subscription.subscribe("news")
        subscription.get_message(timeout=1.0)
        server.suspend()
        try:
            watch = Stopwatch()
            with pytest.raises(redis_py.ConnectionError):
                next(subscription.listen())
            assert watch.took < DEAD + 1.0
        finally:
            server.resume()


@pytest.mark.parametrize(
    ("command", "repeatable"),
    [
        (("GET", "a"), True),
        (("SET", "a", 1), True),
        (("SET", "a", 1, "NX"), False),
        (("INCR", "a"), False),
        (("LPUSH", "a", 1), False),
        (("XREAD", "BLOCK", 100, "STREAMS", "s", "0"), True),
        (("EVALSHA", "x", 0), False),
        (("LTRIM", "a", 1, -1), False),
        (("SCRIPT LOAD", "return 1"), True),
    ],
)
def test_what_may_be_sent_again(command, repeatable):
    assert is_repeatable(command, frozenset()) is repeatable
    assert is_repeatable(command, frozenset({command[0]}))


def test_how_long_commands_wait():
    forever = float("inf")
    waits = [
        (("BLPOP", "a", 2), 2.0),
        (("BLPOP", "a", 0), forever),
        (("XREAD", b"BLOCK", 500, "STREAMS", "s", "0"), 0.5),
        (("GET", "a"), 0.0),
    ]
    for command, seconds in waits:
        assert command_of(command, frozenset()).waits == seconds


@pytest.mark.parametrize("option", ["retry", "retry_on_error", "retry_on_timeout", "connection_class"])
def test_what_would_retry_beside_the_policy_is_refused(option):
    for make in (redis_behind.from_url, redis_behind.async_from_url):
        with pytest.raises(ValueError, match=option):
            make("redis://127.0.0.1:1/0", **{option: True})


def test_errors_are_redis_pys_too_and_pickle():
    error = pickle.loads(pickle.dumps(redis_behind.DeadlineExceeded("carts", 1.0, 1.1, True)))
    assert isinstance(error, redis_py.TimeoutError)
    assert isinstance(error, DeadlineExceeded)
    assert issubclass(redis_behind.BreakerOpen, redis_py.ConnectionError)
    assert pickle.loads(pickle.dumps(redis_behind.BreakerOpen("carts", 2.0))).retry_after == 2.0
