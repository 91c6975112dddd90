"""Retry: do a failed call again, where that can help and cannot hurt."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast import (
    Backoff,
    Breaker,
    BreakerOpen,
    Budget,
    Bulkhead,
    BulkheadFull,
    DeadlineExceeded,
    Policy,
    RateLimited,
    Rejected,
    Retry,
    events,
)
from holdfast.policies.retry import Recovery
from holdfast.testing import Scripted, Step

FIXED = Backoff(base=1.0, factor=2.0, cap=60.0, jitter="none")


def gap(dependency):
    """The times between the beginnings of attempts."""
    return [later - earlier for earlier, later in zip(dependency.began, dependency.began[1:], strict=False)]


def test_a_failure_of_the_named_kind_is_done_again_until_it_succeeds(drive):
    dependency = Scripted(ConnectionError(), TimeoutError(), "tax")
    assert drive.call(Policy("p", retry=Retry(attempts=3, backoff=FIXED)), dependency) == "tax"
    assert gap(dependency) == [1.0, 2.0]


def test_attempts_counts_the_first_one_too(drive):
    dependency = Scripted(ConnectionError())
    with pytest.raises(ConnectionError):
        drive.call(Policy("p", retry=Retry(attempts=4, backoff=FIXED)), dependency)
    assert dependency.calls == 4


def test_one_attempt_is_no_retry(drive):
    dependency = Scripted(ConnectionError())
    with pytest.raises(ConnectionError):
        drive.call(Policy("p", retry=Retry(attempts=1)), dependency)
    assert dependency.calls == 1


def test_the_last_exception_is_raised_itself_with_a_note_that_says_why(drive):
    first, last = ConnectionError("first"), ConnectionError("last")
    dependency = Scripted(first, Step(after=0.2, error=last))
    with pytest.raises(ConnectionError) as caught:
        drive.call(Policy("billing", retry=Retry(attempts=2, backoff=FIXED)), dependency)
    assert caught.value is last
    assert last.__notes__ == ["billing: gave up after 2 attempts in 1.2 s: no attempts left"]
    assert not hasattr(first, "__notes__")


def test_an_exception_that_is_raised_again_and_again_keeps_one_note(drive):
    error = ConnectionError()
    policy = Policy("billing", retry=Retry(attempts=1))
    other = Policy("other", retry=Retry(attempts=1))
    for each in (policy, policy, other, policy):
        with pytest.raises(ConnectionError):
            drive.call(each, Scripted(error))
    assert error.__notes__ == [
        "other: gave up after 1 attempt in 0 s: no attempts left",
        "billing: gave up after 1 attempt in 0 s: no attempts left",
    ]


def test_other_exceptions_pass_at_once_without_a_note(drive):
    error = ValueError("wrong")
    dependency = Scripted(error)
    with pytest.raises(ValueError, match="wrong") as caught:
        drive.call(Policy("p", retry=Retry(attempts=3)), dependency)
    assert caught.value is error
    assert dependency.calls == 1
    assert not hasattr(error, "__notes__")


def test_an_exception_of_another_kind_after_a_retry_says_that_it_is_not_retried(drive):
    error = ValueError("wrong")
    with pytest.raises(ValueError, match="wrong"):
        drive.call(Policy("p", retry=Retry(attempts=3, backoff=FIXED)), Scripted(ConnectionError(), error))
    assert error.__notes__ == ["p: gave up after 2 attempts in 1 s: ValueError is not retried"]


@pytest.mark.parametrize("on", [ValueError, (KeyError, ValueError), lambda error: str(error) == "again"])
def test_what_is_retried_is_a_type_types_or_a_predicate(drive, on):
    dependency = Scripted(ValueError("again"), "tax")
    assert drive.call(Policy("p", retry=Retry(on=on)), dependency) == "tax"
    with pytest.raises(RuntimeError):
        drive.call(Policy("p", retry=Retry(on=on)), Scripted(RuntimeError("no")))


class Interrupt(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, Interrupt])
def test_what_interrupts_passes_at_once_even_if_the_predicate_wants_it(kind):
    dependency = Scripted(kind())
    with pytest.raises(kind):
        Policy("p", retry=Retry(on=lambda error: True)).call(dependency)
    with pytest.raises(kind):
        Policy("p", retry=Retry(on=BaseException)).call(dependency)
    assert dependency.calls == 2


@pytest.mark.parametrize("kind", [Rejected, BreakerOpen, BulkheadFull, RateLimited])
def test_a_refusal_is_not_retried_whatever_is_asked_for(drive, kind):
    dependency = Scripted(kind("inner"))
    with pytest.raises(kind):
        drive.call(Policy("p", retry=Retry(on=Exception)), dependency)
    assert dependency.calls == 1


def test_a_retry_into_an_open_breaker_is_not_waited_for(drive):
    policy = Policy("p", retry=Retry(on=Exception, backoff=FIXED), breaker=Breaker(consecutive=2, failure_rate=None))
    error = ConnectionError()
    dependency = Scripted(error)
    with pytest.raises(ConnectionError) as caught:
        drive.call(policy, dependency)
    assert caught.value is error
    assert error.__notes__ == ["p: gave up after 2 attempts in 1 s: the breaker is open"]
    assert dependency.calls == 2
    assert drive.clock.now() == 1001.0


@pytest.mark.parametrize(("base", "calls"), [(29.9, 1), (30.0, 2)])
def test_a_wait_that_ends_with_the_breakers_pause_is_begun(drive, base, calls):
    policy = Policy(
        "p", retry=Retry(attempts=2, backoff=Backoff(base=base, cap=60, jitter="none")), breaker=Breaker(min_calls=1, open_for=30.0)
    )
    dependency = Scripted(ConnectionError())
    with pytest.raises(ConnectionError):
        drive.call(policy, dependency)
    assert dependency.calls == calls


def test_a_predicate_that_raises_is_heard_and_nothing_stays_held():
    policy = Policy("p", retry=Retry(on=lambda error: 1 / 0), bulkhead=Bulkhead(1), breaker=Breaker())
    with pytest.raises(ZeroDivisionError):
        policy.call(Scripted(ConnectionError()))
    assert policy.snapshot()["limit"] == {"limit": 1, "running": 0, "waiting": 0}
    assert policy.breaker.snapshot()["calls"] == 0


# Results.


def test_an_unwanted_result_is_done_again(drive):
    dependency = Scripted(503, 503, 200)
    assert drive.call(Policy("p", retry=Retry(on_result=lambda status: status >= 500, backoff=FIXED)), dependency) == 200
    assert gap(dependency) == [1.0, 2.0]


def test_when_the_attempts_are_used_up_the_last_unwanted_result_is_returned(drive):
    dependency = Scripted(501, 502, 503)
    assert drive.call(Policy("p", retry=Retry(attempts=3, on_result=lambda status: status >= 500)), dependency) == 503


def test_an_unwanted_result_is_a_failure_for_the_breaker(drive):
    policy = Policy("p", retry=Retry(attempts=2, on_result=lambda status: status >= 500), breaker=Breaker(min_calls=9))
    drive.call(policy, Scripted(503))
    counts = drive.look(policy.breaker.snapshot)
    assert (counts["calls"], counts["failures"]) == (2, 2)


def test_a_predicate_on_results_that_raises_is_heard_and_nothing_stays_held():
    policy = Policy("p", retry=Retry(on_result=lambda result: 1 / 0), bulkhead=Bulkhead(1))
    with pytest.raises(ZeroDivisionError):
        policy.call(Scripted("tax"))
    assert policy.snapshot()["limit"]["running"] == 0


# The deadline.


@pytest.mark.parametrize(("deadline", "calls", "end"), [(1.0, 1, 0.0), (1.001, 2, 1.0), (3.0, 2, 1.0), (3.001, 3, 3.0)])
def test_a_wait_that_would_end_at_the_deadline_or_later_is_not_begun(drive, deadline, calls, end):
    """The article's retries sleep with no regard for the caller, and hold the worker meanwhile."""
    error = ConnectionError()
    dependency = Scripted(error)
    with pytest.raises(ConnectionError):
        drive.call(Policy("p", deadline=deadline, retry=Retry(attempts=9, backoff=FIXED)), dependency)
    assert dependency.calls == calls
    assert drive.clock.now() - 1000.0 == end
    assert f"attempt{'s' if calls > 1 else ''} in {end:g} s: the deadline leaves no time for another" in error.__notes__[0]


def test_the_callers_deadline_counts_as_the_policys_does(drive):
    dependency = Scripted(ConnectionError())
    policy = Policy("p", deadline=100, retry=Retry(attempts=9, backoff=FIXED))
    if drive.is_async:

        async def main():
            async with holdfast.deadline(3.0):
                await policy.acall(dependency.acall)

        with pytest.raises(ConnectionError):
            drive.clock.run(main())
    else:
        with drive.clock, holdfast.deadline(3.0), pytest.raises(ConnectionError):
            policy.call(dependency)
    assert dependency.calls == 2


def test_a_slow_drip_of_attempts_ends_at_the_deadline(drive):
    """A limit on each read or each attempt bounds nothing: only the deadline bounds the whole."""
    policy = Policy("p", deadline=2.0, attempt_timeout=0.9, retry=Retry(attempts=99, backoff=Backoff(base=0, cap=0)))
    with pytest.raises(DeadlineExceeded) as caught:
        drive.call(policy, Scripted(Step(after=5.0)))
    assert drive.clock.now() == pytest.approx(1002.0)
    assert caught.value.policy == "p"
    assert caught.value.started


# The budget.


def test_a_retry_that_the_budget_refuses_is_not_waited_for(drive):
    error = ConnectionError()
    dependency = Scripted(error)
    budget = Budget(ratio=0.0, min_per_second=0.1, window=10.0)
    with pytest.raises(ConnectionError):
        drive.call(Policy("p", retry=Retry(attempts=9, backoff=FIXED, budget=budget)), dependency)
    assert dependency.calls == 2
    assert drive.clock.now() == 1001.0
    assert error.__notes__ == ["p: gave up after 2 attempts in 1 s: retry budget empty"]


def test_the_budget_is_not_asked_for_a_retry_that_cannot_happen(drive):
    budget = Budget(ratio=1.0, min_per_second=10.0)
    policy = Policy("p", deadline=0.5, retry=Retry(attempts=3, backoff=FIXED, budget=budget))
    with pytest.raises(ConnectionError):
        drive.call(policy, Scripted(ConnectionError()))
    policy = Policy("p", retry=Retry(attempts=1, backoff=FIXED, budget=budget))
    with pytest.raises(ConnectionError):
        drive.call(policy, Scripted(ConnectionError()))
    policy = Policy("p", retry=Retry(backoff=FIXED, budget=budget))
    with pytest.raises(ValueError, match="wrong"):
        drive.call(policy, Scripted(ValueError("wrong")))
    assert drive.look(lambda: policy.snapshot()["budget"]) == {"calls": 3, "retries": 0, "left": 103}


def test_each_call_is_counted_once_whatever_the_attempts(drive):
    budget = Budget(ratio=0.5, min_per_second=1.0)
    policy = Policy("p", retry=Retry(attempts=3, backoff=Backoff(base=0, cap=0), budget=budget))
    for _ in range(4):
        drive.call(policy, Scripted(ConnectionError(), "tax"))
    assert drive.look(lambda: policy.snapshot()["budget"]) == {"calls": 4, "retries": 4, "left": 8}


# Delays that the other side asks for.


class Busy(ConnectionError):
    def __init__(self, after):
        super().__init__(f"busy for {after}")
        self.after = after


def test_a_delay_that_the_other_side_asks_for_replaces_the_backoff(drive):
    dependency = Scripted(Busy(7.0), Busy(0), Busy(None), "tax")
    policy = Policy("p", retry=Retry(attempts=4, backoff=FIXED, delay_from=lambda error: error.after))
    assert drive.call(policy, dependency) == "tax"
    assert gap(dependency) == [7.0, 0.0, 4.0]


def test_a_delay_that_the_other_side_asks_for_is_capped(drive):
    dependency = Scripted(Busy(31.0), Busy(29.0), "tax")
    drive.call(Policy("p", retry=Retry(delay_from=lambda error: error.after)), dependency)
    assert gap(dependency) == [30.0, 29.0]
    dependency = Scripted(Busy(31.0), "tax")
    drive.call(Policy("p", retry=Retry(delay_from=lambda error: error.after, delay_max="250ms")), dependency)
    assert gap(dependency) == [0.25]


@pytest.mark.parametrize("nonsense", [-1.0, -0.001, math.nan, math.inf, -math.inf, None, "5", b"5", [], True, 1j])
def test_a_delay_that_is_no_length_of_time_is_not_used(drive, nonsense):
    dependency = Scripted(Busy(nonsense), "tax")
    assert drive.call(Policy("p", retry=Retry(backoff=FIXED, delay_from=lambda error: error.after)), dependency) == "tax"
    assert gap(dependency) == [1.0]


def test_the_hook_sees_an_unwanted_result_too(drive):
    dependency = Scripted({"status": 503, "after": 3.0}, {"status": 200})
    policy = Policy("p", retry=Retry(on_result=lambda r: r["status"] == 503, delay_from=lambda r: r["after"]))
    assert drive.call(policy, dependency) == {"status": 200}
    assert gap(dependency) == [3.0]


def test_a_delay_past_the_deadline_is_not_waited_for(drive):
    error = Busy(10.0)
    dependency = Scripted(error)
    with pytest.raises(Busy):
        drive.call(Policy("p", deadline=5.0, retry=Retry(backoff=FIXED, delay_from=lambda error: error.after)), dependency)
    assert dependency.calls == 1
    assert drive.clock.now() == 1000.0


def test_decorrelated_jitter_grows_from_the_delay_before():
    retry = Retry(attempts=9, backoff=Backoff(base=1.0, cap=1000.0, jitter="decorrelated"))
    recovery = Recovery(retry, Random(1))
    last = 0.0
    for attempt in range(1, 9):
        delay = recovery.decide(attempt, ConnectionError(), 0.0, math.inf)
        assert 1.0 <= delay <= max(1.0, 3 * last)
        last = delay
    assert last > 3.0


def test_the_hooks_delay_is_what_decorrelated_jitter_grows_from():
    retry = Retry(attempts=9, backoff=Backoff(base=1.0, cap=1000.0, jitter="decorrelated"), delay_from=lambda f: f)
    delays = set()
    for seed in range(50):
        recovery = Recovery(retry, Random(seed))
        assert recovery.decide(1, 20.0, 0.0, math.inf) == 20.0
        delays.add(recovery.decide(2, None, 0.0, math.inf))
    assert all(1.0 <= delay <= 60.0 for delay in delays)
    assert max(delays) > 40.0


@given(
    attempts=st.integers(1, 6),
    failures=st.integers(0, 8),
    base=st.floats(0, 2),
    deadline=st.one_of(st.none(), st.floats(0.01, 5)),
    took=st.floats(0, 1),
)
def test_no_call_outlives_its_deadline_or_makes_more_attempts_than_allowed(attempts, failures, base, deadline, took):
    from holdfast.testing import FakeClock

    dependency = Scripted(*[Step(after=took, error=ConnectionError()) for _ in range(failures)], Step(after=took, result="tax"))
    policy = Policy("p", deadline=deadline, retry=Retry(attempts=attempts, backoff=Backoff(base=base, cap=base + 1)))
    with FakeClock(0) as clock:
        try:
            policy.call(dependency)
        except (ConnectionError, DeadlineExceeded):
            assert failures
            assert deadline is not None or dependency.calls == attempts
        except TimeoutError:
            pytest.fail("a timeout that nobody set")
    assert dependency.calls <= min(attempts, failures + 1)
    assert deadline is None or clock.now() <= deadline + 1e-9


# What is told.


def test_retries_and_giving_up_are_told(drive):
    told = []
    stop = events.subscribe(told.append)
    try:
        error = ConnectionError()
        with pytest.raises(ConnectionError):
            drive.call(Policy("p", retry=Retry(attempts=2, backoff=FIXED)), Scripted(Step(after=0.5, error=error)))
        drive.call(Policy("p", retry=Retry(attempts=2, backoff=FIXED, on_result=lambda r: r == 1)), Scripted(1))
    finally:
        stop()
    assert told == [
        events.AttemptEnded("p", 1, "failure", 0.5, error),
        events.Retrying("p", 1, 1.0, error),
        events.AttemptEnded("p", 2, "failure", 0.5, error),
        events.GaveUp("p", 2, "no attempts left", error),
        events.AttemptEnded("p", 1, "failure", 0.0, None),
        events.Retrying("p", 1, 1.0, None),
        events.AttemptEnded("p", 2, "failure", 0.0, None),
        events.GaveUp("p", 2, "no attempts left", None),
    ]


def test_the_defaults_are_three_attempts_on_connections_and_timeouts_without_a_budget():
    retry = Retry()
    assert (retry.attempts, retry.on, retry.on_result, retry.backoff, retry.budget, retry.delay_from, retry.delay_max) == (
        (3, (ConnectionError, TimeoutError), None, Backoff(), None, None, 30.0)
    )


def test_it_describes_itself():
    assert Retry().describe() == "up to 3 attempts on ConnectionError, TimeoutError; waits 0.05 s x 2 up to 1 s, full jitter"
    full = Retry(attempts=2, on=ValueError, on_result=bool, budget=Budget())
    assert full.describe() == (
        "up to 2 attempts on ValueError; or on an unwanted result; waits 0.05 s x 2 up to 1 s, full jitter; "
        "retries up to 10 % of the calls + 1/s, over 10 s"
    )
