"""Delays between attempts."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import Backoff


class Chosen(Random):
    """A source of randomness that always lands at one place between the two ends."""

    def __init__(self, where: float) -> None:
        super().__init__()
        self.where = where

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.where


LOWEST, MIDDLE, HIGHEST = Chosen(0.0), Chosen(0.5), Chosen(1.0)


def test_without_jitter_the_delays_double_until_the_cap():
    backoff = Backoff(base=0.1, factor=2.0, cap=0.5, jitter="none")
    assert [backoff.delay(n, 0.0, Random()) for n in (1, 2, 3, 4, 5)] == [0.1, 0.2, 0.4, 0.5, 0.5]


def test_the_factor_is_what_each_delay_is_multiplied_with():
    backoff = Backoff(base=1, factor=3, cap=100, jitter="none")
    assert [backoff.delay(n, 0.0, Random()) for n in (1, 2, 3, 4, 5)] == [1, 3, 9, 27, 81]


@pytest.mark.parametrize(
    ("jitter", "lowest", "middle", "highest"),
    [("none", 0.4, 0.4, 0.4), ("full", 0.0, 0.2, 0.4), ("equal", 0.2, 0.3, 0.4)],
)
def test_jitter_only_chooses_below_the_configured_delay(jitter, lowest, middle, highest):
    """The article adds the jitter to the delay, and waits up to twice as long as configured."""
    backoff = Backoff(base=0.1, factor=2.0, cap=9.0, jitter=jitter)
    assert backoff.delay(3, 0.0, LOWEST) == pytest.approx(lowest)
    assert backoff.delay(3, 0.0, MIDDLE) == pytest.approx(middle)
    assert backoff.delay(3, 0.0, HIGHEST) == pytest.approx(highest)


def test_decorrelated_jitter_goes_from_the_base_to_three_times_the_last_delay():
    backoff = Backoff(base=0.1, cap=2.0, jitter="decorrelated")
    assert backoff.delay(1, 0.0, LOWEST) == backoff.delay(1, 0.0, HIGHEST) == 0.1
    assert backoff.delay(2, 0.5, LOWEST) == 0.1
    assert backoff.delay(2, 0.5, HIGHEST) == 1.5
    assert backoff.delay(3, 1.0, HIGHEST) == 2.0


def test_a_number_too_large_for_a_float_is_the_cap():
    assert Backoff(base=1, factor=10, cap=60, jitter="none").delay(10_000, 0.0, Random()) == 60


def test_a_base_of_zero_retries_at_once():
    assert Backoff(base=0, cap=0).delay(1, 0.0, Random()) == 0


def test_the_defaults_are_full_jitter_from_50_ms_to_1_s():
    backoff = Backoff()
    assert (backoff.base, backoff.factor, backoff.cap, backoff.jitter) == (0.05, 2.0, 1.0, "full")


def test_lengths_of_time_may_be_text():
    backoff = Backoff(base="50ms", cap="2s")
    assert (backoff.base, backoff.cap) == (0.05, 2.0)


@pytest.mark.parametrize(
    ("backoff", "words"),
    [
        (Backoff(), "0.05 s x 2 up to 1 s, full jitter"),
        (Backoff(base=0.1, factor=3, cap=9, jitter="none"), "0.1 s x 3 up to 9 s, no jitter"),
        (Backoff(jitter="decorrelated"), "0.05 s x 2 up to 1 s, decorrelated jitter"),
    ],
)
def test_it_describes_itself(backoff, words):
    assert backoff.describe() == words


@given(
    base=st.floats(0, 10),
    factor=st.floats(1, 10),
    extra=st.floats(0, 100),
    jitter=st.sampled_from(["none", "full", "equal", "decorrelated"]),
    retry=st.integers(1, 2000),
    previous=st.floats(0, 200),
    seed=st.integers(),
)
def test_no_delay_is_above_the_configured_one_or_the_cap(base, factor, extra, jitter, retry, previous, seed):
    backoff = Backoff(base=base, factor=factor, cap=base + extra, jitter=jitter)
    delay = backoff.delay(retry, previous, Random(seed))
    assert 0 <= delay <= base + extra
    if jitter != "decorrelated":
        plain = Backoff(base=base, factor=factor, cap=base + extra, jitter="none").delay(retry, previous, Random())
        assert delay <= plain
        assert jitter != "equal" or delay >= plain / 2
    else:
        assert delay >= min(base, base + extra)
