"""The same behaviour on every store, blocking and async; and what happens when the store does not."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
import warnings

import pytest
import redis as redis_py

import holdfast
from holdfast import DeadlineExceeded, LockOverrun, LockTaken, StoreUnavailable, events
from holdfast.mutex import MemoryStore
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime


@pytest.fixture(params=["memory", "redis", "postgres"])
def store(request):
    return MemoryStore() if request.param == "memory" else request.getfixturevalue(request.param).url


def until_lost(held):
    end = time.monotonic() + 10
    while not held.lost:
        assert time.monotonic() < end
        time.sleep(0.01)


def once(store, wait=0.0, ttl=2.0):
    with holdfast.lock("order:42", ttl, store, wait=wait) as held:
        return held.token


def test_a_release_wakes_who_waits(store):
    def hold():
        with holdfast.lock("order:42", 5.0, store):
            holding.set()
            time.sleep(0.3)

    holding = threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    holding.wait()
    watch = Stopwatch()
    once(store, wait=3.0)
    assert watch.took < 1.0
    holder.join()


def test_a_lock_whose_time_is_over_is_anothers_and_its_token_is_larger(store):
    first, elsewhere = holdfast.lock("order:42", 0.3, store), contextvars.copy_context()
    held = elsewhere.run(first.__enter__)
    later = once(store, wait=3.0)
    assert later > held.token
    time.sleep(0.1)
    with pytest.raises(LockOverrun):
        elsewhere.run(first.__exit__, None, None, None)


def test_a_renewed_lock_is_held_past_its_ttl_and_not_past_its_maximum(store):
    before = set(threading.enumerate())
    with pytest.raises(LockOverrun) as caught:  # noqa: PT012
        with holdfast.lock("order:42", 0.8, store, renew=True, max_hold=1.6):
            time.sleep(1.0)
            with pytest.raises(LockTaken):
                once(store)
            time.sleep(0.8)
    assert caught.value.allowed == pytest.approx(1.6, abs=0.02)
    assert set(threading.enumerate()) <= before


def test_async_work_is_cancelled_at_the_locks_end_and_waits_in_turn(store):
    async def one():
        async with holdfast.lock("order:42", 1.0, store, wait=5.0) as held:
            await asyncio.sleep(0.05)
            return held.token

    async def main():
        watch = Stopwatch()
        with pytest.raises((DeadlineExceeded, LockOverrun)):
            async with holdfast.lock("order:42", 0.3, store):
                await asyncio.sleep(5)
        assert watch.took < 1.0
        tokens = await asyncio.gather(*(one() for _ in range(4)))
        assert len(set(tokens)) == 4

    asyncio.run(main())


def test_a_client_of_redis_py_is_a_store_and_stays_open(redis):
    with redis_py.Redis.from_url(redis.url) as client:
        assert once(client) > 0
        assert client.ping()


def test_a_store_that_is_stopped_is_unavailable_in_time(redis, postgres):
    for server in (redis, postgres):
        server.suspend()
        try:
            watch = Stopwatch()
            with pytest.raises(StoreUnavailable):
                once(server.url)
            assert watch.took < 1.5
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded), holdfast.deadline(0.5):
                once(server.url, wait=5.0)
            assert watch.took < 0.65
        finally:
            server.resume()


def test_redis_that_loses_its_data_or_restarts_gives_larger_tokens(redis):
    before = once(redis.url)
    with redis_py.Redis.from_url(redis.url) as client:
        client.flushall()
    flushed = once(redis.url)
    redis.kill()
    with pytest.raises(StoreUnavailable):
        once(redis.url, wait=0.2)
    redis.restart()
    assert before < flushed < once(redis.url)


def test_a_lock_that_redis_lost_is_not_renewed_and_stops_the_work(redis):
    with pytest.raises(LockOverrun), redis_py.Redis.from_url(redis.url) as client:  # noqa: PT012
        with holdfast.lock("order:42", 0.6, redis.url, renew=True) as held:
            client.flushall()
            until_lost(held)
            holdfast.check()


def test_a_lost_lock_stops_the_work_inside_a_wider_deadline_too_and_is_told_once():
    def blocking(store):
        with holdfast.deadline(5.0), holdfast.lock("order:42", 0.6, store, renew=True) as held:
            store.flush()
            until_lost(held)
            holdfast.check()

    async def waiting(store):
        async with holdfast.deadline(5.0), holdfast.lock("order:42", 0.6, store, renew=True):
            store.flush()
            await asyncio.sleep(3.0)

    for work in (blocking, lambda store: asyncio.run(waiting(store))):
        told = []
        stop = events.subscribe(told.append)
        watch = Stopwatch()
        with pytest.raises(LockOverrun) as caught:
            work(MemoryStore())
        stop()
        assert watch.took < 1.0
        assert isinstance(caught.value.__cause__, DeadlineExceeded)
        assert [type(event).__name__ for event in told if event.policy == "order:42"] == ["LockTook", "LockLost", "LockOverran"]


@pytest.mark.parametrize("renew", [False, True], ids=["", "renewed"])
@pytest.mark.parametrize("when", ["entered", "left"])
def test_cancelled_at_any_moment_it_is_given_back_and_the_cancellation_goes_on(store, when, renew, monkeypatch):
    # What is given back without our hearing that it was ours has a twentieth of a second, else it ends by its ttl: not here, where a busy
    # machine is not to matter.
    for seconds in ("redis._LEAVE_WITHIN", "redis._WITHIN", "postgres._WITHIN"):
        monkeypatch.setattr(f"holdfast.mutex.{seconds}", 5.0)

    async def block(inside):
        async with holdfast.lock("order:42", 20.0, store, renew=renew):
            inside.set()
            await asyncio.sleep(0)

    async def main():
        for steps in range(0, 40, 3):
            inside = asyncio.Event()
            task = asyncio.create_task(block(inside))
            if when == "left":
                await inside.wait()
            for _ in range(steps):
                await asyncio.sleep(0)
            cancelled = task.cancel()
            await asyncio.wait({task})
            assert task.cancelled() == cancelled
            async with holdfast.lock("order:42", 20.0, store, wait=5.0):
                pass

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_the_child_of_a_fork_does_not_give_back_its_parents_lock(redis, postgres):
    for server in (redis, postgres):
        with holdfast.lock("order:42", 5.0, server.url):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                child = os.fork()
            if child:
                os.waitpid(child, 0)
                with pytest.raises(LockTaken):
                    once(server.url)
        if not child:
            os._exit(0)
        once(server.url)


def test_an_error_of_the_store_has_no_credentials(redis):
    with pytest.raises(StoreUnavailable) as caught:
        once(f"redis://user:hidden@127.0.0.1:{redis.port}/0")
    assert "hidden" not in str(caught.value)
