"""Budget: retries are a share of the traffic, over a window that slides."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from holdfast import Backoff, Budget, Policy, Retry
from holdfast.testing import Scripted

AT_ONCE = Backoff(base=0, cap=0)


class BudgetMachine(RuleBasedStateMachine):
    """The slow form: a list of calls and one of retries, counted anew each time, in exact fractions."""

    @initialize(ratio=st.integers(0, 100), floor=st.integers(0, 20), window=st.sampled_from([7.5, 60.0, 15.0]))
    def begin(self, ratio, floor, window):
        self.budget = Budget(ratio=ratio / 100, min_per_second=floor / 10, window=window)
        self.ratio, self.floor = Fraction(ratio, 100), Fraction(floor, 10) * Fraction(window)
        self.slice = window / 60
        self.now = 0.0
        self.calls, self.retries = [], []

    def counts(self):
        alive = math.floor(self.now / self.slice) - 60
        return (
            sum(1 for moment in self.calls if math.floor(moment / self.slice) > alive),
            sum(1 for moment in self.retries if math.floor(moment / self.slice) > alive),
        )

    def allowed(self):
        return math.floor(self.ratio * self.counts()[0] + self.floor)

    @rule(steps=st.integers(1, 200))
    def time_passes(self, steps):
        self.now += steps * 0.125

    @rule(times=st.integers(1, 30))
    def call(self, times):
        for _ in range(times):
            self.budget.ledger.deposit(self.now)
            self.calls.append(self.now)

    @rule(times=st.integers(1, 30))
    def ask_for_retries(self, times):
        for _ in range(times):
            granted = self.budget.ledger.withdraw(self.now)
            assert granted == (self.counts()[1] < self.allowed())
            if granted:
                self.retries.append(self.now)

    @precondition(lambda self: hasattr(self, "budget"))
    @rule()
    def look(self):
        calls, retries = self.counts()
        assert self.budget.ledger.snapshot(self.now) == {
            "calls": calls,
            "retries": retries,
            "left": max(0, self.allowed() - retries),
        }


TestBudget = BudgetMachine.TestCase


def storm(drive, policy, calls, every=0.0):
    """Make calls that all fail, and say how many attempts they made."""
    dependency = Scripted(ConnectionError())
    for _ in range(calls):
        drive.outcome(policy, dependency)
        drive.clock.advance(every)
    return dependency.calls


def test_a_full_outage_adds_a_tenth_to_the_load_and_not_double_of_it(drive):
    """The article's three attempts per call make three times the load of an outage."""
    policy = Policy("p", retry=Retry(attempts=3, backoff=AT_ONCE, budget=Budget(ratio=0.1, min_per_second=0, window=60)))
    assert storm(drive, policy, 200) == 220


def test_one_budget_may_serve_several_policies(drive):
    budget = Budget(ratio=0.1, min_per_second=0, window=60)
    one = Policy("one", retry=Retry(backoff=AT_ONCE, budget=budget))
    two = Policy("two", retry=Retry(backoff=AT_ONCE, budget=budget))
    drive.outcome(one, Scripted("tax"))
    for _ in range(9):
        drive.outcome(one, Scripted("tax"))
    assert storm(drive, two, 1) == 2
    assert drive.look(one.snapshot)["budget"] == drive.look(two.snapshot)["budget"] == {"calls": 11, "retries": 1, "left": 0}


def test_two_budgets_of_the_same_figures_are_two():
    assert Budget() != Budget()
    assert len({Budget(), Budget()}) == 2


def test_the_floor_lets_a_service_with_little_traffic_retry():
    budget = Budget(ratio=0.0, min_per_second=0.5, window=10)
    assert [budget.ledger.withdraw(0.0) for _ in range(6)] == [True] * 5 + [False]


def test_there_is_no_burst_at_the_edge_of_a_window():
    """The article's windows are fixed, and its test is made after the counter is raised: twice the share passes around an edge."""
    budget = Budget(ratio=0.1, min_per_second=0, window=60)
    granted = []
    for tick in range(1200):
        now = tick * 0.1
        budget.ledger.deposit(now)
        if 595 <= tick < 605 and budget.ledger.withdraw(now):
            granted.append(now)
        elif tick < 595 and budget.ledger.withdraw(now):
            pass
    assert len(granted) <= 2


def test_a_refused_retry_costs_nothing():
    budget = Budget(ratio=0.1, min_per_second=0, window=60)
    for _ in range(50):
        assert not budget.ledger.withdraw(0.0)
    for _ in range(10):
        budget.ledger.deposit(0.0)
    assert budget.ledger.withdraw(0.0)


def test_what_is_left_is_never_below_zero():
    budget = Budget(ratio=1.0, min_per_second=0, window=60)
    budget.ledger.deposit(0.0)
    budget.ledger.deposit(30.0)
    assert budget.ledger.withdraw(30.0)
    assert budget.ledger.withdraw(30.0)
    assert budget.ledger.snapshot(60.0) == {"calls": 1, "retries": 2, "left": 0}


@pytest.mark.parametrize(("ratio", "calls", "granted"), [(0.29, 100, 29), (0.07, 100, 7), (0.57, 100, 57), (0.1, 9, 0), (0.1, 10, 1)])
def test_a_share_that_is_no_binary_number_grants_what_it_says(ratio, calls, granted):
    budget = Budget(ratio=ratio, min_per_second=0, window=60)
    for _ in range(calls):
        budget.ledger.deposit(0.0)
    assert budget.ledger.snapshot(0.0)["left"] == granted
    assert sum(budget.ledger.withdraw(0.0) for _ in range(calls)) == granted


def test_calls_count_from_the_first_attempt_so_refused_calls_do_not(drive):
    from holdfast import Breaker

    budget = Budget(ratio=0.1, min_per_second=0)
    policy = Policy("p", retry=Retry(budget=budget), breaker=Breaker())
    drive.look(policy.breaker.force_open)
    storm(drive, policy, 5)
    assert drive.look(policy.snapshot)["budget"]["calls"] == 0


def test_the_defaults_are_a_tenth_and_one_a_second_over_ten_seconds():
    budget = Budget()
    assert (budget.ratio, budget.min_per_second, budget.window) == (0.1, 1.0, 10.0)
    assert budget.ledger.snapshot(0.0) == {"calls": 0, "retries": 0, "left": 10}


def test_it_describes_itself():
    assert Budget(ratio=0.25, min_per_second=2, window="1m").describe() == "retries up to 25 % of the calls + 2/s, over 60 s"
