"""Hedge: when an answer is late, ask once more and take whichever comes first."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import holdfast
from holdfast import Breaker, BreakerOpen, Budget, Bulkhead, BulkheadFull, DeadlineExceeded, Fallback, Hedge, Policy, RateLimit, events
from holdfast.errors import ClientGone
from holdfast.policies.hedge import Patience
from holdfast.testing import FakeClock, Scripted, Step


def call(policy, dependency, clock=None):
    clock = clock or FakeClock()
    try:
        result = clock.run(policy.acall(dependency.acall))
    except Exception as error:
        result = error
    return result, round(clock.now() - 1000.0, 9)


def test_a_quick_answer_is_not_hedged():
    dependency = Scripted(Step(after=0.1, result="tax"))
    assert call(Policy("p", hedge=Hedge(after=0.2)), dependency) == ("tax", 0.1)
    assert dependency.calls == 1


def test_a_late_answer_is_asked_for_again_and_the_first_success_wins():
    dependency = Scripted(Step(after=5.0, result="late"), Step(after=0.1, result="tax"))
    assert call(Policy("p", hedge=Hedge(after=0.2)), dependency) == ("tax", 0.3)
    assert dependency.began == [1000.0, 1000.2]


def test_the_first_attempt_may_still_win():
    dependency = Scripted(Step(after=0.3, result="first"), Step(after=5.0, result="second"))
    assert call(Policy("p", hedge=Hedge(after=0.2)), dependency) == ("first", 0.3)


def test_the_losers_are_cancelled():
    ended = []

    async def work():
        number = len(ended) + work.started
        work.started += 1
        try:
            await asyncio.sleep(5.0 if number == 0 else 0.1)
        except asyncio.CancelledError:
            ended.append((number, clock.now() - 1000.0))
            raise
        return number

    work.started = 0
    clock = FakeClock()
    policy = Policy("p", hedge=Hedge(after=0.2), bulkhead=Bulkhead(5), breaker=Breaker())
    assert clock.run(policy.acall(work)) == 1
    assert ended == [(0, pytest.approx(0.3))]
    with clock:
        assert policy.snapshot()["limit"]["running"] == 0
        assert policy.breaker.snapshot()["calls"] == 1


@pytest.mark.parametrize("extra", [1, 2, 3])
def test_no_more_rivals_than_allowed(extra):
    dependency = Scripted(Step(after=5.0, result="late"))
    assert call(Policy("p", hedge=Hedge(after=1.0, extra=extra)), dependency) == ("late", 5.0)
    assert dependency.began == [1000.0 + number for number in range(extra + 1)]


def test_a_failure_waits_for_the_attempts_that_still_run():
    dependency = Scripted(Step(after=0.5, error=ConnectionError()), Step(after=1.0, result="tax"))
    assert call(Policy("p", hedge=Hedge(after=0.2)), dependency) == ("tax", 1.2)


def test_when_all_have_failed_the_last_failure_is_raised():
    first, second = ConnectionError("first"), ConnectionError("second")
    dependency = Scripted(Step(after=0.5, error=first), Step(after=1.0, error=second))
    assert call(Policy("p", hedge=Hedge(after=0.2)), dependency) == (second, 1.2)


def test_a_rival_that_is_refused_at_last_does_not_hide_that_the_call_ran():
    error = ConnectionError()
    dependency = Scripted(Step(after=0.5, error=error))
    clock = FakeClock()
    policy = Policy("p", hedge=Hedge(after=0.2), breaker=Breaker(consecutive=1), rate_limit=RateLimit(1, wait=5.0))
    assert call(policy, dependency, clock) == (error, pytest.approx(1.0))
    assert isinstance(call(policy, dependency, clock)[0], BreakerOpen)
    assert dependency.calls == 1


def test_a_failure_before_the_hedge_is_the_outcome():
    error = ConnectionError()
    dependency = Scripted(Step(after=0.1, error=error))
    assert call(Policy("p", hedge=Hedge(after=0.2)), dependency) == (error, 0.1)
    assert dependency.calls == 1


def test_each_hedge_comes_out_of_the_budget():
    budget = Budget(ratio=0.5, min_per_second=0)
    policy = Policy("p", hedge=Hedge(after=0.2, budget=budget))
    clock = FakeClock()
    dependency = Scripted(Step(after=1.0, result="tax"))
    for _ in range(4):
        call(policy, dependency, clock)
    assert dependency.calls == 6
    with clock:
        assert policy.snapshot()["budget"] == {"calls": 4, "retries": 2, "left": 0}


def test_what_the_breaker_refuses_earns_nothing_for_the_budget():
    budget = Budget(ratio=1.0, min_per_second=0)
    policy = Policy("p", hedge=Hedge(after=0.2, budget=budget), breaker=Breaker())
    policy.breaker.force_open()
    clock = FakeClock()
    for _ in range(4):
        assert isinstance(call(policy, Scripted("tax"), clock)[0], BreakerOpen)
    policy.breaker.reset()
    assert call(policy, Scripted("tax"), clock)[0] == "tax"
    with clock:
        assert policy.snapshot()["budget"] == {"calls": 1, "retries": 0, "left": 1}


def test_a_budget_is_asked_once_for_each_rival():
    budget = Budget(ratio=0.0, min_per_second=0.2, window=10.0)
    dependency = Scripted(Step(after=9.0, result="tax"))
    assert call(Policy("p", hedge=Hedge(after=1.0, extra=5, budget=budget)), dependency) == ("tax", 9.0)
    assert dependency.calls == 3


def test_no_rival_is_started_at_the_deadline_or_after_it():
    for deadline, calls in ((1.0, 1), (1.001, 2)):
        dependency = Scripted(Step(after=5.0))
        outcome, took = call(Policy("p", deadline=deadline, hedge=Hedge(after=1.0)), dependency)
        assert isinstance(outcome, DeadlineExceeded)
        assert (took, dependency.calls) == (deadline, calls)


def test_each_attempt_passes_the_breaker_and_the_limits():
    dependency = Scripted(Step(after=5.0, result="tax"))
    policy = Policy("p", hedge=Hedge(after=0.2), bulkhead=Bulkhead(1), breaker=Breaker())
    assert call(policy, dependency) == ("tax", 5.0)  # the rival was refused, and the first goes on
    assert dependency.calls == 1
    policy.breaker.force_open()
    outcome, _ = call(policy, dependency)
    assert isinstance(outcome, BreakerOpen)


def test_each_attempt_has_its_own_time():
    dependency = Scripted(Step(after=5.0, result="late"), Step(after=0.4, result="tax"))
    assert call(Policy("p", attempt_timeout=0.5, hedge=Hedge(after=0.3)), dependency) == ("tax", 0.7)


def test_a_deadline_that_has_passed_starts_nothing():
    dependency = Scripted("tax")

    async def main():
        async with holdfast.deadline(0):
            await Policy("p", hedge=Hedge(after=1)).acall(dependency.acall)

    with pytest.raises(DeadlineExceeded):
        FakeClock().run(main())
    assert dependency.calls == 0


def test_the_tighter_of_two_deadlines_counts():
    left = []

    async def work():
        left.append(holdfast.remaining())

    async def main():
        async with holdfast.deadline(1.0):
            await Policy("p", hedge=Hedge(after=1), deadline=2.0).acall(work)
            await Policy("p", hedge=Hedge(after=1), deadline=0.5).acall(work)
            await Policy("p", hedge=Hedge(after=1)).acall(work)

    FakeClock().run(main())
    assert left == [pytest.approx(1.0), pytest.approx(0.5), pytest.approx(1.0)]


def test_a_fallback_answers_when_all_attempts_failed():
    dependency = Scripted(ConnectionError())
    assert call(Policy("p", hedge=Hedge(after=0.2), fallback=Fallback(value="none")), dependency) == ("none", 0.0)


def test_a_hedge_is_told():
    told = []
    stop = events.subscribe(lambda event: told.append(event) if isinstance(event, events.Hedged) else None)
    try:
        call(Policy("p", hedge=Hedge(after=0.2, extra=2)), Scripted(Step(after=0.5, result="tax")))
    finally:
        stop()
    assert told == [events.Hedged("p", 2, pytest.approx(0.2)), events.Hedged("p", 3, pytest.approx(0.2))]


# By the percentile of what is seen.


def test_with_a_percentile_nothing_is_hedged_before_enough_was_seen():
    policy = Policy("p", hedge=Hedge(percentile=0.9, min_calls=10))
    clock = FakeClock()
    usual, late = Scripted(Step(after=0.1, result="tax")), Scripted(Step(after=1.0, result="tax"))
    for _ in range(8):
        call(policy, usual, clock)
    call(policy, late, clock)
    assert late.calls == 1
    call(policy, usual, clock)
    call(policy, late, clock)
    assert late.calls == 3
    assert late.began[2] - late.began[1] == pytest.approx(0.1, rel=0.051)


def test_what_was_beaten_is_learnt_too_or_the_percentile_would_sink():
    patience = Patience(Hedge(percentile=0.5, min_calls=1, window=60))
    for elapsed in (0.1, 0.4, 0.4):
        patience.learn(elapsed, 0.0)
    assert patience.delay(0.0) == pytest.approx(0.4, rel=0.05)


def test_what_was_seen_is_forgotten_after_the_window():
    patience = Patience(Hedge(percentile=0.5, min_calls=1, window=60))
    patience.learn(0.4, 0.0)
    assert patience.delay(29.0) is not None
    assert patience.delay(61.0) is None


def test_a_fixed_time_is_that_time_and_learns_nothing():
    patience = Patience(Hedge(after="250ms"))
    patience.learn(9.0, 0.0)
    assert patience.delay(0.0) == 0.25


# Blocking calls.


def test_a_blocking_call_without_an_executor_is_a_type_error():
    with pytest.raises(TypeError, match=r"p: hedging a blocking call needs threads to run in; give Hedge\(executor=\.\.\.\)"):
        Policy("p", hedge=Hedge(after=1)).call(lambda: "tax")


def test_a_blocking_call_hedges_on_the_given_executor():
    with ThreadPoolExecutor(2) as threads:
        policy = Policy("p", hedge=Hedge(after=30, executor=threads), bulkhead=Bulkhead(1))
        assert policy.call(lambda: "tax") == "tax"
        with pytest.raises(ValueError, match="wrong"):
            policy.call(int, "wrong".join("wrong"))
        assert policy.snapshot()["limit"]["running"] == 0


@pytest.mark.realtime
def test_a_blocking_call_is_not_waited_for_once_its_client_has_gone():
    class Gone:
        def gone(self, now):
            return now >= began + 0.05

    free = threading.Event()
    with ThreadPoolExecutor(2) as executor, holdfast.deadline(30) as block:
        began = time.monotonic()
        block.limit.watch = Gone()
        policy = Policy("p", hedge=Hedge(after=20, executor=executor), bulkhead=Bulkhead(1))
        with pytest.raises(ClientGone):
            policy.call(free.wait)
        assert time.monotonic() - began < 5.0
        free.set()


def test_a_block_has_no_rivals():
    policy = Policy("p", hedge=Hedge(after=0.1), bulkhead=Bulkhead(1))
    with FakeClock() as clock:
        for attempt in policy.attempts():
            with attempt:
                clock.advance(5.0)
                with pytest.raises(BulkheadFull):
                    policy.guard().__enter__()
        assert policy.snapshot()["limit"]["running"] == 0


def test_the_defaults_are_one_rival_after_twenty_calls():
    rules = Hedge(after=1)
    assert (rules.extra, rules.min_calls, rules.window, rules.budget, rules.executor) == (1, 20, 60.0, None, None)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (Hedge(after="250ms"), "1 more attempt after 0.25 s, the first success wins"),
        (Hedge(percentile=0.95, extra=2), "2 more attempts after the 95th percentile, the first success wins"),
        (
            Hedge(after=1, budget=Budget()),
            "1 more attempt after 1 s, the first success wins; retries up to 10 % of the calls + 1/s, over 10 s",
        ),
    ],
)
def test_it_describes_itself(rules, words):
    assert rules.describe() == words
