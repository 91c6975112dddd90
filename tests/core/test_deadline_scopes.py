"""Deadlines: which applies, where they reach, whose they are, and what a shield holds off."""

# ruff: noqa: PT012  (whole blocks raise here: blocks are the subject)

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attacks import listening, nothing_held

import holdfast
from holdfast import AdaptiveLimit, Backoff, Breaker, Bulkhead, DeadlineExceeded, Fallback, Policy, Retry, events
from holdfast.testing import FakeClock


async def hang() -> None:
    await asyncio.sleep(1000)


# Which applies.


def test_nested_deadlines_only_shrink() -> None:
    with FakeClock() as clock:
        assert holdfast.remaining() == math.inf
        with holdfast.deadline(2.0):
            with holdfast.deadline(5.0):
                assert holdfast.remaining() == pytest.approx(2.0)
            with holdfast.deadline(math.inf):
                assert holdfast.remaining() == pytest.approx(2.0)
            clock.advance(0.5)
            with holdfast.deadline(1.0):
                assert holdfast.remaining() == pytest.approx(1.0)
                with holdfast.deadline(0):
                    assert holdfast.remaining() == 0
                    with pytest.raises(DeadlineExceeded):
                        holdfast.check()
                holdfast.check()
            assert holdfast.remaining() == pytest.approx(1.5)
        assert holdfast.remaining() == math.inf


def test_a_policys_deadline_and_attempt_timeout_shrink_too() -> None:
    left: list[float] = []

    def look() -> None:
        left.append(holdfast.remaining())

    with FakeClock(), holdfast.deadline(2.0):
        Policy("a", deadline=5.0).call(look)
        Policy("b", deadline=1.0).call(look)
        Policy("c", deadline=1.0, attempt_timeout=0.25).call(look)
        Policy("d", attempt_timeout=3.0).call(Policy("e", deadline=1.5).call, look)
        with Policy("f", deadline=0.5).guard():
            look()
        assert holdfast.remaining() == pytest.approx(2.0)
    assert left == pytest.approx([2.0, 1.0, 0.25, 1.5, 0.5])


# Where they reach.


def test_a_deadline_flows_into_tasks_threads_and_executors_that_carry_it() -> None:
    async def ask() -> float:
        return holdfast.remaining()

    async def main() -> None:
        async with holdfast.deadline(50.0):
            assert await asyncio.create_task(ask()) == pytest.approx(50.0, abs=10)
            assert await asyncio.to_thread(holdfast.remaining) == pytest.approx(50.0, abs=10)
            with ThreadPoolExecutor(2) as pool:
                loop = asyncio.get_running_loop()
                carried = holdfast.carry(holdfast.remaining)
                assert await loop.run_in_executor(pool, carried) == pytest.approx(50.0, abs=10)
                assert await loop.run_in_executor(pool, holdfast.remaining) == math.inf
                # The same carried function in two threads at once.
                assert list(pool.map(lambda _: carried(), range(50))) == pytest.approx([50.0] * 50, abs=10)
        assert holdfast.remaining() == math.inf

    asyncio.run(main())


def test_a_thread_that_inherited_a_deadline_stops_at_it() -> None:
    def work() -> None:
        while True:
            holdfast.check()
            time.sleep(0.001)

    async def main() -> None:
        with holdfast.deadline(0.02), pytest.raises(DeadlineExceeded):
            await asyncio.to_thread(work)

    asyncio.run(main())


def test_tasks_do_not_see_the_deadline_of_their_siblings() -> None:
    async def one(seconds: float) -> None:
        async with holdfast.deadline(seconds):
            for _ in range(10):
                assert holdfast.remaining() <= seconds
                assert holdfast.remaining() > seconds - 1
                await asyncio.sleep(0.01)

    async def main() -> None:
        await asyncio.gather(*(one(float(n)) for n in range(1, 50)))
        assert holdfast.remaining() == math.inf

    FakeClock().run(main())


# Whose they are.


def counted(policy: Policy) -> tuple[int, int]:
    seen = policy.breaker.snapshot()
    return seen["calls"], seen["failures"]


def retried(**parts: Any) -> Policy:
    return Policy(
        "shop", retry=Retry(attempts=5, on=Exception, backoff=Backoff(base=0.0)), breaker=Breaker(window=1e9), bulkhead=Bulkhead(1), **parts
    )


def sync_hang() -> None:
    from holdfast.drivers.clock import current

    current.get().sleep(min(holdfast.remaining(), 1000))  # as a client does that obeys the deadline
    holdfast.check()


def run(kind: str, policy: Policy, seconds: float | None) -> Any:
    """A hanging call inside of a deadline of these seconds."""
    clock = FakeClock()
    if kind == "sync":
        with clock, holdfast.deadline(math.inf if seconds is None else seconds):
            return policy.call(sync_hang)

    async def main() -> None:
        async with holdfast.deadline(math.inf if seconds is None else seconds):
            await policy.acall(hang)

    return clock.run(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    ("parts", "outer", "verdict"),
    [
        ({}, 1.0, "ignored"),
        ({"deadline": 2.0}, 1.0, "ignored"),
        ({"attempt_timeout": 2.0}, 1.0, "ignored"),
        ({"deadline": 1.0}, None, "failure"),
        ({"deadline": 1.0}, 2.0, "failure"),
        ({"deadline": 1.0, "attempt_timeout": 2.0}, None, "failure"),
    ],
)
def test_the_breaker_ignores_an_attempt_that_its_caller_cut_short_and_counts_one_that_had_its_time(
    kind: str, parts: dict[str, float], outer: float | None, verdict: str
) -> None:
    policy = retried(**parts)
    with listening() as seen, pytest.raises(DeadlineExceeded):
        run(kind, policy, outer)
    ended = [event for event in seen if isinstance(event, events.AttemptEnded)]
    assert [event.verdict for event in ended] == [verdict], "and it is not retried"
    assert counted(policy) == ((1, 1) if verdict == "failure" else (0, 0))
    nothing_held(policy)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_attempt_timeout_is_a_failure_and_is_retried_until_the_caller_has_no_time_left(kind: str) -> None:
    policy = retried(attempt_timeout=0.4)
    if kind == "sync":
        with FakeClock() as clock, holdfast.deadline(1.0), pytest.raises(DeadlineExceeded):

            def slow() -> None:
                clock.sleep(holdfast.remaining())
                holdfast.check()

            policy.call(slow)
    else:
        with pytest.raises(DeadlineExceeded):
            run(kind, policy, 1.0)
    assert counted(policy) == (2, 2)
    nothing_held(policy)


def test_a_deadline_further_in_is_the_dependencys_failure() -> None:
    async def inner() -> None:
        async with holdfast.deadline(0.1):
            await hang()

    async def main() -> None:
        policy = retried()
        async with holdfast.deadline(50):
            with pytest.raises(DeadlineExceeded):
                await policy.acall(inner)
        assert counted(policy) == (5, 5)

    FakeClock().run(main())


def test_an_outer_deadline_is_not_retried_not_counted_and_not_answered_for_by_any_policy_on_the_way() -> None:
    async def main() -> None:
        policies = [Policy(f"p{n}", retry=Retry(on=Exception), breaker=Breaker(), fallback=Fallback(value="fallback")) for n in range(4)]
        calls = 0

        async def fn() -> None:
            nonlocal calls
            calls += 1
            await hang()

        wrapped: Callable[[], Any] = fn
        for policy in policies:
            wrapped = policy(wrapped)
        with pytest.raises(DeadlineExceeded) as caught:
            async with holdfast.deadline(1.0):
                await wrapped()
        assert calls == 1
        assert caught.value.policy is None
        assert [counted(policy) for policy in policies] == [(0, 0)] * 4

    FakeClock().run(main())


def test_the_error_says_which_time_ran_out() -> None:
    async def caught(policy: Policy) -> DeadlineExceeded:
        with pytest.raises(DeadlineExceeded) as raised:
            await policy.acall(hang)
        return raised.value

    async def main() -> None:
        error = await caught(Policy("a", deadline=1.0))
        assert (error.policy, error.what, error.budget, error.started) == ("a", "deadline", 1.0, True)
        error = await caught(Policy("b", attempt_timeout=0.5))
        assert (error.policy, error.what, error.budget, error.attempt) == ("b", "attempt timeout", 0.5, 1)
        assert error.elapsed == pytest.approx(0.5)

    FakeClock().run(main())


def test_nothing_is_begun_when_the_time_is_over() -> None:
    ran = []
    policy = Policy("shop", breaker=Breaker(), adaptive=AdaptiveLimit())
    with FakeClock(), holdfast.deadline(0), pytest.raises(DeadlineExceeded) as caught:
        policy.call(ran.append, 1)
    assert ran == []
    assert not caught.value.started
    nothing_held(policy)


def test_a_blocking_health_check_that_outlives_the_callers_deadline_starts_no_attempt() -> None:
    with FakeClock() as clock:

        def check() -> bool:
            clock.advance(5)
            return True

        policy = Policy("shop", breaker=Breaker(consecutive=1, open_for=1, health_check=check))
        with pytest.raises(ZeroDivisionError):
            policy.call(lambda: 1 / 0)
        clock.advance(2)
        ran: list[int] = []
        with holdfast.deadline(1), pytest.raises(DeadlineExceeded):
            policy.call(ran.append, 1)
        assert ran == []
        nothing_held(policy)
        assert policy.breaker.state == "half-open"


# Shields.


def test_a_shield_holds_off_an_outer_deadline_and_bounds_what_is_in_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlineExceeded) as caught:
            async with holdfast.deadline(1.0):
                async with holdfast.shield(5.0):
                    await asyncio.sleep(2.0)
                    assert holdfast.remaining() == pytest.approx(3.0)
                await hang()
        assert loop.time() - began == pytest.approx(2.0)
        assert caught.value.what == "deadline"
        with pytest.raises(DeadlineExceeded) as caught:
            async with holdfast.deadline(1.0), holdfast.shield(3.0):
                await hang()
        assert loop.time() - began == pytest.approx(5.0)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(10)

    FakeClock().run(main())


def test_a_deadline_that_passed_in_a_shield_does_not_cancel_what_comes_after_its_block() -> None:
    async def main() -> None:
        for _ in range(3):
            async with holdfast.deadline(1.0):
                async with holdfast.shield(5.0):
                    await asyncio.sleep(2.0)
                # No await here: the block is over before it could be cut off.
            assert asyncio.current_task().cancelling() == 0
            await asyncio.sleep(1)  # a cancellation that was left over would come here

    FakeClock().run(main())


def test_nested_shields_each_hold_off_and_each_end() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlineExceeded):
            async with holdfast.deadline(1.0):
                async with holdfast.shield(10.0):
                    with pytest.raises(DeadlineExceeded):
                        async with holdfast.deadline(2.0):
                            async with holdfast.shield(4.0):
                                await asyncio.sleep(3.0)
                            await hang()
                    assert loop.time() - began == pytest.approx(3.0)
                    await asyncio.sleep(1.0)
                await hang()
        assert loop.time() - began == pytest.approx(4.0)
        assert asyncio.current_task().cancelling() == 0

    FakeClock().run(main())


def test_a_deadline_inside_of_a_shield_is_not_held_off() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with holdfast.shield(10.0):
            with pytest.raises(DeadlineExceeded):
                async with holdfast.deadline(1.0):
                    await hang()
            with pytest.raises(DeadlineExceeded):
                await Policy("shop", deadline=1.0).acall(hang)
        assert loop.time() - began == pytest.approx(2.0)

    FakeClock().run(main())


def test_a_shield_holds_off_in_its_own_task_only() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def other() -> float:
            try:
                async with holdfast.deadline(1.0):
                    await hang()
            except DeadlineExceeded:
                pass
            return loop.time() - began

        async with holdfast.shield(10.0):
            assert await asyncio.create_task(other()) == pytest.approx(1.0)

    FakeClock().run(main())


def test_a_shield_does_not_hold_off_a_cancellation_that_is_nobodys_deadline() -> None:
    async def main() -> None:
        async def work() -> None:
            async with holdfast.deadline(50), holdfast.shield(100.0):
                await hang()

        task = asyncio.create_task(work())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(1), holdfast.shield(100.0):
                await hang()
        assert not isinstance(caught.value, DeadlineExceeded)

    FakeClock().run(main())


def test_blocking_clean_up_in_a_shield_has_its_own_time() -> None:
    with FakeClock() as clock, holdfast.deadline(1.0):
        clock.advance(2.0)
        with holdfast.shield(0.5):
            holdfast.check()
            Policy("shop").call(holdfast.check)
            assert holdfast.remaining() == pytest.approx(0.5)
            clock.advance(1.0)
            with pytest.raises(DeadlineExceeded):
                holdfast.check()
        with pytest.raises(DeadlineExceeded):
            holdfast.check()


# Blocking code is cooperative.


def test_blocking_work_that_outran_its_deadline_is_reported_with_the_time_outside() -> None:
    with FakeClock() as clock, listening() as seen:
        with holdfast.deadline(1.0):
            clock.advance(3.5)
        Policy("shop", attempt_timeout=1.0).call(clock.advance, 2.0)
        with holdfast.deadline(1.0):
            clock.advance(0.5)
    outrun = [event for event in seen if isinstance(event, events.DeadlineOutrun)]
    assert [(event.policy, event.budget) for event in outrun] == [("", 1.0), ("shop", 1.0)]
    assert [event.outside for event in outrun] == pytest.approx([2.5, 1.0])


def test_a_block_that_ends_in_another_context_is_no_error() -> None:
    import contextvars

    for block in (lambda: holdfast.deadline(1.0), lambda: holdfast.shield(1.0)):
        manager = block()
        contextvars.copy_context().run(manager.__enter__)
        contextvars.copy_context().run(manager.__exit__, None, None, None)
        assert holdfast.remaining() == math.inf


def test_two_threads_or_tasks_may_be_inside_of_one_fake_clock() -> None:
    clock = FakeClock()

    async def one(first: float, second: float) -> None:
        await asyncio.sleep(first)
        with clock:
            await asyncio.sleep(second)

    async def main() -> None:
        await asyncio.gather(one(1, 2), one(2, 3))

    clock.run(main())
