"""Samples become figures and points of charts."""

import time

import pytest

from holdfast.replay.figures import between, changes, over_time, per_minute, percentiles, rate
from holdfast.replay.load import Sample
from holdfast.replay.watch import Watch


def test_percentiles_are_within_half_a_percent():
    values = [n / 10 for n in range(1, 100_001)]
    assert percentiles(values, 50, 99, 99.99) == pytest.approx([5000, 9900, 9999], rel=0.006)


def test_percentiles_of_nothing_are_an_error():
    with pytest.raises(ValueError, match="nothing was measured"):
        percentiles([], 50)


def test_time_is_cut_into_stretches_with_gaps_where_nothing_happened():
    assert over_time([(0.1, 1.0), (0.2, 3.0), (0.3, 2.0), (2.5, 7.0)], 1.0, 3.0) == [(0.5, 2.0), (1.5, None), (2.5, 7.0)]
    assert per_minute([0.1, 0.2, 2.5], 1.0, 3.0) == [(0.5, 120.0), (1.5, 0.0), (2.5, 60.0)]


def test_a_counter_becomes_a_rate_per_second_or_per_other_counter():
    counter = [(0.5 * n, 3.0 * n) for n in range(7)]
    assert rate([*counter]) == [(2.5, 6.0), (3.0, 6.0)]
    assert rate([*counter], [(at, value / 2) for at, value in counter]) == [(2.5, 2.0), (3.0, 2.0)]
    assert rate([*counter], [(at, 1.0) for at, _ in counter]) == []


def test_states_are_told_by_when_they_began():
    read = [(0.0, None), (1.0, "closed"), (2.0, "closed"), (3.0, "open"), (9.0, "closed")]
    assert changes([*read], 5.0) == [(1.0, "closed"), (3.0, "open"), (5.0, "open")]
    assert changes([(0.0, None)], 5.0) == []


def test_samples_are_chosen_by_when_they_were_due():
    early, late, other = (Sample(flow, at, 0.1, 200, 1, 0.0) for flow, at in (("a", 1.0), ("a", 2.0), ("b", 1.0)))
    assert between([early, late, other], 1.0, 2.0) == [early, other]
    assert between([early, late, other], 0.0, 9.0, "a") == [early, late]


@pytest.mark.realtime
def test_a_watch_reads_at_a_steady_interval():
    readings = iter(range(100))
    start = time.monotonic() + 0.1
    with Watch(start, 0.05, {"n": lambda: next(readings)}) as watch:
        time.sleep(0.42)
    points = watch.series("n")
    assert 3 <= len(points) <= 7
    assert all(at >= 0 for at, _ in points)
    assert watch.numbers("n", 0.0, 1.0) == [value for _, value in points]


def test_a_gauge_that_fails_is_not_hidden():
    with pytest.raises(ZeroDivisionError), Watch(time.monotonic(), 0.01, {"n": lambda: 1 // 0}):
        time.sleep(0.1)
