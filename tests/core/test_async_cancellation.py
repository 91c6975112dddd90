"""Cancellation at every point of an async call: nothing is lost, and nobody else's cancellation is swallowed or taken for ours."""

# ruff: noqa: PT012  (whole blocks raise here: blocks are the subject)

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from attacks import ARRIVALS, cancel_everywhere, nothing_held, room

import holdfast
from holdfast import (
    AdaptiveLimit,
    Backoff,
    Breaker,
    BreakerOpen,
    Budget,
    Bulkhead,
    BulkheadFull,
    DeadlineExceeded,
    Fallback,
    Hedge,
    Policy,
    RateLimit,
    RateLimited,
    Retry,
)
from holdfast.testing import FakeClock
from stopwatch import Stopwatch

# Cancellation at every await.


def half_open(**parts: Any) -> Policy:
    """A policy whose next call is a probe, at the moment 1002 of its clock."""
    rules = parts.pop("rules", {})
    return Policy(
        "shop",
        breaker=Breaker(consecutive=1, open_for=1.0, open_for_max=1.0, probe_share=1.0, max_probes=1, ignore=LookupError, **rules),
        **parts,
    )


async def fail(error: BaseException) -> None:
    raise error


async def open_it(policy: Policy) -> None:
    with pytest.raises(ConnectionError):
        await policy.acall(fail, ConnectionError())
    await asyncio.sleep(2)


async def healthy() -> bool:
    await asyncio.sleep(0.1)
    return True


async def work() -> str:
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await asyncio.sleep(0.1)
    await asyncio.sleep(0.1)
    return "done"


def everything() -> Policy:
    return half_open(
        rules={"health_check": healthy},
        deadline=50,
        attempt_timeout=10,
        retry=Retry(backoff=Backoff(base=0.1, jitter="none"), on=LookupError),
        rate_limit=RateLimit(10, wait=5),
        bulkhead=Bulkhead(1, queue=1, wait=20),
        fallback=Fallback(value="fallback", on=ArithmeticError),
    )


async def by_acall(policy: Policy) -> None:
    await policy.acall(work)


async def by_decorator(policy: Policy) -> None:
    await policy(work)()


async def by_guard(policy: Policy) -> None:
    async with policy.guard():
        await work()


async def by_attempts(policy: Policy) -> None:
    async for attempt in policy.attempts():
        async with attempt:
            await work()
            if attempt.number < 2:
                raise LookupError
            return


@pytest.mark.parametrize("arrival", ARRIVALS)
@pytest.mark.parametrize("way", [by_acall, by_decorator, by_guard, by_attempts])
def test_a_probe_that_is_cancelled_at_any_await_leaves_nothing_behind(
    way: Callable[[Policy], Coroutine[Any, Any, None]], arrival: str
) -> None:
    async def scenario_after_scenario() -> None:
        def scenario() -> tuple[Coroutine[Any, Any, None], Callable[[], Awaitable[None]]]:
            policy = everything()

            async def attacked() -> None:
                await open_it(policy)
                await way(policy)

            async def check() -> None:
                nothing_held(policy)
                assert asyncio.current_task().cancelling() == 0
                await asyncio.sleep(1000)
                assert await policy.acall(work) == "done"

            return attacked(), check

        assert await cancel_everywhere(arrival, scenario) >= 5

    FakeClock().run(scenario_after_scenario())


@pytest.mark.parametrize(
    "limit", [{"bulkhead": Bulkhead(2, queue=5, wait=50)}, {"adaptive": AdaptiveLimit(initial=2, max_limit=2, queue=5, wait=50)}]
)
@pytest.mark.parametrize("arrival", ARRIVALS)
def test_a_waiter_that_is_cancelled_at_any_await_also_as_it_is_served_loses_no_place(limit: dict[str, Any], arrival: str) -> None:
    async def scenario_after_scenario() -> None:
        def scenario() -> tuple[Coroutine[Any, Any, None], Callable[[], Awaitable[None]]]:
            policy = Policy("shop", **limit)

            async def attacked() -> None:
                holders = [asyncio.create_task(policy.acall(asyncio.sleep, 1)) for _ in range(2)]
                await asyncio.sleep(0)
                behind = asyncio.create_task(policy.acall(work))
                try:
                    assert await policy.acall(work) == "done"
                finally:
                    for task in holders:
                        task.add_done_callback(lambda _: None)
                assert await behind == "done"

            async def check() -> None:
                nothing_held(policy)
                assert room(policy) == 2

            return attacked(), check

        assert await cancel_everywhere(arrival, scenario) >= 3

    FakeClock().run(scenario_after_scenario())


@pytest.mark.parametrize("steps", range(12))
def test_task_cancel_at_every_step_of_the_loop_around_the_serving_loses_no_place(steps: int) -> None:
    async def main() -> None:
        policy = Policy("shop", bulkhead=Bulkhead(1, queue=3, wait=50))
        go = asyncio.Event()
        holder = asyncio.create_task(policy.acall(go.wait))
        await asyncio.sleep(0)
        first, second = (asyncio.create_task(policy.acall(work)) for _ in range(2))
        for _ in range(3):
            await asyncio.sleep(0)
        assert policy.snapshot()["limit"] == {"limit": 1, "running": 1, "waiting": 2}
        go.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        first.cancel()
        assert await second == "done"
        assert (await asyncio.gather(first, return_exceptions=True))[0].__class__ is asyncio.CancelledError
        await holder
        nothing_held(policy)
        assert room(policy) == 1

    FakeClock().run(main())


@pytest.mark.parametrize("arrival", ARRIVALS)
def test_a_hedged_call_that_is_cancelled_at_any_await_leaves_no_task_and_no_place(arrival: str) -> None:
    async def scenario_after_scenario() -> None:
        def scenario() -> tuple[Coroutine[Any, Any, None], Callable[[], Awaitable[None]]]:
            policy = Policy("shop", deadline=50, hedge=Hedge(after=0.05, extra=2), bulkhead=Bulkhead(3), breaker=Breaker())
            running = [0]

            async def slow() -> None:
                running[0] += 1
                try:
                    await work()
                finally:
                    await asyncio.sleep(0)
                    running[0] -= 1

            async def attacked() -> None:
                try:
                    await policy.acall(slow)
                finally:
                    assert running[0] == 0, "an attempt outlives the call"

            async def check() -> None:
                nothing_held(policy)
                assert room(policy) == 3

            return attacked(), check

        assert await cancel_everywhere(arrival, scenario) >= 2

    FakeClock().run(scenario_after_scenario())


def test_a_hedged_call_that_is_cancelled_twice_still_leaves_no_task() -> None:
    async def main() -> None:
        policy = Policy("shop", hedge=Hedge(after=0.05), bulkhead=Bulkhead(2))
        ended = []

        async def stubborn() -> None:
            try:
                await asyncio.sleep(10)
            finally:
                await asyncio.sleep(1)
                ended.append(True)

        task = asyncio.create_task(policy.acall(stubborn))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True, True]
        assert asyncio.all_tasks() == {asyncio.current_task()}
        nothing_held(policy)

    FakeClock().run(main())


def test_a_coroutine_that_is_closed_in_another_context_gives_its_place_back_without_a_word() -> None:
    """So does the garbage collector with the task of a loop that was left."""
    import contextvars

    policy = Policy("shop", bulkhead=Bulkhead(1), breaker=Breaker())

    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        inner = policy.acall(hang)

        async def begin() -> None:
            inner.send(None)

        await asyncio.create_task(begin())
        assert policy.snapshot()["limit"]["running"] == 1
        contextvars.Context().run(inner.close)
        nothing_held(policy)

    asyncio.run(main())


# Rate limit.


def test_a_waiter_for_the_rate_limit_that_is_cancelled_gives_its_turn_back() -> None:
    async def main() -> None:
        policy = Policy("shop", rate_limit=RateLimit(1, wait=100))
        await policy.acall(asyncio.sleep, 0)
        for _ in range(20):
            task = asyncio.create_task(policy.acall(asyncio.sleep, 0))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await policy.acall(asyncio.sleep, 0)
        assert loop.time() - began == pytest.approx(1.0)

    FakeClock().run(main())


def test_the_wait_for_the_rate_limit_ends_at_the_deadline_and_takes_no_turn() -> None:
    async def main() -> None:
        policy = Policy("shop", rate_limit=RateLimit(1, wait=100))
        await policy.acall(asyncio.sleep, 0)
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with holdfast.deadline(0.5):
            with pytest.raises(RateLimited) as caught:
                await policy.acall(asyncio.sleep, 0)
        assert loop.time() == began
        assert caught.value.retry_after == pytest.approx(1.0)
        await policy.acall(asyncio.sleep, 0)
        assert loop.time() - began == pytest.approx(1.0)

    FakeClock().run(main())


# Whose cancellation it is.


async def hang() -> None:
    await asyncio.sleep(1000)


def guarded_by(kind: str, seconds: float) -> Callable[[], Awaitable[Any]]:
    """The three ways in which a time of ours surrounds a hanging call."""
    if kind == "block":

        async def block() -> None:
            async with holdfast.deadline(seconds):
                await hang()

        return block
    policy = Policy("shop", deadline=seconds) if kind == "deadline" else Policy("shop", attempt_timeout=seconds)
    return policy(hang)


KINDS = ("block", "deadline", "attempt timeout")


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_of_ours_raises_deadline_exceeded_and_leaves_no_cancellation_behind(kind: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlineExceeded) as caught:
            await guarded_by(kind, 1.0)()
        assert loop.time() - began == pytest.approx(1.0)
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(1)  # a cancellation left over would come here

    FakeClock().run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_task_cancel_is_passed_on_as_it_is(kind: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(guarded_by(kind, 10)())  # type: ignore[arg-type]
        await asyncio.sleep(1)
        task.cancel("by me")
        with pytest.raises(asyncio.CancelledError, match="by me"):
            await task
        assert task.cancelled()
        assert task.cancelling() == 1

    FakeClock().run(main())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("ours", "theirs"), [(2, 1), (1, 1), (1, 2)])
def test_a_users_timeout_outside_of_ours(kind: str, ours: float, theirs: float) -> None:
    """Whichever is first ends it; at the same moment the outer one does."""

    async def main() -> None:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(theirs) as timeout:
                await guarded_by(kind, ours)()
        assert isinstance(caught.value, DeadlineExceeded) == (ours < theirs)
        assert timeout.expired() == (theirs <= ours)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(5)

    FakeClock().run(main())


@pytest.mark.parametrize(("ours", "theirs"), [(2, 1), (1, 1), (1, 2)])
def test_a_users_timeout_inside_of_ours(ours: float, theirs: float) -> None:
    async def main() -> None:
        async def fn() -> None:
            async with asyncio.timeout(theirs):
                await hang()

        with pytest.raises(TimeoutError) as caught:
            await Policy("shop", deadline=ours).acall(fn)
        assert isinstance(caught.value, DeadlineExceeded) == (ours <= theirs)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(5)

    FakeClock().run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancellation_at_the_very_moment_of_ours_is_not_swallowed(kind: str) -> None:
    async def main() -> None:
        task = asyncio.create_task(guarded_by(kind, 1.0)())  # type: ignore[arg-type]
        asyncio.get_running_loop().call_later(1.0, task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task

    FakeClock().run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_task_group_ours_fails_the_group_and_a_siblings_failure_is_not_ours(kind: str) -> None:
    async def boom() -> None:
        await asyncio.sleep(0.5)
        raise LookupError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(guarded_by(kind, 1)())  # type: ignore[arg-type]
                group.create_task(hang())
        assert [type(error) for error in caught.value.exceptions] == [DeadlineExceeded]
        before = asyncio.current_task().cancelling()  # Python 3.11 leaves the group's own cancellation behind
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(boom())
                await guarded_by(kind, 1)()
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        assert asyncio.current_task().cancelling() == before
        await asyncio.sleep(5)

    FakeClock().run(main())


def test_a_task_group_inside_of_ours_is_cancelled_with_it() -> None:
    async def fn() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(hang())
            group.create_task(Policy("inner").acall(hang))
            await hang()

    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            await Policy("shop", deadline=1).acall(fn)
        assert asyncio.current_task().cancelling() == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    FakeClock().run(main())


def test_a_call_made_while_the_task_is_being_cancelled_still_has_its_own_time() -> None:
    async def main() -> None:
        seen: list[object] = []

        async def cleaning() -> None:
            try:
                await hang()
            finally:
                with pytest.raises(DeadlineExceeded):
                    await Policy("shop", deadline=1).acall(hang)
                seen.append(asyncio.current_task().cancelling())

        task = asyncio.create_task(cleaning())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen == [1]

    FakeClock().run(main())


def test_work_that_ends_as_its_time_ends_is_not_cancelled_afterwards() -> None:
    async def main() -> None:
        for _ in range(10):
            for seconds in (0.999999, 1.0, 1.000001):
                try:
                    async with holdfast.deadline(1.0):
                        await asyncio.sleep(seconds)
                except DeadlineExceeded:
                    pass
                assert asyncio.current_task().cancelling() == 0
                await asyncio.sleep(0.1)

    FakeClock().run(main())


def test_code_that_swallows_our_cancellation_is_not_cancelled_once_more_outside() -> None:
    async def main() -> None:
        async with holdfast.deadline(1.0):
            try:
                await hang()
            except asyncio.CancelledError:
                pass
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(1)

    FakeClock().run(main())


@pytest.mark.realtime
def test_async_work_is_cancelled_within_50_ms_of_its_deadline() -> None:
    async def main() -> None:
        policy = Policy("shop", deadline=0.05)
        late = []
        for _ in range(5):
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded):
                await policy.acall(hang)
            assert watch.elapsed >= 0.05
            late.append(watch.took - 0.05)
        assert min(late) < 0.05

    asyncio.run(main())


def test_many_deadlines_of_all_lengths_in_one_loop_each_ring_at_their_own_time() -> None:
    async def one(seconds: float) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(DeadlineExceeded):
            async with holdfast.deadline(seconds):
                await hang()
        return loop.time() - began

    async def main() -> None:
        lengths = [((index * 7919) % 1000 + 1) / 100 for index in range(3000)]
        assert await asyncio.gather(*map(one, lengths)) == pytest.approx(lengths)

    FakeClock().run(main())


# Hedge.


def test_the_breaker_sees_a_dependency_that_hangs_though_its_calls_are_hedged() -> None:
    async def main() -> None:
        policy = Policy("shop", deadline=1.0, hedge=Hedge(after=0.5), breaker=Breaker(consecutive=2))
        with pytest.raises(DeadlineExceeded):
            await policy.acall(hang)
        assert policy.breaker.state == "open"
        with pytest.raises(BreakerOpen):
            await policy.acall(hang)

    FakeClock().run(main())


def test_a_hedge_takes_the_first_success_cancels_the_losers_and_draws_from_the_budget() -> None:
    async def main() -> None:
        budget = Budget(ratio=0, min_per_second=0.1, window=10)
        policy = Policy("shop", deadline=50, hedge=Hedge(after=0.1, budget=budget), bulkhead=Bulkhead(2), breaker=Breaker(consecutive=1))
        cancelled = []
        turns = iter(range(10))

        async def fn() -> str:
            if next(turns) in {0, 2}:
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    cancelled.append(True)
                    raise
            return "done"

        loop = asyncio.get_running_loop()
        assert await policy.acall(fn) == "done"
        assert loop.time() == pytest.approx(1000.1)
        assert cancelled == [True]
        nothing_held(policy)
        assert policy.breaker.snapshot()["failures"] == 0
        assert policy.snapshot()["budget"]["left"] == 0
        assert await policy.acall(fn) == "done"  # no hedge is left: the slow one is waited for
        assert loop.time() == pytest.approx(1010.1)

    FakeClock().run(main())


@pytest.mark.parametrize("first", [0, 1])
def test_a_hedge_goes_on_when_one_attempt_fails_and_raises_the_last_failure_when_all_do(first: int) -> None:
    async def main() -> None:
        policy = Policy("shop", hedge=Hedge(after=0.1), bulkhead=Bulkhead(2))
        turns = iter(range(10))

        async def fn() -> str:
            turn = next(turns)
            await asyncio.sleep(0.2 if turn == first else 0.3)
            if turn == first:
                raise ConnectionError
            return f"attempt {turn}"

        assert await policy.acall(fn) == f"attempt {1 - first}"
        assert asyncio.all_tasks() == {asyncio.current_task()}

        async def all_fail() -> None:
            await asyncio.sleep(0.2)
            raise LookupError(next(turns))

        with pytest.raises(LookupError, match="3"):
            await policy.acall(all_fail)
        nothing_held(policy)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    FakeClock().run(main())


# Blocks.


def test_async_blocks_are_left_by_break_return_and_errors_and_leave_no_task_to_close_them() -> None:
    async def main() -> None:
        policy = Policy("shop", deadline=5, retry=Retry(attempts=3, backoff=Backoff(base=0.1)), bulkhead=Bulkhead(1), breaker=Breaker())

        async def by_return() -> int:
            async for attempt in policy.attempts():
                async with attempt:
                    await asyncio.sleep(0)
                    return attempt.number
            return 0

        async for attempt in policy.attempts():
            async with attempt:
                break
        assert await by_return() == 1
        with pytest.raises(LookupError):
            async for attempt in policy.attempts():
                async with attempt:
                    raise LookupError
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        nothing_held(policy)
        seen = []
        with pytest.raises(ConnectionError) as caught:
            async for attempt in policy.attempts():
                async with attempt:
                    seen.append(attempt.number)
                    raise ConnectionError
        assert seen == [1, 2, 3]
        assert any("gave up after 3 attempts" in line for line in caught.value.__notes__)
        seen = []
        async for attempt in policy.attempts():
            async with attempt:
                seen.append(attempt.number)
                if len(seen) < 2:
                    raise ConnectionError
        assert seen == [1, 2]
        nothing_held(policy)

    FakeClock().run(main())


def test_an_async_block_is_cut_off_and_tried_again_like_a_call() -> None:
    async def main() -> None:
        policy = Policy("shop", attempt_timeout=1, retry=Retry(attempts=2, backoff=Backoff(base=0.0)), bulkhead=Bulkhead(1))
        seen = []
        async for attempt in policy.attempts():
            async with attempt:
                seen.append(attempt.number)
                if attempt.number == 1:
                    await hang()
        assert seen == [1, 2]
        with pytest.raises(DeadlineExceeded):
            async with policy.guard():
                await hang()
        assert asyncio.current_task().cancelling() == 0
        nothing_held(policy)

    FakeClock().run(main())


def test_misuse_of_async_blocks_is_a_runtime_error_and_holds_nothing() -> None:
    async def main() -> None:
        policy = Policy("shop", retry=Retry(attempts=3), bulkhead=Bulkhead(1))
        with pytest.raises(RuntimeError, match="each attempt is made in its block"):
            async for _ in policy.attempts():
                pass
        with pytest.raises(RuntimeError, match="once"):
            async for attempt in policy.attempts():
                async with attempt, attempt:
                    pass
        async with policy.guard():
            with pytest.raises(BulkheadFull):
                async with policy.guard():
                    raise AssertionError("the block ran")
            with pytest.raises(BulkheadFull):
                async for attempt in policy.attempts():
                    async with attempt:
                        raise AssertionError("the block ran")
        guard = policy.guard()
        async with guard:
            with pytest.raises(RuntimeError, match="one block"):
                await guard.__aenter__()
        nothing_held(policy)

    FakeClock().run(main())


def test_a_block_that_cannot_begin_holds_nothing() -> None:
    """Outside of a task there is nothing to cancel at the deadline."""

    async def main() -> None:
        policy = Policy("shop", deadline=1, bulkhead=Bulkhead(1))
        outcome = asyncio.get_running_loop().create_future()

        def outside() -> None:
            try:
                policy.guard().__aenter__().send(None)
            except BaseException as error:
                outcome.set_result(repr(error))

        asyncio.get_running_loop().call_soon(outside)
        assert "needs a task" in await outcome
        nothing_held(policy)
        assert holdfast.remaining() == float("inf")

    asyncio.run(main())


def test_a_deadline_in_an_async_generator_that_another_task_closes_ends_quietly() -> None:
    """That is what the loop does with one that was left by `break`."""

    async def main() -> None:
        policy = Policy("shop", deadline=60, bulkhead=Bulkhead(1))

        async def rows() -> Any:
            async with holdfast.deadline(50), policy.guard():
                yield 1
                yield 2

        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async for _ in rows():
            break
        await asyncio.sleep(1)
        nothing_held(policy)
        assert problems == []
        await asyncio.sleep(100)

    FakeClock().run(main())


def test_a_health_check_that_the_callers_deadline_cuts_off_says_nothing_about_the_dependency() -> None:
    async def slow_check() -> bool:
        await asyncio.sleep(1)
        return True

    async def main() -> None:
        policy = half_open(rules={"health_check": slow_check, "probes_to_close": 1})
        await open_it(policy)
        with pytest.raises(DeadlineExceeded):
            async with holdfast.deadline(0.5):
                await policy.acall(work)
        nothing_held(policy)
        assert policy.breaker.state == "half-open"
        await policy.acall(work)
        assert policy.breaker.state == "closed"

    FakeClock().run(main())
