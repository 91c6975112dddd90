"""Circuit breaker: stop calling who is down, and find out gently when it is back."""

from __future__ import annotations

import asyncio
import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

import holdfast
from holdfast import Breaker, BreakerOpen, Bulkhead, Policy, Retry, events
from holdfast.outcome import FAILURE, IGNORED, SUCCESS
from holdfast.policies.breaker import Circuit, State
from holdfast.testing import FakeClock, Scripted, Step

OPEN_FOR, OPEN_FOR_MAX = 8.0, 40.0


class CircuitMachine(RuleBasedStateMachine):
    """The slow form: the list of everything that was counted, a set of running probes, and whole numbers for the share."""

    permits = Bundle("permits")

    @initialize(
        failure_rate=st.sampled_from([None, "0.5", "0.1", "1"]),
        min_calls=st.integers(1, 6),
        slow_rate=st.sampled_from([None, "0.5", "1"]),
        consecutive=st.sampled_from([None, 1, 3]),
        one_in=st.sampled_from([1, 2, 4, 20]),
        max_probes=st.integers(1, 3),
        probes_to_close=st.integers(1, 3),
        checks=st.booleans(),
    )
    def begin(self, failure_rate, min_calls, slow_rate, consecutive, one_in, max_probes, probes_to_close, checks):
        if failure_rate is None and slow_rate is None and consecutive is None:
            consecutive = 3
        self.failure_rate = failure_rate and Fraction(failure_rate)
        self.slow_rate = slow_rate and Fraction(slow_rate)
        self.min_calls, self.consecutive, self.one_in, self.checks = min_calls, consecutive, one_in, checks
        self.max_probes, self.probes_to_close = max_probes, probes_to_close
        config = Breaker(
            failure_rate=failure_rate and float(failure_rate),
            slow_rate=slow_rate and float(slow_rate),
            slow_after=slow_rate and 2.0,
            min_calls=min_calls,
            consecutive=consecutive,
            window=15.0,
            open_for=OPEN_FOR,
            open_for_max=OPEN_FOR_MAX,
            probe_share=1 / one_in,
            max_probes=max_probes,
            probes_to_close=probes_to_close,
            health_check=(lambda: True) if checks else None,
        )
        self.circuit = Circuit(config, "p", Random(7))
        self.now = 100.0
        self.era = 0  # what a permit belongs to
        self.log = []  # (when, failed, slow)
        self.probes = {}  # those that run, of whatever era, and when they began
        self.go("closed")

    def go(self, state):
        self.state = state
        self.era += 1
        self.streak = self.passed = 0
        self.asked = self.one_in - 1
        if state == "closed":
            self.log = []

    def counts(self):
        slot = math.floor(self.now / 0.25)
        alive = [(failed, slow) for when, failed, slow in self.log if math.floor(when / 0.25) > slot - 60]
        return len(alive), sum(failed for failed, _ in alive), sum(slow for _, slow in alive)

    def running(self):
        self.probes = {call: began for call, began in self.probes.items() if began > self.now - OPEN_FOR_MAX}
        return len(self.probes)

    def open(self, lowest, highest):
        pause = self.circuit.open_until - self.now
        assert lowest - 1e-9 <= pause <= highest + 1e-9
        self.pause, self.until = pause, self.circuit.open_until
        self.go("open")

    @rule(steps=st.integers(1, 30))
    def time_passes(self, steps):
        self.now += steps * 0.125

    @rule()
    def the_pause_ends_exactly(self):
        if self.state == "open":
            self.now = max(self.now, self.until)

    @rule(target=permits)
    def call(self):
        permit = self.circuit.admit(self.now)
        if self.state == "open" and self.now >= self.until:
            self.go("half-open")
        if self.state in ("closed", "forced-closed"):
            expected = True
        elif self.state != "half-open" or self.running() >= self.max_probes:
            expected = False
        elif self.checks:
            expected = True
        else:
            self.asked += 1
            expected = self.asked >= self.one_in
            if expected:
                self.asked -= self.one_in
        assert bool(permit) == expected
        if not permit:
            refusal = self.circuit.refuse(self.now)
            waits = self.state == "open"
            assert refusal.policy == "p"
            assert refusal.retry_after == (pytest.approx(self.until - self.now) if waits else None)
            return multiple()
        call = object()
        probe = self.state == "half-open"
        assert self.circuit.is_probe(permit) == probe
        if probe:
            self.probes[call] = self.now
        return (permit, self.era, call)

    @rule(verdict=st.sampled_from([SUCCESS, FAILURE, IGNORED]), slow=st.booleans())
    def end_what_never_was(self, verdict, slow):
        """A permit of an era that never was changes nothing."""
        self.circuit.settle(10_000, verdict, self.now, 5.0 if slow else 0.1)

    @rule(
        held=permits,
        verdict=st.sampled_from([SUCCESS, FAILURE, FAILURE, IGNORED]),
        elapsed=st.sampled_from([0.0, 1.999, 2.0, 9.0]),
    )
    def end(self, held, verdict, elapsed):
        permit, era, call = held
        if (call in self.probes) is False and era == self.era and self.state == "half-open":
            return  # it ended already; a driver settles once
        slow = self.slow_rate is not None and elapsed >= 2.0
        self.circuit.settle(permit, verdict, self.now, elapsed)
        ran = self.probes.pop(call, None) is not None
        if era != self.era or verdict is IGNORED:
            if ran and era == self.era:
                self.asked = self.one_in
            return
        if self.state == "closed":
            self.log.append((self.now, verdict is FAILURE, slow))
            self.streak = self.streak + 1 if verdict is FAILURE else 0
            if self.wants_to_open():
                self.open(OPEN_FOR, OPEN_FOR)
        elif self.state == "half-open":
            if verdict is FAILURE or slow:
                longest = min(2 * self.pause, OPEN_FOR_MAX)
                self.open(max(OPEN_FOR, 0.8 * longest), max(OPEN_FOR, longest))
            else:
                self.passed += 1
                if self.passed >= self.probes_to_close:
                    self.go("closed")

    def wants_to_open(self):
        calls, failures, slow = self.counts()
        if self.consecutive is not None and self.streak >= self.consecutive:
            return True
        if calls < self.min_calls:
            return False
        too_many = self.failure_rate is not None and Fraction(failures, calls) >= self.failure_rate
        return too_many or (self.slow_rate is not None and Fraction(slow, calls) >= self.slow_rate)

    @rule(state=st.sampled_from([State.FORCED_OPEN, State.FORCED_CLOSED, State.CLOSED]))
    def force(self, state):
        if Random(self.era).random() < 0.5:  # rarely enough that the other states get their time
            self.circuit.force(state)
            self.go(state.value)

    @invariant()
    def it_says_what_it_is(self):
        if not hasattr(self, "circuit"):
            return
        shown = self.circuit.snapshot(self.now)
        over = self.state == "open" and self.now >= self.until
        calls, failures, slow = self.counts()
        assert shown == {
            "state": "half-open" if over else self.state,
            "calls": calls,
            "failures": failures,
            "slow": slow,
            "probes": self.running(),
            "passed": self.passed,
            "retry_after": pytest.approx(self.until - self.now) if self.state == "open" and not over else None,
        }
        assert self.circuit.state(self.now).value == shown["state"]
        full = self.state == "half-open" and self.running() >= self.max_probes
        refused = (self.state == "open" and not over) or self.state == "forced-open" or full
        assert (self.circuit.refusal(self.now) is not None) == refused


TestCircuit = CircuitMachine.TestCase


# Through the public face.


def down(**kwargs):
    """A policy whose breaker opens on the second failure of two calls."""
    return Policy("p", breaker=Breaker(**{"failure_rate": 0.5, "min_calls": 2, "open_for": 10.0, **kwargs}))


def fail(drive, policy, times=2):
    for _ in range(times):
        drive.outcome(policy, Scripted(ConnectionError()))


def state(drive, policy):
    return drive.look(lambda: policy.breaker.state)


def make_half_open(drive, policy):
    fail(drive, policy)
    drive.clock.advance(10.0)
    assert state(drive, policy) == "half-open"


@pytest.mark.parametrize(("failures", "expected"), [(0, "closed"), (4, "closed"), (5, "open"), (6, "open"), (10, "open")])
def test_it_opens_when_the_share_of_failures_is_reached_exactly(drive, failures, expected):
    """The article's breaker opens when the share is at most the threshold, which is on health."""
    policy = Policy("p", breaker=Breaker(failure_rate=0.5, min_calls=10))
    for _ in range(10 - failures):
        drive.call(policy, Scripted("tax"))
    fail(drive, policy, failures)
    assert state(drive, policy) == expected


@pytest.mark.parametrize(("calls", "expected"), [(99, "closed"), (100, "open")])
def test_it_never_opens_by_a_share_on_fewer_than_the_minimum_of_calls(drive, calls, expected):
    policy = Policy("p", breaker=Breaker(min_calls=100))
    fail(drive, policy, calls)
    assert state(drive, policy) == expected


def test_closed_lets_pass_and_open_refuses(drive):
    """The article calls the state that refuses "closed"."""
    policy = down()
    dependency = Scripted("tax")
    assert state(drive, policy) == "closed"
    assert drive.call(policy, dependency) == "tax"
    fail(drive, policy)
    assert state(drive, policy) == "open"
    with pytest.raises(BreakerOpen) as caught:
        drive.call(policy, dependency)
    assert dependency.calls == 1
    assert caught.value.policy == "p"
    assert caught.value.retry_after == 10.0


def test_a_success_may_be_the_call_that_fills_the_minimum():
    policy = Policy("p", breaker=Breaker(failure_rate=0.5, min_calls=3))
    for answer in (ConnectionError(), ConnectionError(), "tax"):
        try:
            policy.call(Scripted(answer))
        except ConnectionError:
            pass
    assert policy.breaker.state == "open"


@pytest.mark.parametrize("before", ["FFS", "SFF", "FSFS"])
def test_a_success_fills_the_minimum_also_in_a_later_slice_of_the_window(before):
    circuit = Circuit(Breaker(failure_rate=0.4, min_calls=5, window=60.0), "p", Random())
    for verdict in before:
        circuit.settle(circuit.admit(0.0), FAILURE if verdict == "F" else SUCCESS, 0.0, 0.0)
    for second in range(1, 6 - len(before)):
        assert circuit.state(float(second)) is State.CLOSED
        circuit.settle(circuit.admit(float(second)), SUCCESS, float(second), 0.0)
    assert circuit.state(5.0) is State.OPEN


def test_a_fast_success_fills_the_minimum_for_slow_calls_in_a_later_slice():
    circuit = Circuit(Breaker(slow_rate=0.4, slow_after=1.0, min_calls=5), "p", Random())
    for second, elapsed in enumerate([2.0, 2.0, 0.1, 0.1, 0.1]):
        assert circuit.state(float(second)) is State.CLOSED
        circuit.settle(circuit.admit(float(second)), SUCCESS, float(second), elapsed)
    assert circuit.state(5.0) is State.OPEN


def test_a_success_ends_a_row_of_failures_that_left_the_window():
    circuit = Circuit(Breaker(failure_rate=None, consecutive=2, window=60.0), "p", Random())
    for now, verdict in ((0.0, FAILURE), (100.0, SUCCESS), (101.0, FAILURE)):
        circuit.settle(circuit.admit(now), verdict, now, 0.0)
    assert circuit.state(101.0) is State.CLOSED


def test_a_call_at_the_beginning_of_a_slice_belongs_to_it():
    circuit = Circuit(Breaker(window=60.0), "p", Random())
    for now in (0.5, 1.0):
        circuit.settle(circuit.admit(now), SUCCESS, now, 0.0)
    assert circuit.snapshot(60.0)["calls"] == 1


@pytest.mark.parametrize(("gap", "expected"), [(58.99, "open"), (60.0, "closed")])
def test_failures_that_left_the_window_do_not_open_it(drive, gap, expected):
    policy = Policy("p", breaker=Breaker(failure_rate=1.0, min_calls=4, window=60.0))
    fail(drive, policy, 3)
    drive.clock.advance(gap)
    fail(drive, policy, 1)
    assert state(drive, policy) == expected


@pytest.mark.parametrize(("elapsed", "expected"), [(9.999, "open"), (10.0, "half-open"), (10.001, "half-open")])
def test_it_is_open_for_exactly_the_pause(drive, elapsed, expected):
    policy = down()
    fail(drive, policy)
    drive.clock.advance(elapsed)
    assert state(drive, policy) == expected
    left = drive.look(policy.breaker.snapshot)["retry_after"]
    assert left == (pytest.approx(0.001) if expected == "open" else None)
    dependency = Scripted("tax")
    drive.outcome(policy, dependency)
    assert dependency.calls == (1 if expected == "half-open" else 0)


def test_failures_in_a_row_open_it_whatever_the_share(drive):
    policy = Policy("p", breaker=Breaker(failure_rate=None, consecutive=3))
    fail(drive, policy, 2)
    drive.call(policy, Scripted("tax"))
    fail(drive, policy, 2)
    assert state(drive, policy) == "closed"
    fail(drive, policy, 1)
    assert state(drive, policy) == "open"


@pytest.mark.parametrize(("took", "expected"), [(1.999, "closed"), (2.0, "open")])
def test_slow_calls_open_it_though_they_succeed(drive, took, expected):
    policy = Policy("p", breaker=Breaker(slow_after=2.0, slow_rate=0.5, min_calls=4))
    for after in (0.1, 0.1, took, took):
        assert drive.call(policy, Scripted(Step(after=after, result="tax"))) == "tax"
    assert state(drive, policy) == expected


# Half-open.


def test_five_per_cent_of_the_traffic_passes_as_probes_and_not_half(drive):
    """The article draws the share as a whole number, 0 or 1, and compares that with 0.95: half the traffic passes."""
    policy = down(probe_share=0.05, max_probes=10, probes_to_close=100)
    make_half_open(drive, policy)
    dependency = Scripted("tax")
    passed = [number for number in range(1000) if drive.outcome(policy, dependency) == "tax"]
    assert passed == list(range(0, 1000, 20))


@given(share=st.floats(0.01, 1), asked=st.integers(1, 300))
def test_of_any_number_of_calls_the_share_passes_within_one(share, asked):
    circuit = Circuit(Breaker(probe_share=share, max_probes=1000, probes_to_close=1000, consecutive=1), "p", Random())
    circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.0)
    passed = sum(bool(circuit.admit(30.0)) for _ in range(asked))
    assert abs(passed - share * asked) <= 1.000001


def test_never_more_than_the_limit_of_probes_run_at_once():
    policy = down(probe_share=1.0, max_probes=3, probes_to_close=5)
    running = most = ran = 0

    async def slow():
        nonlocal running, most, ran
        running += 1
        ran += 1
        most = max(most, running)
        await asyncio.sleep(1.0)
        running -= 1

    async def broken():
        raise ConnectionError

    async def main():
        for _ in range(2):
            with pytest.raises(ConnectionError):
                await policy.acall(broken)
        clock.advance(10.0)
        outcomes = await asyncio.gather(*(policy.acall(slow) for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(outcome, BreakerOpen) for outcome in outcomes) == 17

    clock = FakeClock()
    clock.run(main())
    assert (most, ran) == (3, 3)


def test_waiting_does_not_save_up_probes():
    circuit = Circuit(Breaker(probe_share=0.5, max_probes=2, probes_to_close=9, consecutive=1), "p", Random())
    circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.0)
    held = [circuit.admit(30.0) for _ in range(3)]
    assert [bool(permit) for permit in held] == [True, False, True]
    assert not any(circuit.admit(30.0) for _ in range(50))
    for permit in held:
        if permit:
            circuit.settle(permit, SUCCESS, 30.0, 0.0)
    assert [bool(circuit.admit(30.0)) for _ in range(2)] == [False, True]


def test_it_closes_on_successes_and_not_by_time(drive):
    """In the article a success while half-open is never counted, and time alone changes the state."""
    policy = down(probe_share=1.0, probes_to_close=3)
    make_half_open(drive, policy)
    drive.clock.advance(10_000.0)
    assert state(drive, policy) == "half-open"
    for expected in ("half-open", "half-open", "closed"):
        drive.call(policy, Scripted("tax"))
        assert state(drive, policy) == expected
    assert drive.look(policy.breaker.snapshot)["calls"] == 0


def test_what_was_counted_before_does_not_open_it_after_it_closed(drive):
    policy = down(min_calls=4, probe_share=1.0, probes_to_close=1)
    fail(drive, policy, 4)
    drive.clock.advance(10.0)
    drive.call(policy, Scripted("tax"))
    fail(drive, policy, 3)
    assert state(drive, policy) == "closed"


def test_a_failed_probe_opens_it_again_and_the_pause_grows_to_its_cap(drive):
    policy = down(open_for=10.0, open_for_max=60.0, probe_share=1.0)
    fail(drive, policy)
    pause, pauses = 10.0, []
    for _ in range(8):
        drive.clock.advance(pause)
        fail(drive, policy, 1)
        assert state(drive, policy) == "open"
        last, pause = pause, drive.look(policy.breaker.snapshot)["retry_after"]
        longest = min(2 * last, 60.0)
        assert max(10.0, 0.8 * longest) <= pause <= longest
        pauses.append(pause)
    assert all(48.0 <= pause <= 60.0 for pause in pauses[-3:])
    assert len(set(pauses)) == 8


def test_the_pause_starts_afresh_after_it_was_closed(drive):
    policy = down(probe_share=1.0, probes_to_close=1)
    make_half_open(drive, policy)
    fail(drive, policy, 1)
    drive.clock.advance(20.0)
    drive.call(policy, Scripted("tax"))
    fail(drive, policy)
    assert drive.look(policy.breaker.snapshot)["retry_after"] == 10.0


def test_jitter_takes_up_to_a_fifth_of_a_grown_pause_and_never_the_first():
    seen = set()
    for seed in range(200):
        circuit = Circuit(Breaker(consecutive=1, probe_share=1.0, open_for=10.0), "p", Random(seed))
        circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.0)
        assert circuit.open_until == 10.0
        circuit.settle(circuit.admit(10.0), FAILURE, 10.0, 0.0)
        seen.add(circuit.open_until - 10.0)
    assert 16.0 <= min(seen) < 16.2
    assert 19.8 < max(seen) <= 20.0


def test_a_slow_probe_is_a_failed_one(drive):
    policy = down(slow_after=1.0, slow_rate=0.9, probe_share=1.0)
    make_half_open(drive, policy)
    assert drive.call(policy, Scripted(Step(after=1.0, result="tax"))) == "tax"
    assert state(drive, policy) == "open"


def test_late_results_of_an_older_state_change_nothing():
    circuit = Circuit(Breaker(consecutive=2, failure_rate=None, probe_share=1.0, probes_to_close=2), "p", Random())
    late = [circuit.admit(0.0) for _ in range(3)]
    for _ in range(2):
        circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.0)
    probe = circuit.admit(30.0)
    circuit.settle(late[0], SUCCESS, 30.0, 0.0)
    assert circuit.snapshot(30.0)["passed"] == 0
    circuit.settle(late[1], FAILURE, 30.0, 0.0)
    assert circuit.state(30.0) is State.HALF_OPEN
    circuit.settle(probe, SUCCESS, 30.0, 0.0)
    circuit.settle(circuit.admit(30.0), SUCCESS, 30.0, 0.0)
    assert circuit.state(30.0) is State.CLOSED
    circuit.settle(late[2], FAILURE, 30.0, 0.0)
    circuit.settle(probe, FAILURE, 30.0, 0.0)
    assert circuit.snapshot(30.0)["calls"] == 0


# What says nothing about the dependency.


@pytest.mark.parametrize("ignore", [ValueError, (KeyError, ValueError), lambda error: isinstance(error, ValueError)])
def test_ignored_failures_count_as_nothing(drive, ignore):
    policy = down(ignore=ignore)
    for _ in range(5):
        with pytest.raises(ValueError, match="wrong"):
            drive.call(policy, Scripted(ValueError("wrong")))
    assert drive.look(policy.breaker.snapshot)["calls"] == 0
    fail(drive, policy)
    assert state(drive, policy) == "open"


def test_every_exception_is_a_failure_unless_it_is_ignored(drive):
    policy = down()
    for _ in range(2):
        drive.outcome(policy, Scripted(KeyError()))
    assert state(drive, policy) == "open"


def test_an_ignored_probe_frees_its_place_and_its_turn_goes_to_the_next_call(drive):
    policy = down(ignore=ValueError, probe_share=0.05, max_probes=1, probes_to_close=1)
    make_half_open(drive, policy)
    for _ in range(3):
        drive.outcome(policy, Scripted(ValueError()))
    shown = drive.look(policy.breaker.snapshot)
    assert (shown["state"], shown["probes"], shown["passed"]) == ("half-open", 0, 0)
    assert drive.call(policy, Scripted("tax")) == "tax"
    assert state(drive, policy) == "closed"


def test_the_turn_of_an_ignored_probe_goes_to_one_call_and_not_to_two():
    circuit = Circuit(Breaker(consecutive=1, probe_share=0.05), "p", Random())
    circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.0)
    circuit.settle(circuit.admit(30.0), IGNORED, 30.0, 0.0)
    assert [bool(circuit.admit(30.0)) for _ in range(20)] == [True] + [False] * 18 + [True]


def test_a_cancelled_probe_frees_its_place_and_counts_as_nothing():
    policy = down(probe_share=1.0, max_probes=1, probes_to_close=1)

    async def main():
        async def broken():
            raise ConnectionError

        for _ in range(2):
            with pytest.raises(ConnectionError):
                await policy.acall(broken)
        clock.advance(10.0)
        task = asyncio.create_task(policy.acall(asyncio.sleep, 5.0))
        await asyncio.sleep(1.0)
        assert policy.breaker.snapshot()["probes"] == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        shown = policy.breaker.snapshot()
        assert (shown["state"], shown["probes"], shown["passed"]) == ("half-open", 0, 0)
        await policy.acall(asyncio.sleep, 0)
        assert policy.breaker.state == "closed"

    clock = FakeClock()
    clock.run(main())


def test_an_interrupted_probe_frees_its_place():
    policy = down(probe_share=1.0, max_probes=1, probes_to_close=1)
    with FakeClock() as clock:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                policy.call(Scripted(ConnectionError()))
        clock.advance(10.0)
        with pytest.raises(KeyboardInterrupt):
            policy.call(Scripted(KeyboardInterrupt()))
        assert policy.breaker.snapshot()["probes"] == 0
        policy.call(Scripted("tax"))
        assert policy.breaker.state == "closed"


def test_a_probe_that_is_refused_further_in_frees_its_place(drive):
    policy = Policy("p", breaker=Breaker(min_calls=1, probe_share=1.0, max_probes=1), bulkhead=Bulkhead(1))
    fail(drive, policy, 1)
    drive.clock.advance(30.0)
    place = policy._plan.places.enter()
    with pytest.raises(holdfast.BulkheadFull):
        drive.call(policy, Scripted("tax"))
    policy._plan.places.release(place)
    assert drive.look(policy.breaker.snapshot)["probes"] == 0
    assert drive.call(policy, Scripted("tax")) == "tax"


def test_a_refusal_from_within_counts_as_nothing(drive):
    inner = down()
    drive.look(inner.breaker.force_open)
    outer = down()
    for _ in range(5):
        assert isinstance(drive.outcome(outer, Scripted(BreakerOpen("inner"))), BreakerOpen)
    assert drive.look(outer.breaker.snapshot)["calls"] == 0


def test_an_attempt_cut_short_by_the_callers_deadline_counts_as_nothing(drive):
    policy = Policy("p", attempt_timeout=2.0, breaker=Breaker(min_calls=1))
    dependency = Scripted(Step(after=5.0))
    if drive.is_async:

        async def main():
            async with holdfast.deadline(1.0):
                await policy.acall(dependency.acall)

        with pytest.raises(holdfast.DeadlineExceeded):
            drive.clock.run(main())
    else:
        with drive.clock, pytest.raises(holdfast.DeadlineExceeded), holdfast.deadline(1.0):
            policy.call(dependency)
    assert dependency.calls == 1
    assert drive.look(policy.breaker.snapshot)["calls"] == 0
    drive.outcome(policy, dependency)  # in its own time, it fails
    assert state(drive, policy) == "open"


def test_an_unwanted_result_is_a_failure_and_still_the_result(drive):
    policy = down(on_result=lambda status: status >= 500)
    assert [drive.call(policy, Scripted(503)), drive.call(policy, Scripted(503))] == [503, 503]
    assert state(drive, policy) == "open"


# The health check.


def checked(drive, answers, **kwargs):
    """A half-open policy with a health check that answers this, and the list of the times it was asked."""
    asked = []

    def check():
        asked.append(drive.clock.now())
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    policy = down(health_check=drive.made(check), probes_to_close=2, **kwargs)
    make_half_open(drive, policy)
    return policy, asked


def test_a_good_health_check_lets_the_probe_pass_instead_of_the_share(drive):
    policy, asked = checked(drive, [True], probe_share=0.01)
    dependency = Scripted("tax")
    assert [drive.call(policy, dependency), drive.call(policy, dependency)] == ["tax", "tax"]
    assert len(asked) == 2
    assert state(drive, policy) == "closed"
    drive.call(policy, dependency)
    assert len(asked) == 2


@pytest.mark.parametrize("answer", [False, 0, None, "", ConnectionError(), ValueError()])
def test_a_bad_health_check_opens_it_again_and_nothing_is_called(drive, answer):
    policy, asked = checked(drive, [answer])
    dependency = Scripted("tax")
    with pytest.raises(BreakerOpen) as caught:
        drive.call(policy, dependency)
    assert len(asked) == 1
    assert dependency.calls == 0
    assert 16.0 <= caught.value.retry_after <= 20.0
    assert state(drive, policy) == "open"


def test_the_health_check_may_be_interrupted_and_the_probes_place_is_free_again():
    def check():
        raise KeyboardInterrupt

    policy = down(health_check=check, max_probes=1)
    with FakeClock() as clock:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                policy.call(Scripted(ConnectionError()))
        clock.advance(10.0)
        with pytest.raises(KeyboardInterrupt):
            policy.call(Scripted("tax"))
        assert policy.breaker.snapshot()["probes"] == 0


def test_a_blocking_call_with_an_async_health_check_is_a_type_error():
    async def check():
        return True

    policy = down(health_check=check)
    with FakeClock() as clock:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                policy.call(Scripted(ConnectionError()))
        clock.advance(10.0)
        with pytest.raises(TypeError, match="check returned a coroutine to a blocking call"):
            policy.call(Scripted("tax"))
        assert policy.breaker.snapshot()["probes"] == 0


def test_the_health_check_has_the_attempts_time(drive):
    left = []

    def check():
        left.append(holdfast.remaining())
        return True

    policy = Policy("p", attempt_timeout=0.7, breaker=Breaker(min_calls=1, health_check=drive.made(check)))
    fail(drive, policy, 1)
    drive.clock.advance(30.0)
    drive.call(policy, Scripted("tax"))
    assert left == [pytest.approx(0.7)]


def test_the_time_of_a_health_check_is_not_the_calls(drive):
    def check():
        drive.clock.advance(3.0)
        return True

    policy = down(health_check=drive.made(check), slow_after=1.0, slow_rate=1.0, probes_to_close=1)
    make_half_open(drive, policy)
    drive.call(policy, Scripted("tax"))
    assert state(drive, policy) == "closed"


# Forced states.


def test_forced_open_refuses_until_it_is_reset(drive):
    policy = down()
    drive.look(policy.breaker.force_open)
    drive.clock.advance(1e9)
    error = drive.outcome(policy, Scripted("tax"))
    assert isinstance(error, BreakerOpen)
    assert error.retry_after is None
    assert state(drive, policy) == "forced-open"
    assert drive.look(policy.breaker.snapshot)["retry_after"] is None
    drive.look(policy.breaker.reset)
    assert drive.call(policy, Scripted("tax")) == "tax"
    assert state(drive, policy) == "closed"


def test_forced_closed_lets_pass_whatever_becomes_of_it(drive):
    policy = down()
    fail(drive, policy)
    drive.look(policy.breaker.force_closed)
    dependency = Scripted(ConnectionError())
    for _ in range(20):
        assert isinstance(drive.outcome(policy, dependency), ConnectionError)
    assert dependency.calls == 20
    assert state(drive, policy) == "forced-closed"


def test_reset_forgets_what_was_counted(drive):
    policy = down(min_calls=3)
    fail(drive, policy, 2)
    drive.look(policy.breaker.reset)
    fail(drive, policy, 2)
    assert state(drive, policy) == "closed"


def test_a_policy_without_a_breaker_says_so():
    with pytest.raises(AttributeError, match="policy 'p' has no breaker"):
        _ = Policy("p").breaker


# Asking first.


def test_require_raises_for_the_first_that_is_not_to_be_called(drive):
    up, out, forced, bare = down(), Policy("out", breaker=Breaker(min_calls=1)), Policy("forced", breaker=Breaker()), Policy("bare")
    drive.look(holdfast.require)
    drive.look(lambda: holdfast.require(bare, up))
    drive.look(forced.breaker.force_open)
    fail(drive, out, 1)
    with pytest.raises(BreakerOpen) as caught:
        drive.look(lambda: holdfast.require(bare, up, out, forced))
    assert (caught.value.policy, caught.value.retry_after) == ("out", 30.0)
    with pytest.raises(BreakerOpen, match=r"^forced: "):
        drive.look(lambda: holdfast.require(forced, out))


def test_require_takes_no_probes_place(drive):
    policy = down(probe_share=0.05, max_probes=1, probes_to_close=1)
    make_half_open(drive, policy)
    for _ in range(5):
        drive.look(lambda: holdfast.require(policy))
    assert drive.call(policy, Scripted("tax")) == "tax"


def test_require_refuses_while_all_probes_run():
    policy = down(max_probes=1)
    with FakeClock() as clock:
        for _ in range(2):
            with pytest.raises(ConnectionError):
                policy.call(Scripted(ConnectionError()))
        clock.advance(10.0)
        with policy.guard(), pytest.raises(BreakerOpen) as caught:
            holdfast.require(policy)
        assert caught.value.retry_after is None


# What is told.


def test_every_change_of_state_is_told_with_its_reason(drive):
    told = []
    stop = events.subscribe(lambda event: told.append(event) if isinstance(event, events.BreakerChanged) else None)
    try:
        policy = down(probe_share=1.0, probes_to_close=2)
        make_half_open(drive, policy)
        drive.call(policy, Scripted("tax"))
        drive.call(policy, Scripted("tax"))
        drive.look(policy.breaker.force_open)
        drive.look(policy.breaker.force_open)
        drive.look(policy.breaker.force_closed)
        drive.look(policy.breaker.reset)
        make_half_open(drive, policy)
        fail(drive, policy, 1)
    finally:
        stop()
    pause = drive.look(policy.breaker.snapshot)["retry_after"]
    assert [(event.policy, event.old, event.new, event.reason, event.pause) for event in told] == [
        ("p", "closed", "open", "2 of 2 calls failed", 10.0),
        ("p", "open", "half-open", "10 s have passed", 0.0),
        ("p", "half-open", "closed", "2 probes succeeded", 0.0),
        ("p", "closed", "forced-open", "forced", 0.0),
        ("p", "forced-open", "forced-closed", "forced", 0.0),
        ("p", "forced-closed", "closed", "reset", 0.0),
        ("p", "closed", "open", "2 of 2 calls failed", 10.0),
        ("p", "open", "half-open", "10 s have passed", 0.0),
        ("p", "half-open", "open", "a probe failed", pytest.approx(pause)),
    ]


@pytest.mark.parametrize(
    ("config", "steps", "reason"),
    [
        ({"failure_rate": None, "consecutive": 2}, [ConnectionError()] * 2, "2 failures in a row"),
        ({"failure_rate": None, "slow_rate": 0.5, "slow_after": 1.0, "min_calls": 2}, [1, Step(after=1.0)], "1 of 2 calls were slow"),
    ],
)
def test_the_reason_names_the_rule(drive, config, steps, reason):
    told = []
    stop = events.subscribe(lambda event: told.append(event) if isinstance(event, events.BreakerChanged) else None)
    try:
        policy = down(**config)
        for step in steps:
            drive.outcome(policy, Scripted(step))
    finally:
        stop()
    assert [event.reason for event in told] == [reason]


def test_news_is_taken_once():
    stop = events.subscribe(lambda event: None)
    try:
        circuit = Circuit(Breaker(), "p", Random())
        circuit.force(State.FORCED_OPEN)
        assert [event.new for event in circuit.take_news()] == ["forced-open"]
        assert circuit.take_news() == []
    finally:
        stop()


def test_where_nobody_listens_no_event_is_kept():
    circuit = Circuit(Breaker(), "p", Random())
    circuit.force(State.FORCED_OPEN)
    assert circuit.news == []


def test_each_policy_has_its_own_breaker_though_the_rules_are_one_object(drive):
    rules = Breaker(min_calls=1)
    one, two = Policy("one", breaker=rules), Policy("two", breaker=rules)
    fail(drive, one, 1)
    assert (state(drive, one), state(drive, two)) == ("open", "closed")


def test_each_attempt_of_a_retried_call_is_counted(drive):
    from holdfast import Backoff

    policy = Policy("p", retry=Retry(attempts=4, backoff=Backoff(base=0, cap=0)), breaker=Breaker(min_calls=9))
    fail(drive, policy, 1)
    assert drive.look(policy.breaker.snapshot)["calls"] == 4


@given(st.integers(0, 3))
def test_a_fork_keeps_the_state_and_forgets_the_probes(probes):
    circuit = Circuit(Breaker(consecutive=1, probe_share=1.0, max_probes=3), "p", Random())
    circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.0)
    held = [circuit.admit(30.0) for _ in range(probes)]
    circuit._after_fork()
    if probes:
        assert circuit.state(30.0) is State.HALF_OPEN
        assert circuit.snapshot(30.0)["probes"] == 0
        circuit.settle(held[0], FAILURE, 30.0, 0.0)
        assert circuit.state(30.0) is State.HALF_OPEN
    else:
        assert circuit.state(29.0) is State.OPEN
        assert circuit.refusal(29.0).retry_after == 1.0
    assert circuit.admit(31.0)


def test_the_defaults_are_the_documented_ones():
    rules = Breaker()
    assert (rules.failure_rate, rules.min_calls, rules.window, rules.slow_after, rules.slow_rate, rules.consecutive) == (
        0.5,
        100,
        60.0,
        None,
        None,
        None,
    )
    assert (rules.open_for, rules.open_for_max, rules.probe_share, rules.max_probes, rules.probes_to_close) == (30.0, 300.0, 0.05, 10, 5)
    assert (rules.health_check, rules.ignore, rules.on_result) == (None, (), None)


@pytest.mark.parametrize(
    ("rules", "opens", "probes"),
    [
        (
            Breaker(),
            "opens on 50 % failures of 100 or more calls in 60 s, for 30 s (up to 300 s)",
            "probes to 5 % of the calls",
        ),
        (
            Breaker(slow_after="1s", slow_rate=0.9, consecutive=7, health_check=bool, open_for=9, window=5),
            "opens on 50 % failures or 90 % slower than 1 s of 100 or more calls in 5 s or on 7 failures in a row, for 9 s (up to 300 s)",
            "probes after a health check",
        ),
        (
            Breaker(failure_rate=None, consecutive=3),
            "opens on 3 failures in a row, for 30 s (up to 300 s)",
            "probes to 5 % of the calls",
        ),
    ],
)
def test_it_describes_itself(rules, opens, probes):
    assert rules.describe() == f"{opens}; then {probes}, 10 at once, 5 successes close it"


def test_its_handle_shows_its_state():
    assert repr(down().breaker) == "<breaker of 'p': closed>"


def test_probes_that_hang_since_an_earlier_half_open_state_are_counted_among_the_most_at_once():
    circuit = Circuit(Breaker(consecutive=1, open_for=10.0, open_for_max=100.0, probe_share=1.0, max_probes=2), "p", Random(1))
    circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.1)
    hung, failed = circuit.admit(10.0), circuit.admit(10.0)
    assert hung
    assert failed
    circuit.settle(failed, FAILURE, 10.5, 0.5)
    later = circuit.open_until
    assert circuit.admit(later)  # one hangs, so one more may run
    assert not circuit.admit(later)
    circuit.settle(hung, SUCCESS, later, later - 10.0)  # it frees its place, and says nothing about this time
    assert circuit.snapshot(later)["passed"] == 0
    assert circuit.admit(later)


def test_a_probe_that_never_comes_back_does_not_keep_the_breaker_from_probing_for_ever():
    circuit = Circuit(Breaker(consecutive=1, open_for=10.0, open_for_max=100.0, probe_share=1.0, max_probes=1), "p", Random(1))
    circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.1)
    assert circuit.admit(10.0)
    assert not circuit.admit(109.9)
    assert circuit.admit(110.0)


def test_a_probe_that_never_comes_back_does_not_keep_those_away_who_ask_first():
    circuit = Circuit(Breaker(consecutive=1, open_for=10.0, open_for_max=100.0, probe_share=1.0, max_probes=1), "p", Random(1))
    circuit.settle(circuit.admit(0.0), FAILURE, 0.0, 0.1)
    assert circuit.admit(10.0)
    assert circuit.refusal(109.9)
    assert circuit.refusal(110.0) is None


def test_a_permit_is_current_while_its_state_lasts():
    circuit = Circuit(Breaker(consecutive=1, open_for=10.0, probe_share=1.0), "p", Random(1))
    closed, failed = circuit.admit(0.0), circuit.admit(0.0)
    assert circuit.is_current(closed)
    circuit.settle(failed, FAILURE, 0.0, 0.1)
    assert not circuit.is_current(closed)
    probe, failed = circuit.admit(10.0), circuit.admit(10.0)
    assert circuit.is_current(probe)
    assert not circuit.is_current(closed)
    circuit.settle(failed, FAILURE, 10.0, 0.1)
    assert not circuit.is_current(probe)
