"""The same under trio: limits, deadlines and whose cancellation it is."""

# ruff: noqa: PT012  (whole blocks raise here: blocks are the subject)

from __future__ import annotations

import time
from typing import Any

import pytest
from attacks import nothing_held, room

import holdfast
from holdfast import Backoff, Breaker, Budget, Bulkhead, DeadlineExceeded, Hedge, Policy, RateLimit, Retry

trio = pytest.importorskip("trio")
testing = pytest.importorskip("trio.testing")


def run(main: Any) -> None:
    trio.run(main)


async def fail(error: BaseException) -> None:
    raise error


@pytest.mark.realtime
@pytest.mark.parametrize("kind", ["block", "deadline", "attempt timeout"])
def test_work_is_cut_off_at_its_time(kind: str) -> None:
    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            if kind == "block":
                async with holdfast.deadline(0.03):
                    await trio.sleep_forever()
            elif kind == "deadline":
                await Policy("shop", deadline=0.03).acall(trio.sleep_forever)
            else:
                await Policy("shop", attempt_timeout=0.03).acall(trio.sleep_forever)
        assert time.monotonic() - began < 5

    run(main)


@pytest.mark.realtime
def test_a_users_cancellation_is_never_taken_for_ours() -> None:
    async def main() -> None:
        policy = Policy("shop", deadline=10, breaker=Breaker(), bulkhead=Bulkhead(1), retry=Retry(on=Exception))
        with trio.move_on_after(0.02) as scope:
            await policy.acall(trio.sleep_forever)
        assert scope.cancelled_caught
        nothing_held(policy)
        assert policy.breaker.snapshot()["calls"] == 0
        with trio.move_on_after(10) as scope, pytest.raises(DeadlineExceeded):
            await Policy("shop", deadline=0.02).acall(trio.sleep_forever)
        assert not scope.cancelled_caught
        with pytest.raises(DeadlineExceeded) as caught:
            async with holdfast.deadline(0.02):
                await policy.acall(trio.sleep_forever)
        assert caught.value.policy is None
        assert policy.breaker.snapshot()["calls"] == 0
        nothing_held(policy)

    run(main)


@pytest.mark.realtime
def test_a_cancelled_probe_and_a_cancelled_waiter_free_their_places() -> None:
    async def main() -> None:
        policy = Policy(
            "shop", breaker=Breaker(consecutive=1, open_for=0.001, probe_share=1.0, max_probes=1, ignore=LookupError), bulkhead=Bulkhead(1)
        )
        with pytest.raises(ConnectionError):
            await policy.acall(fail, ConnectionError())
        await trio.sleep(0.01)
        for _ in range(3):
            with trio.move_on_after(0.005):
                await policy.acall(trio.sleep_forever)
            nothing_held(policy)
            with pytest.raises(LookupError):
                await policy.acall(fail, LookupError())
            nothing_held(policy)
        waiting = Policy("waiting", bulkhead=Bulkhead(1, queue=2, wait=10), rate_limit=RateLimit(1000, burst=100))
        for steps in range(6):
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()

                async def waiter(scope: Any = scope) -> None:
                    with scope:
                        await waiting.acall(trio.sleep, 0)

                async with waiting.guard():
                    nursery.start_soon(waiter)
                    nursery.start_soon(waiting.acall, trio.sleep, 0)
                    await testing.wait_all_tasks_blocked()
                    assert waiting.snapshot()["limit"]["waiting"] == 2
                for _ in range(steps):  # the place is just being handed over
                    await trio.lowlevel.checkpoint()
                scope.cancel()
            nothing_held(waiting)
            assert room(waiting) == 1

    run(main)


@pytest.mark.realtime
def test_a_shield_holds_off_a_deadline_and_is_bounded_itself() -> None:
    async def main() -> None:
        cleaned = False
        with pytest.raises(DeadlineExceeded):
            async with holdfast.deadline(0.02):
                async with holdfast.shield(5):
                    await trio.sleep(0.05)
                    cleaned = True
                await trio.sleep_forever()
        assert cleaned
        with pytest.raises(DeadlineExceeded):
            async with holdfast.deadline(0.01), holdfast.shield(0.03):
                await trio.sleep_forever()

    run(main)


@pytest.mark.realtime
def test_hedges_race_and_leave_nothing() -> None:
    async def main() -> None:
        turns = iter(range(10))

        async def first_is_slow() -> str:
            if next(turns) == 0:
                await trio.sleep_forever()
            return "rival"

        policy = Policy(
            "shop", deadline=5, hedge=Hedge(after=0.01, budget=Budget(min_per_second=10)), bulkhead=Bulkhead(2), breaker=Breaker()
        )
        assert await policy.acall(first_is_slow) == "rival"
        nothing_held(policy)
        with pytest.raises(LookupError):
            await policy.acall(fail, LookupError())
        with trio.move_on_after(0.03) as scope:
            await policy.acall(trio.sleep_forever)
        assert scope.cancelled_caught
        nothing_held(policy)
        hung = Policy("hung", deadline=0.03, hedge=Hedge(after=0.01), breaker=Breaker(consecutive=1))
        with pytest.raises(DeadlineExceeded):
            await hung.acall(trio.sleep_forever)
        assert hung.breaker.state == "open"

    run(main)


def test_blocks_are_left_by_return_without_a_word() -> None:
    async def main() -> None:
        policy = Policy("shop", deadline=5, retry=Retry(attempts=3, backoff=Backoff(base=0.0)), bulkhead=Bulkhead(1))

        async def by_return() -> int:
            async for attempt in policy.attempts():
                async with attempt:
                    if attempt.number == 1:
                        raise ConnectionError
                    return attempt.number
            return 0

        assert await by_return() == 2
        async with policy.guard():
            await trio.sleep(0)
        nothing_held(policy)

    run(main)
