"""Threads that come at the same moment: limits hold, nothing is lost, and no lock is held while the user's code runs."""

# ruff: noqa: B023, PT012  (each round ends before the next begins; whole blocks raise here: blocks are the subject)

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attacks import Peak, fail, in_threads, listening, nothing_held, room

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
    events,
)
from holdfast.testing import FakeClock
from stopwatch import Stopwatch


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Threads change places a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def opened(clock: FakeClock, **rules: Any) -> Policy:
    """A policy whose breaker has opened, and whose pause is over."""
    policy = Policy("shop", breaker=Breaker(consecutive=1, open_for=1.0, open_for_max=1.0, **rules))
    with clock, pytest.raises(ConnectionError):
        policy.call(fail, ConnectionError())
    clock.advance(1.5)
    return policy


@pytest.mark.parametrize("max_probes", [1, 3])
def test_of_twenty_threads_at_the_moment_of_half_open_at_most_max_probes_run(max_probes: int) -> None:
    for _ in range(25):
        clock = FakeClock()
        policy = opened(clock, probe_share=1.0, max_probes=max_probes, probes_to_close=100)
        peak, others = Peak(), threading.Barrier(20)

        def probe() -> None:
            with peak:
                others.wait(10)  # it ends when everybody is in or refused, so the number is exact and not a matter of luck

        def caller(_: int) -> None:
            with clock:
                try:
                    policy.call(probe)
                except BreakerOpen:
                    others.wait(10)
                    raise

        outcomes = Counter(type(outcome) for outcome in in_threads(20, caller))
        assert outcomes == {type(None): max_probes, BreakerOpen: 20 - max_probes}
        assert peak.most == max_probes
        nothing_held(policy)


def test_a_probe_share_of_five_percent_is_five_percent_of_ten_thousand_calls_from_eight_threads() -> None:
    clock = FakeClock()
    policy = opened(clock, probe_share=0.05, max_probes=100, probes_to_close=10**6)
    peak = Peak()

    def caller(_: int) -> None:
        with clock:
            for _ in range(1250):
                try:
                    with policy.guard(), peak:
                        pass
                except BreakerOpen:
                    pass

    in_threads(8, caller)
    assert peak.entries == 500


def test_results_that_come_after_the_state_has_changed_change_nothing() -> None:
    clock = FakeClock()
    policy = Policy("shop", breaker=Breaker(consecutive=3, open_for=1.0, open_for_max=1.0, probe_share=1.0, probes_to_close=2))
    inside, go = threading.Barrier(11), threading.Event()

    def slow_failure() -> None:
        inside.wait(10)
        assert go.wait(10)
        raise ConnectionError

    def caller(_: int) -> None:
        with clock:
            policy.call(slow_failure)

    with ThreadPoolExecutor(10) as pool, clock:
        late = [pool.submit(holdfast.carry(caller), index) for index in range(10)]
        inside.wait(10)
        policy.breaker.force_open()
        policy.breaker.reset()
        go.set()
        assert all(isinstance(future.exception(), ConnectionError) for future in late)
        assert policy.breaker.snapshot()["state"] == "closed"
        assert policy.breaker.snapshot()["calls"] == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, ValueError])
def test_a_probe_that_is_interrupted_or_ignored_frees_its_place_and_its_turn(error: type[BaseException]) -> None:
    clock = FakeClock()
    policy = opened(clock, probe_share=0.05, max_probes=1, probes_to_close=2, ignore=ValueError)
    with clock:
        for _ in range(10):
            with pytest.raises(error):
                policy.call(fail, error())
            nothing_held(policy)
            with pytest.raises(error), policy.guard():
                raise error
            nothing_held(policy)
        assert policy.breaker.state == "half-open"
        assert policy.call(int) == 0


def test_a_probe_that_gets_no_place_in_the_bulkhead_frees_its_place_in_the_breaker() -> None:
    clock = FakeClock()
    policy = Policy(
        "shop",
        breaker=Breaker(consecutive=1, open_for=1.0, probe_share=1.0, max_probes=1, ignore=ValueError),
        bulkhead=Bulkhead(1, queue=1, wait=0.1),
    )
    with clock, pytest.raises(ConnectionError):
        policy.call(fail, ConnectionError())
    clock.advance(2)
    inside, go = threading.Barrier(2), threading.Event()

    def slow() -> None:
        inside.wait(10)
        assert go.wait(10)

    with clock:
        # Forced closed, so that somebody holds the only place while the breaker is half-open.
        policy.breaker.force_closed()
        with ThreadPoolExecutor(1) as pool:
            holder = pool.submit(holdfast.carry(policy.call), slow)
            inside.wait(10)
            policy.breaker.reset()
            with pytest.raises(BulkheadFull):
                policy.call(int)
            assert policy.snapshot()["breaker"]["probes"] == 0
            go.set()
            holder.result(10)
    nothing_held(policy)


def test_the_limit_holds_for_threads_that_hammer_it_and_every_place_comes_back() -> None:
    policy = Policy("shop", bulkhead=Bulkhead(3, queue=20, wait=30.0))
    peak = Peak()

    def work(n: int) -> None:
        with peak:
            if n % 3 == 0:
                raise ConnectionError

    def caller(_: int) -> int:
        served = 0
        for n in range(200):
            try:
                policy.call(work, n)
            except ConnectionError:
                pass
            served += 1
        return served

    assert in_threads(8, caller) == [200] * 8
    assert peak.most <= 3
    assert peak.entries == 1600
    nothing_held(policy)
    assert room(policy) == 3


def test_the_queue_is_bounded_and_the_wait_too_while_threads_hammer_it() -> None:
    policy = Policy("shop", bulkhead=Bulkhead(2, queue=2, wait=0.002))
    peak = Peak()
    waiting: list[int] = []

    def work() -> None:
        with peak:
            waiting.append(policy.snapshot()["limit"]["waiting"])
            time.sleep(0.001)

    def caller(_: int) -> Counter[str]:
        seen: Counter[str] = Counter()
        for _ in range(100):
            try:
                policy.call(work)
                seen["served"] += 1
            except BulkheadFull:
                seen["refused"] += 1
        return seen

    total: Counter[str] = sum((Counter(part) for part in in_threads(8, caller)), Counter())  # type: ignore[call-overload]
    assert total["served"] == peak.entries
    assert total.total() == 800
    assert peak.most <= 2
    # One more may stand there for the moment in which it is refused.
    assert max(waiting) <= 2 + 8
    nothing_held(policy)
    assert room(policy) == 2


@pytest.mark.realtime
def test_waiting_threads_are_served_in_the_order_in_which_they_came() -> None:
    policy = Policy("shop", bulkhead=Bulkhead(1, queue=10, wait=10.0))
    order: list[int] = []
    threads = []
    with policy.guard():
        for index in range(10):
            thread = threading.Thread(target=policy.call, args=(order.append, index))
            thread.start()
            threads.append(thread)
            while policy.snapshot()["limit"]["waiting"] <= index:
                time.sleep(0.0005)
    for thread in threads:
        thread.join(10)
    assert order == list(range(10))


@pytest.mark.realtime
def test_a_thread_waits_for_a_place_no_longer_than_its_wait_or_its_deadline() -> None:
    policy = Policy("shop", bulkhead=Bulkhead(1, queue=5, wait=0.05))
    with policy.guard():
        watch = Stopwatch()
        with pytest.raises(BulkheadFull):
            in_one_thread(policy.call, int)
        assert watch.took < 1.0
        with pytest.raises(DeadlineExceeded):
            in_one_thread(bounded_call, 0.01, policy)
        assert policy.snapshot()["limit"]["waiting"] == 0


def bounded_call(seconds: float, policy: Policy) -> None:
    with holdfast.deadline(seconds):
        policy.call(int)


def in_one_thread(fn: Callable[..., Any], *args: Any) -> Any:
    [outcome] = in_threads(1, lambda _: fn(*args))
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def test_an_adaptive_limit_stays_in_its_bounds_and_keeps_its_places_while_threads_move_it() -> None:
    policy = Policy("shop", adaptive=AdaptiveLimit(algorithm="aimd", initial=4, min_limit=2, max_limit=6, queue=20, wait=30.0))
    peak = Peak()

    def work(n: int) -> None:
        with peak:
            if n % 7 == 0:
                raise ConnectionError

    def caller(_: int) -> None:
        for n in range(200):
            try:
                policy.call(work, n)
            except ConnectionError:
                pass

    in_threads(8, caller)
    nothing_held(policy)
    assert peak.most <= 6 + 1  # a place may be taken while the limit is just made smaller
    limit = policy.snapshot()["limit"]["limit"]
    assert room(policy) == limit


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.2, 1.0])
def test_threads_that_share_a_budget_get_the_share_plus_the_floor_and_no_retry_more(ratio: float) -> None:
    clock = FakeClock()
    budget = Budget(ratio=ratio, min_per_second=2.0, window=10.0)
    retry = Retry(attempts=2, backoff=Backoff(jitter="none", base=0.0), budget=budget)
    policies = [Policy("stock", retry=retry), Policy("billing", retry=retry)]
    peak = Peak()

    def work() -> None:
        with peak:
            raise ConnectionError

    def caller(index: int) -> None:
        with clock:
            for _ in range(250):
                with pytest.raises(ConnectionError):
                    policies[index % 2].call(work)

    in_threads(8, caller)
    assert abs(peak.entries - 2000 - (ratio * 2000 + 20)) <= 1 or (ratio == 1.0 and peak.entries == 4000)


def test_counts_of_threads_are_all_there() -> None:
    policy = Policy("shop", breaker=Breaker(failure_rate=1.0, min_calls=10**6))

    def caller(index: int) -> None:
        for n in range(500):
            try:
                policy.call(fail, ConnectionError()) if (n + index) % 4 == 0 else policy.call(int)
            except ConnectionError:
                pass

    in_threads(8, caller)
    seen = policy.breaker.snapshot()
    assert (seen["calls"], seen["failures"]) == (4000, 1000)


def test_a_rate_limit_lets_no_more_threads_through_than_its_burst_and_rate() -> None:
    clock = FakeClock()
    policy = Policy("shop", rate_limit=RateLimit(10, burst=5))
    peak = Peak()

    def caller(_: int) -> int:
        refused = 0
        with clock:
            for _ in range(50):
                try:
                    with policy.guard(), peak:
                        pass
                except RateLimited:
                    refused += 1
        return refused

    in_threads(8, caller)
    assert peak.entries == 5
    clock.advance(0.3)
    in_threads(8, caller)
    assert peak.entries == 8


# No lock is held while the user's code runs.


def prod(policy: Policy) -> None:
    """What hostile code does from wherever it is called."""
    policy.snapshot()
    policy.explain()
    assert policy.breaker.state in {"closed", "open", "half-open"}
    try:
        with policy.guard():
            pass
    except holdfast.Rejected:
        pass
    try:
        policy.call(int)
    except holdfast.HoldfastError:
        pass
    policy.breaker.force_closed()
    policy.breaker.reset()


@pytest.mark.parametrize("place", ["function", "retry.on", "retry.on_result", "delay_from", "ignore", "health", "fallback", "listener"])
def test_user_code_that_comes_back_to_its_own_policy_does_not_wait_for_itself(place: str) -> None:
    busy = threading.local()
    prodded = Counter[str]()

    def hook(here: str, answer: Any) -> Any:
        def ask(*_: object) -> Any:
            if here == place and not getattr(busy, "now", False):
                busy.now = True  # once is enough, and for ever is a recursion
                prodded[here] += 1
                try:
                    prod(policy)
                finally:
                    busy.now = False
            return answer

        return ask

    clock = FakeClock()
    policy = Policy(
        "shop",
        retry=Retry(
            attempts=2,
            on=hook("retry.on", True),
            on_result=hook("retry.on_result", False),
            delay_from=hook("delay_from", 0.0),
            budget=Budget(min_per_second=1000),
        ),
        breaker=Breaker(consecutive=2, open_for=1.0, probe_share=1.0, ignore=hook("ignore", False), health_check=hook("health", True)),
        bulkhead=Bulkhead(2, queue=2, wait=0.1),
        fallback=Fallback(hook("fallback", None)),
    )
    outcomes = iter([ConnectionError(), ConnectionError(), 1, 1, 1])

    def work() -> Any:
        hook("function", None)()
        outcome = next(outcomes, 1)
        return fail(outcome) if isinstance(outcome, BaseException) else outcome

    def everything() -> None:
        stop = events.subscribe(hook("listener", None))
        try:
            with clock:
                policy.call(work)
                clock.advance(10)
                policy.call(work)
                policy.call(work)
        finally:
            stop()

    in_one_thread(everything)  # with a timeout: what waits for itself hangs
    assert prodded[place] > 0
    nothing_held(policy)


def test_eight_calls_of_a_tenth_of_a_second_run_at_once() -> None:
    policy = Policy("shop", deadline=10, retry=Retry(), breaker=Breaker(), bulkhead=Bulkhead(8), rate_limit=RateLimit(1000, burst=8))
    together = threading.Barrier(8)
    outcomes = in_threads(8, lambda _: policy.call(together.wait, 10))
    assert sorted(outcomes) == list(range(8))  # type: ignore[type-var]


# Hedging on threads.


def test_a_hedged_blocking_call_takes_the_first_success_and_every_place_comes_back() -> None:
    go = threading.Event()
    began = threading.Semaphore(0)
    turn = iter(range(10))
    budget = Budget(ratio=0.0, min_per_second=1.0, window=10.0)

    def work() -> str:
        if next(turn) % 2 == 0:
            began.release()
            assert go.wait(10)
            return "slow"
        return "fast"

    with ThreadPoolExecutor(4) as pool:
        policy = Policy("shop", hedge=Hedge(after=0.02, budget=budget, executor=pool), bulkhead=Bulkhead(4), breaker=Breaker(consecutive=1))
        assert policy.call(work) == "fast"
        assert policy.snapshot()["limit"]["running"] == 1  # the loser runs to its end: a thread cannot be stopped
        assert budget.ledger.snapshot(time.monotonic())["retries"] == 1
        go.set()
    nothing_held(policy)
    assert policy.breaker.state == "closed"


def test_a_hedged_blocking_call_obeys_its_deadline_its_breaker_and_its_budget() -> None:
    go = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        hung = Policy("shop", deadline=0.6, hedge=Hedge(after=0.01, extra=2, executor=pool), bulkhead=Bulkhead(8))
        with pytest.raises(DeadlineExceeded):
            hung.call(go.wait, 10)
        assert hung.snapshot()["limit"]["running"] == 3
        stingy = Policy("shop", hedge=Hedge(after=0.01, extra=5, budget=Budget(ratio=0, min_per_second=0), executor=pool))
        peak = Peak()

        def work() -> int:
            with peak:
                time.sleep(0.05)
            return peak.entries

        assert stingy.call(work) == 1
        down = Policy("shop", hedge=Hedge(after=0.01, executor=pool), breaker=Breaker())
        down.breaker.force_open()
        with pytest.raises(BreakerOpen):
            down.call(int)
        go.set()
    nothing_held(hung)


def test_a_hedged_blocking_call_goes_on_after_a_failure_and_raises_the_last_one_when_all_fail() -> None:
    rival = threading.Event()
    turn = iter(range(10))

    def first_fails() -> str:
        if next(turn) == 0:
            assert rival.wait(10)
            raise ConnectionError
        rival.set()
        time.sleep(0.02)
        return "second"

    with ThreadPoolExecutor(4) as pool:
        policy = Policy("shop", hedge=Hedge(after=0.01, executor=pool), bulkhead=Bulkhead(4))
        assert policy.call(first_fails) == "second"
        with pytest.raises(LookupError):
            policy.call(fail, LookupError())
    nothing_held(policy)


def test_no_thread_is_started_or_left_behind() -> None:
    before = set(threading.enumerate())
    policy = Policy("shop", deadline=2.0, attempt_timeout=1.0, retry=Retry(), breaker=Breaker(), bulkhead=Bulkhead(1, queue=1, wait=0.01))

    def look() -> bool:
        return set(threading.enumerate()) == before

    for _ in range(20):
        assert policy.call(look)
    with pytest.raises(LookupError):
        policy.call(fail, LookupError())
    with holdfast.deadline(0.001), policy.guard():
        time.sleep(0.002)
    assert look()


# Blocks.


def test_a_block_that_is_left_by_break_return_or_an_error_gives_everything_back() -> None:
    policy = Policy("shop", retry=Retry(attempts=3, backoff=Backoff(base=0.0)), bulkhead=Bulkhead(1), breaker=Breaker())

    def by_return() -> int:
        for attempt in policy.attempts():
            with attempt:
                return attempt.number
        return 0

    for _ in range(5):
        for attempt in policy.attempts():
            with attempt:
                break
        assert by_return() == 1
        for attempt in policy.attempts():
            with attempt:
                continue
        with pytest.raises(LookupError):
            for attempt in policy.attempts():
                with attempt:
                    raise LookupError
        nothing_held(policy)
    seen = []
    with pytest.raises(ConnectionError) as caught:
        for attempt in policy.attempts():
            with attempt:
                seen.append(attempt.number)
                raise ConnectionError
    assert seen == [1, 2, 3]
    assert any("gave up after 3 attempts" in line for line in caught.value.__notes__)
    assert policy.snapshot()["breaker"]["calls"] == 5 * 3 + 5 + 3
    nothing_held(policy)


def test_a_block_that_is_refused_at_its_entry_holds_nothing() -> None:
    policy = Policy("shop", bulkhead=Bulkhead(1), breaker=Breaker(consecutive=1, probe_share=1.0))
    with policy.guard():
        with pytest.raises(BulkheadFull), policy.guard():
            raise AssertionError("the block ran")
        with pytest.raises(BulkheadFull):
            for attempt in policy.attempts():
                with attempt:
                    raise AssertionError("the block ran")
    nothing_held(policy)


def test_misuse_of_blocks_is_a_runtime_error_and_holds_nothing() -> None:
    policy = Policy("shop", retry=Retry(attempts=3), bulkhead=Bulkhead(1))
    with pytest.raises(RuntimeError, match="each attempt is made in its block"):
        for _ in policy.attempts():
            pass
    with pytest.raises(RuntimeError, match="once"):
        for attempt in policy.attempts():
            with attempt, attempt:
                pass
    guard = policy.guard()
    with guard, pytest.raises(RuntimeError, match="one block"):
        guard.__enter__()
    nothing_held(policy)


def test_a_guard_in_a_generator_that_ends_in_another_context_gives_everything_back() -> None:
    """Frameworks step a generator in a new copy of the context each time."""
    import contextvars

    policy = Policy("shop", deadline=5, bulkhead=Bulkhead(1))

    def dependency() -> Iterator[int]:
        with holdfast.deadline(1.0), policy.guard():
            yield 1

    steps = dependency()
    assert contextvars.copy_context().run(next, steps) == 1
    assert contextvars.copy_context().run(next, steps, None) is None
    nothing_held(policy)


def test_events_of_threads_are_delivered_outside_of_locks_and_none_is_lost() -> None:
    policy = Policy("shop", bulkhead=Bulkhead(8), breaker=Breaker())
    with listening() as seen:
        in_threads(8, lambda _: [policy.call(int) for _ in range(100)])
    assert sum(isinstance(event, events.AttemptEnded) for event in seen) == 800
