"""Several event loops, in several threads and one after the other, through the same policy."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest
from attacks import Peak, in_threads, nothing_held, room

import holdfast
from holdfast import Breaker, Bulkhead, DeadlineExceeded, Policy, Retry


def test_threads_and_tasks_of_two_loops_share_one_limit() -> None:
    policy = Policy("shop", deadline=60, bulkhead=Bulkhead(3, queue=100, wait=60.0), breaker=Breaker(), retry=Retry())
    peak = Peak()

    def blocking() -> None:
        with peak:
            pass

    async def waiting() -> None:
        with peak:
            await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(10):
            await asyncio.gather(*(policy.acall(waiting) for _ in range(10)))

    def caller(index: int) -> None:
        if index % 2:
            asyncio.run(main())
        else:
            for _ in range(100):
                policy.call(blocking)

    assert in_threads(4, caller) == [None] * 4
    assert peak.entries == 400
    assert peak.most <= 3
    nothing_held(policy)
    assert room(policy) == 3


def test_deadlines_of_loops_in_several_threads_each_ring_in_their_own() -> None:
    async def one(seconds: float) -> None:
        with pytest.raises(DeadlineExceeded):
            async with holdfast.deadline(seconds):
                await asyncio.sleep(100)

    async def main() -> None:
        await asyncio.gather(*(one(0.001 * n) for n in range(1, 30)))

    assert in_threads(4, lambda _: asyncio.run(main())) == [None] * 4


def test_nothing_of_a_dead_loop_is_kept() -> None:
    policy = Policy("shop", deadline=60, attempt_timeout=30, bulkhead=Bulkhead(1, queue=1, wait=1))
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def main() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with holdfast.deadline(50), holdfast.shield(20):
            await policy.acall(asyncio.sleep, 0)

    for _ in range(20):
        asyncio.run(main())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 20


def left_behind(policy: Policy, calls: int) -> asyncio.AbstractEventLoop:
    """A loop that was closed while tasks of it are in calls."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed but it is pending" is what happens here

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        for _ in range(calls):
            asyncio.get_running_loop().create_task(policy.acall(hang))
        for _ in range(5):
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    loop.close()
    return loop


def test_a_loop_that_was_closed_while_a_task_held_a_place_gives_it_back_when_it_dies() -> None:
    policy = Policy("shop", deadline=60, bulkhead=Bulkhead(2), breaker=Breaker())
    loop: asyncio.AbstractEventLoop | None = left_behind(policy, 1)
    assert policy.snapshot()["limit"]["running"] == 1
    loop = None  # noqa: F841
    gc.collect()
    nothing_held(policy)
    assert room(policy) == 2


def test_a_loop_that_was_closed_while_its_tasks_waited_loses_no_place_and_makes_none() -> None:
    policy = Policy("shop", deadline=60, bulkhead=Bulkhead(1, queue=5, wait=60))
    with policy.guard():
        loop: asyncio.AbstractEventLoop | None = left_behind(policy, 2)
        assert policy.snapshot()["limit"]["waiting"] == 2
    nothing_held(policy)  # they were served, nobody was there, and the place came back
    assert room(policy) == 1
    loop = None  # noqa: F841
    gc.collect()  # now the tasks end, and give nothing back a second time
    nothing_held(policy)
    assert room(policy) == 1


def test_a_place_freed_in_a_thread_wakes_the_task_that_waits_for_it() -> None:
    policy = Policy("shop", bulkhead=Bulkhead(1, queue=1, wait=20))
    inside, go = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert go.wait(10)

    async def main() -> float:
        began = time.monotonic()
        asyncio.get_running_loop().call_later(0.02, go.set)
        await policy.acall(asyncio.sleep, 0)
        return time.monotonic() - began

    thread = threading.Thread(target=policy.call, args=(hold,))
    thread.start()
    assert inside.wait(10)
    assert asyncio.run(main()) < 10
    thread.join()
    nothing_held(policy)
