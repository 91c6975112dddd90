"""Counts and durations over a sliding window, against lists of everything that happened."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast.window import SLICES, Latencies, Window


class WindowMachine(RuleBasedStateMachine):
    """The slow form: every event is kept with the number of its slice; those of the last sixty slices count."""

    KINDS = 3

    @initialize(span=st.sampled_from([60.0, 15.0, 7.5, 240.0]), start=st.integers(0, 10_000))
    def begin(self, span, start):
        self.slice = span / SLICES  # powers of two times numbers below 2**53: the arithmetic here is exact
        self.window = Window(span, self.KINDS)
        self.now = start * 0.125
        self.newest = None
        self.events = []

    def looked_at(self, now):
        number = math.floor(now / self.slice)
        self.newest = number if self.newest is None else max(self.newest, number)

    @rule(steps=st.integers(0, 40))
    def time_passes(self, steps):
        self.now += steps * 0.125

    @rule(steps=st.integers(0, 20_000))
    def much_time_passes(self, steps):
        self.now += steps * 0.125

    @rule(kind=st.integers(0, KINDS - 1), times=st.integers(1, 5))
    def count(self, kind, times):
        for _ in range(times):
            if self.now >= self.window.turns_at:
                self.window.turn(self.now)
            self.window.bump[kind]()
            self.looked_at(self.now)
            self.events.append((self.newest, kind))

    @rule(kind=st.integers(0, KINDS - 1), late=st.integers(1, 30))
    def count_by_a_thread_whose_time_is_old(self, kind, late):
        then = max(0.0, self.now - late * 0.125)
        if then >= self.window.turns_at:
            self.window.turn(then)
        self.window.bump[kind]()
        self.looked_at(then)
        self.events.append((self.newest, kind))

    @rule()
    def clear(self):
        self.window.clear()
        self.events = []
        self.newest = None

    @rule()
    def totals_are_those_of_the_list(self):
        self.looked_at(self.now)
        alive = [kind for number, kind in self.events if number > self.newest - SLICES]
        assert self.window.totals(self.now) == [alive.count(kind) for kind in range(self.KINDS)]

    @invariant()
    def looking_twice_changes_nothing(self):
        if hasattr(self, "window"):
            self.totals_are_those_of_the_list()
            self.totals_are_those_of_the_list()


TestWindow = WindowMachine.TestCase


@given(
    span=st.floats(0.01, 1000),
    gaps=st.lists(st.floats(0, 300), max_size=60),
    start=st.floats(0, 1e6),
)
def test_nothing_older_than_the_window_counts_and_at_most_a_slice_is_forgotten_early(span, gaps, start):
    window = Window(span, 1)
    now = start
    times = []
    for gap in gaps:
        now += gap
        if now >= window.turns_at:
            window.turn(now)
        window.bump[0]()
        times.append(now)
        error = 1e-9 * max(1.0, now)
        counted = window.totals(now)[0]
        assert counted <= sum(1 for moment in times if moment >= now - span - error)
        assert counted >= sum(1 for moment in times if moment > now - span + span / SLICES + error)


def test_it_does_not_forget_everything_at_an_edge():
    """The article's counters expire as a whole; a second after the edge of a minute its window knows one second."""
    window = Window(60.0, 1)
    for second in range(60):
        window.turn(float(second))
        window.bump[0]()
    assert window.totals(59.9) == [60]
    assert window.totals(60.0) == [59]
    assert window.totals(61.0) == [58]
    assert window.totals(118.9) == [1]
    assert window.totals(119.0) == [0]


@pytest.mark.parametrize("span", [5e-324, 1e-300, 1e-9, 1e308])
def test_a_window_may_be_of_any_length(span):
    window = Window(span, kinds=1)
    for now in (0.0, 1e9):
        window.turn(now)
        window.bump[0]()
        assert window.totals(now)[-1] >= 1


def test_the_next_turn_is_at_the_end_of_the_slice():
    window = Window(60.0, 1)
    assert window.turns_at == -math.inf
    window.turn(5.5)
    assert window.turns_at == 6.0
    window.turn(5.9)
    assert window.turns_at == 6.0
    window.turn(3.0)
    assert window.turns_at == 6.0


def test_a_cleared_window_is_like_a_new_one():
    window = Window(60.0, 2)
    window.turn(100.0)
    window.bump[1]()
    window.clear()
    assert window.turns_at == -math.inf
    assert window.totals(3.0) == [0, 0]


# Durations.


@given(
    times=st.lists(st.floats(1e-6, 9000), min_size=1, max_size=80),
    q=st.sampled_from([0.01, 0.07, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0]),
)
def test_a_quantile_is_that_of_the_sorted_list_within_five_per_cent(times, q):
    latencies = Latencies(60.0)
    for seconds in times:
        latencies.add(seconds, 10.0)
    rank = -(-round(q * 100) * len(times) // 100)
    exact = sorted(times)[max(1, rank) - 1]
    assert latencies.quantile(q, 1) == pytest.approx(exact, rel=0.0501)


def test_a_share_that_is_no_binary_number_takes_the_rank_that_it_names():
    """0.07 * 100 is 7.000000000000001 in binary, which must not become the eighth."""
    latencies = Latencies(60.0)
    for seconds in range(1, 101):
        latencies.add(2.0**seconds / 2**90, 0.0)
    few = Latencies(60.0)
    for seconds in [0.001] * 7 + [1.0] * 93:
        few.add(seconds, 0.0)
    assert few.quantile(0.07, 1) == pytest.approx(0.001, rel=0.06)


def test_too_few_durations_say_nothing():
    latencies = Latencies(60.0)
    assert latencies.quantile(0.5, 0) is None
    for _ in range(4):
        latencies.add(0.1, 0.0)
    assert latencies.quantile(0.5, 5) is None
    latencies.add(0.1, 0.0)
    assert latencies.quantile(0.5, 5) == pytest.approx(0.1, rel=0.05)


def test_durations_below_the_first_bin_and_above_the_last_are_put_into_them():
    latencies = Latencies(60.0)
    latencies.add(0.0, 0.0)
    assert latencies.quantile(1.0, 1) == pytest.approx(1e-6, rel=0.05)
    latencies.add(9900.0, 0.0)
    assert latencies.quantile(1.0, 1) == pytest.approx(9900.0, rel=0.05)
    latencies.add(1e9, 0.0)
    assert latencies.quantile(1.0, 1) == pytest.approx(1e4, rel=0.1)


def test_an_answer_rests_on_between_half_a_window_and_a_whole_one():
    latencies = Latencies(60.0)
    latencies.add(1.0, 100.0)  # the halves turn at 130, 160 ...
    latencies.advance(129.9)
    assert latencies.quantile(1.0, 1) == pytest.approx(1.0, rel=0.05)
    latencies.add(0.1, 130.0)
    assert latencies.quantile(1.0, 2) == pytest.approx(1.0, rel=0.05)
    latencies.advance(159.9)
    assert latencies.quantile(1.0, 2) == pytest.approx(1.0, rel=0.05)
    latencies.advance(160.0)
    assert latencies.quantile(1.0, 2) is None
    assert latencies.quantile(1.0, 1) == pytest.approx(0.1, rel=0.05)


def test_a_pause_longer_than_half_a_window_forgets_all():
    latencies = Latencies(60.0)
    latencies.add(1.0, 100.0)
    latencies.advance(160.0)
    assert latencies.quantile(1.0, 1) is None
    latencies.add(1.0, 160.0)
    latencies.advance(189.9)
    assert latencies.quantile(1.0, 1) is not None
