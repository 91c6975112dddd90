"""Rate limit: no more than so many calls per second, evenly spread, with a bounded burst."""

from __future__ import annotations

import asyncio
import math
from fractions import Fraction

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from holdfast import Bulkhead, BulkheadFull, DeadlineExceeded, Policy, RateLimit, RateLimited, events
from holdfast.policies.ratelimit import Pacer
from holdfast.testing import FakeClock, Scripted

TICK = Fraction(1, 16)


class PacerMachine(RuleBasedStateMachine):
    """The slow form: a bucket that leaks at the rate. A call pours one in, and waits until there is room for it."""

    @initialize(
        rate=st.sampled_from([1, 2, 5, 16]), per=st.sampled_from([1, 2, 60]), burst=st.integers(1, 5), wait=st.sampled_from([0, 1, 4])
    )
    def begin(self, rate, per, burst, wait):
        self.pacer = Pacer(RateLimit(rate, per=per, burst=burst, wait=wait), "p")
        self.rate, self.burst, self.wait = Fraction(rate, per), burst, wait
        self.now = Fraction(1000)
        self.level = Fraction(0)

    def leak(self, seconds):
        self.level = max(Fraction(0), self.level - seconds * self.rate)
        self.now += seconds

    def too_much(self):
        return max(Fraction(0), (self.level + 1 - self.burst) / self.rate)

    @rule(ticks=st.integers(1, 40))
    def time_passes(self, ticks):
        self.leak(ticks * TICK)

    @rule()
    def exactly_until_the_next_is_due(self):
        self.leak(self.too_much())

    @rule(until=st.sampled_from([None, Fraction(1, 32), Fraction(7, 32), Fraction(33, 32)]))
    def call(self, until):
        delay = self.too_much()
        assert self.pacer.retry_after(float(self.now)) == pytest.approx(float(delay), abs=1e-6)
        end = math.inf if until is None else float(self.now + until)
        if delay > 0 and (delay > self.wait or (until is not None and delay >= until)):
            with pytest.raises(RateLimited) as caught:
                self.pacer.admit(float(self.now), end)
            assert caught.value.policy == "p"
            assert caught.value.retry_after == pytest.approx(float(delay), abs=1e-6)
        else:
            assert self.pacer.admit(float(self.now), end) == pytest.approx(float(delay), abs=1e-6)
            self.level += 1

    @rule()
    def take_a_turn_and_give_it_back(self):
        if self.too_much() <= self.wait:
            self.pacer.admit(float(self.now), math.inf)
            self.pacer.cancel()


TestPacer = PacerMachine.TestCase


def test_calls_are_spread_evenly_and_the_rest_is_refused(drive):
    policy = Policy("p", rate_limit=RateLimit(10))
    dependency = Scripted("tax")
    passed = []
    for tick in range(101):
        if drive.outcome(policy, dependency) == "tax":
            passed.append(tick)
        drive.clock.advance(0.01)
    assert passed == list(range(0, 101, 10))


def test_a_refusal_takes_nothing_and_says_when_to_ask_again(drive):
    policy = Policy("p", rate_limit=RateLimit(2))
    drive.call(policy, Scripted("tax"))
    for _ in range(50):
        error = drive.outcome(policy, Scripted("tax"))
        assert isinstance(error, RateLimited)
        assert error.retry_after == pytest.approx(0.5)
    drive.clock.advance(0.5)
    assert drive.call(policy, Scripted("tax")) == "tax"


def test_after_a_pause_a_bounded_burst_may_go_at_once(drive):
    policy = Policy("p", rate_limit=RateLimit(1, burst=3))
    for pause in (0.0, 1000.0):
        drive.clock.advance(pause)
        outcomes = [drive.outcome(policy, Scripted("tax")) for _ in range(5)]
        assert [outcome == "tax" for outcome in outcomes] == [True, True, True, False, False]


def test_there_is_no_edge_to_burst_at():
    """A fixed window of ten per second lets twenty pass around its edge."""
    pacer = Pacer(RateLimit(10, burst=2), "p")
    passed = []
    for tick in range(2000):
        now = tick * 0.001
        try:
            pacer.admit(now, math.inf)
            passed.append(now)
        except RateLimited:
            pass
    most = max(sum(1 for moment in passed if start <= moment < start + 1.0) for start in passed)
    assert most <= 12


def test_a_call_waits_for_its_moment_if_that_is_near_enough(drive):
    policy = Policy("p", rate_limit=RateLimit(2, wait=0.5))
    dependency = Scripted("tax")
    drive.call(policy, dependency)
    drive.call(policy, dependency)
    assert dependency.began == [1000.0, pytest.approx(1000.5)]


def test_calls_that_wait_are_spread_too():
    policy = Policy("p", rate_limit=RateLimit(2, wait=1.0))
    began = []

    async def work():
        began.append(clock.now() - 1000.0)

    async def main():
        outcomes = await asyncio.gather(*(policy.acall(work) for _ in range(5)), return_exceptions=True)
        assert [isinstance(outcome, RateLimited) for outcome in outcomes] == [False, False, False, True, True]

    clock = FakeClock()
    clock.run(main())
    assert began == pytest.approx([0.0, 0.5, 1.0])


def test_nobody_waits_for_a_moment_after_the_deadline(drive):
    policy = Policy("p", deadline=0.4, rate_limit=RateLimit(2, wait=10.0))
    drive.call(policy, Scripted("tax"))
    error = drive.outcome(policy, Scripted("tax"))
    assert isinstance(error, RateLimited)
    assert drive.clock.now() == 1000.0


def test_a_turn_that_was_not_used_is_given_back():
    policy = Policy("p", rate_limit=RateLimit(1, wait=5.0))

    async def work():
        return clock.now() - 1000.0

    async def main():
        assert await policy.acall(work) == 0.0
        waits = asyncio.create_task(policy.acall(work))
        await asyncio.sleep(0.25)
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert await policy.acall(work) == pytest.approx(1.0)

    clock = FakeClock()
    clock.run(main())


def test_a_turn_is_given_back_when_the_bulkhead_refuses(drive):
    policy = Policy("p", rate_limit=RateLimit(1), bulkhead=Bulkhead(1))
    place = policy._plan.places.enter()
    assert isinstance(drive.outcome(policy, Scripted("tax")), BulkheadFull)
    policy._plan.places.release(place)
    assert drive.call(policy, Scripted("tax")) == "tax"


def test_after_its_turn_a_call_may_queue_for_a_place(drive):
    policy = Policy("p", rate_limit=RateLimit(2, wait=1.0), bulkhead=Bulkhead(1, queue=1, wait=0.5), deadline=9)
    drive.call(policy, Scripted("tax"))
    place = policy._plan.places.enter()
    assert isinstance(drive.outcome(policy, Scripted("tax")), BulkheadFull)
    assert drive.clock.now() == pytest.approx(1001.0)
    policy._plan.places.release(place)
    assert drive.look(policy.snapshot)["limit"] == {"limit": 1, "running": 0, "waiting": 0}


def test_a_deadline_that_passes_in_the_queue_after_the_turn_frees_both(drive):
    policy = Policy("p", rate_limit=RateLimit(2, wait=1.0), bulkhead=Bulkhead(1, queue=1, wait=5.0), deadline=2.0)
    policy._plan.places.enter()
    error = drive.outcome(policy, Scripted("tax"))
    assert isinstance(error, DeadlineExceeded)
    assert drive.look(policy.snapshot)["limit"] == {"limit": 1, "running": 1, "waiting": 0}
    assert policy._plan.pacer.retry_after(drive.clock.now()) == 0.0


def test_a_refusal_is_told_and_counts_as_nothing_for_the_breaker(drive):
    from holdfast import Breaker

    told = []
    policy = Policy("p", rate_limit=RateLimit(1), breaker=Breaker(min_calls=1))
    drive.call(policy, Scripted("tax"))
    stop = events.subscribe(told.append)
    try:
        drive.outcome(policy, Scripted("tax"))
    finally:
        stop()
    assert told == [events.Refused("p", "RateLimited")]
    assert drive.look(policy.breaker.snapshot)["calls"] == 1


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (RateLimit(100), "100 calls per 1 s, bursts of 1, nobody waits"),
        (RateLimit(5, per="1m", burst=3, wait=0.25), "5 calls per 60 s, bursts of 3, waits up to 0.25 s for its turn"),
    ],
)
def test_it_describes_itself(rules, words):
    assert rules.describe() == words
    assert (RateLimit(1).per, RateLimit(1).burst, RateLimit(1).wait) == (1.0, 1, 0.0)
