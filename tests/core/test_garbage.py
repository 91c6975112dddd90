"""Calls leave nothing behind: no cyclic garbage, no growth, no task, no timer; and a finaliser may call a policy."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from attacks import fail, in_threads

import holdfast
from holdfast import Backoff, Breaker, Bulkhead, BulkheadFull, Fallback, Hedge, Policy, Retry
from holdfast.testing import FakeClock


class Failed(Exception):
    pass


SINGLETON = Failed("the same one again and again")


def fine() -> int:
    return 1


def failing() -> None:
    raise Failed


def again() -> None:
    raise ConnectionError


def full(**parts: Any) -> Policy:
    retry = Retry(attempts=3, backoff=Backoff(base=0.0))
    return Policy("shop", deadline=60, attempt_timeout=30, retry=retry, breaker=Breaker(min_calls=10**9), bulkhead=Bulkhead(4), **parts)


def forced_open() -> Policy:
    policy = full()
    policy.breaker.force_open()
    return policy


def crowded() -> Policy:
    policy = Policy("shop", bulkhead=Bulkhead(1))
    policy.guard().__enter__()
    return policy


CASES: dict[str, tuple[Callable[[], Policy], Callable[[], object]]] = {
    "successful": (full, fine),
    "light": (lambda: Policy("shop", retry=Retry()), fine),
    "failed": (full, failing),
    "retried": (full, again),
    "light and retried": (lambda: Policy("shop", retry=Retry(backoff=Backoff(base=0.0))), again),
    "refused by the breaker": (forced_open, fine),
    "refused by the bulkhead": (crowded, fine),
    "answered by the fallback": (lambda: full(fallback=Fallback(value=1)), failing),
}


def collected(work: Callable[[], object], calls: int) -> tuple[int, int]:
    """How many objects in rings, and how many bytes, many calls leave behind."""
    for _ in range(100):
        work()
    gc.collect()
    gc.disable()
    try:
        rings = 0
        for _ in range(calls):
            work()
        rings = gc.collect()
        tracemalloc.start()
        for _ in range(200):
            work()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            work()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
        gc.enable()
    return rings, grown


def run_async(work: Callable[[], Awaitable[object]], calls: int) -> tuple[int, int, int, int]:
    async def main() -> tuple[int, int, int, int]:
        loop: Any = asyncio.get_running_loop()

        async def many(count: int) -> None:
            for _ in range(count):
                await work()

        await many(100)
        gc.collect()
        gc.disable()
        try:
            await many(calls)
            rings = gc.collect()
            tracemalloc.start()
            await many(200)
            before = tracemalloc.get_traced_memory()[0]
            await many(1000)
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
            gc.enable()
        return rings, grown, len(asyncio.all_tasks()), sum(not timer.cancelled() for timer in loop._scheduled)

    return asyncio.run(main())


@pytest.mark.parametrize("case", CASES)
def test_ten_thousand_blocking_calls_leave_no_ring_and_no_memory(case: str) -> None:
    make, fn = CASES[case]
    policy = make()
    guarded = policy(fn)

    def work() -> None:
        with contextlib.suppress(Failed, ConnectionError, holdfast.Rejected):
            guarded()

    rings, grown = collected(work, 10_000)
    assert rings == 0
    assert grown < 5000


@pytest.mark.parametrize("case", CASES)
def test_ten_thousand_async_calls_leave_no_ring_no_memory_no_task_and_no_timer(case: str) -> None:
    make, fn = CASES[case]
    policy = make()

    async def afn() -> object:
        return fn()

    guarded = policy(afn)

    async def work() -> None:
        with contextlib.suppress(Failed, ConnectionError, holdfast.Rejected):
            await guarded()

    rings, grown, tasks, timers = run_async(work, 10_000)
    assert rings == 0
    assert grown < 20_000
    assert tasks == 1
    assert timers <= 1, "all cut-offs of a loop share one"


def test_blocks_deadlines_refusals_in_advance_and_hedges_leave_no_ring() -> None:
    policy, refusing = full(), forced_open()
    with ThreadPoolExecutor(2) as pool:
        hedged = Policy("shop", hedge=Hedge(after=5, executor=pool))

        def work() -> None:
            with contextlib.suppress(Failed), policy.guard():
                raise Failed
            with contextlib.suppress(ConnectionError):
                for attempt in policy.attempts():
                    with attempt:
                        raise ConnectionError
            with contextlib.suppress(holdfast.Rejected):
                holdfast.require(refusing)
            with contextlib.suppress(holdfast.DeadlineExceeded), holdfast.deadline(0):
                holdfast.check()
            with contextlib.suppress(Failed):
                hedged.call(failing)

        rings, grown = collected(work, 500)
    assert rings == 0
    assert grown < 20_000


def test_async_blocks_cut_offs_and_hedges_leave_no_ring() -> None:
    policy = full()
    hedged = Policy("shop", deadline=50, hedge=Hedge(after=5))

    async def afailing() -> None:
        raise Failed

    async def work() -> None:
        with contextlib.suppress(Failed):
            async with policy.guard():
                raise Failed
        with contextlib.suppress(ConnectionError):
            async for attempt in policy.attempts():
                async with attempt:
                    raise ConnectionError
        with contextlib.suppress(holdfast.DeadlineExceeded):
            async with holdfast.deadline(0):
                await asyncio.sleep(1)
        with contextlib.suppress(Failed):
            await hedged.acall(afailing)

    rings, grown, tasks, timers = run_async(work, 500)
    assert rings == 0
    assert grown < 20_000
    assert tasks == 1
    assert timers <= 1


def test_short_and_long_deadlines_in_turn_leave_no_timers_behind() -> None:
    async def main() -> int:
        loop: Any = asyncio.get_running_loop()
        for _ in range(1000):
            async with holdfast.deadline(3600):
                async with holdfast.deadline(0.01):
                    await asyncio.sleep(0)
                await asyncio.sleep(0.02)
        return sum(not timer.cancelled() for timer in loop._scheduled)

    assert FakeClock().run(main()) <= 2


def test_one_exception_raised_again_and_again_collects_no_notes() -> None:
    policy = full()

    def singleton() -> None:
        raise SINGLETON.with_traceback(None)

    retrying = Policy("shop", retry=Retry(attempts=2, on=Failed, backoff=Backoff(base=0.0)))
    for _ in range(100):
        for each in (policy, retrying):
            with pytest.raises(Failed):
                each.call(singleton)
    assert len(SINGLETON.__notes__) == 1


def test_refusals_are_fresh_exceptions_that_keep_no_traceback_of_each_other() -> None:
    policy, busy = forced_open(), crowded()
    seen = []
    for _ in range(3):
        for each, kind in ((policy, holdfast.BreakerOpen), (busy, BulkheadFull)):
            with pytest.raises(kind) as caught:
                each.call(fine)
            seen.append(caught.value)
    assert len({id(error) for error in seen}) == 6
    assert all(error.__context__ is None and error.__cause__ is None for error in seen)


def test_strange_notes_of_an_exception_do_not_hide_it() -> None:
    class Strange(ConnectionError):
        __notes__ = ("mine",)

    def raising() -> None:
        raise Strange

    with pytest.raises(Strange):
        full().call(raising)


@dataclass(frozen=True)
class Frozen(ConnectionError):
    code: int


def test_an_exception_that_takes_no_note_is_raised_itself() -> None:
    error = Frozen(7)
    for guarded in (full()(lambda: fail(error)), Policy("light", retry=Retry(attempts=1))(lambda: fail(error))):
        with pytest.raises(Frozen) as caught:
            guarded()
        assert caught.value is error


def test_a_finaliser_that_the_collector_runs_in_the_middle_of_us_may_call_the_same_policy() -> None:
    policy = Policy("shop", breaker=Breaker(min_calls=10**9), bulkhead=Bulkhead(4, queue=2, wait=0.1))
    ran = [0]

    class Connection:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            ran[0] += 1
            policy.snapshot()
            with contextlib.suppress(Failed):
                policy.call(failing)

    def work(_: int) -> None:
        for _ in range(500):
            Connection()
            with contextlib.suppress(Failed):
                policy.call(failing)
            policy.snapshot()

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        assert in_threads(1, work) == [None]  # with a time limit: one that waits for itself hangs
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert ran[0] == 500
    assert policy.snapshot()["limit"]["running"] == 0
