"""Adaptive limit: a bulkhead that finds its own size."""

from __future__ import annotations

import asyncio
import math
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from holdfast import AdaptiveLimit, BulkheadFull, Policy, events
from holdfast.outcome import FAILURE, IGNORED, SUCCESS
from holdfast.policies.adaptive import Adaptive, Vegas
from holdfast.testing import FakeClock, Scripted, Step


class AdaptiveMachine(RuleBasedStateMachine):
    """Whatever calls tell, the limit stays in its range and the places follow it; for aimd, it is the one that fractions give."""

    @initialize(
        algorithm=st.sampled_from(["aimd", "vegas"]),
        lowest=st.integers(1, 5),
        more=st.integers(0, 30),
        where=st.floats(0, 1),
        ratio=st.sampled_from(["0.5", "0.75", "0.9", "1"]),
        smoothing=st.sampled_from([0.25, 0.5, 1.0]),
        seed=st.integers(0, 1000),
    )
    def begin(self, algorithm, lowest, more, where, ratio, smoothing, seed):
        self.lowest, self.highest = lowest, lowest + more
        initial = lowest + round(more * where)
        self.algorithm, self.ratio = algorithm, Fraction(ratio)
        config = AdaptiveLimit(
            algorithm=algorithm,
            initial=initial,
            min_limit=lowest,
            max_limit=self.highest,
            backoff_ratio=float(ratio),
            slow_after=2.0 if algorithm == "aimd" else None,
            smoothing=smoothing,
        )
        self.adaptive = Adaptive(config, "p", Random(seed))
        self.limit = initial
        self.running = []

    @rule(times=st.integers(1, 10))
    def begin_calls(self, times):
        for _ in range(times):
            permit = self.adaptive.places.enter()
            assert bool(permit) == (len(self.running) < self.adaptive.places.limit)
            if permit:
                self.running.append(permit)

    @rule(
        times=st.integers(1, 10),
        verdict=st.sampled_from([SUCCESS, SUCCESS, FAILURE, IGNORED]),
        elapsed=st.sampled_from([0.0, 0.01, 0.1, 0.11, 0.13, 0.2, 1.0, 1.999, 2.0, 50.0]),
    )
    def end_calls(self, times, verdict, elapsed):
        for _ in range(min(times, len(self.running))):
            before = self.adaptive.places.limit
            self.adaptive.settle(verdict, elapsed)
            if self.algorithm == "aimd" and verdict is not IGNORED:
                if verdict is FAILURE or elapsed >= 2.0:
                    self.limit = max(self.lowest, math.floor(self.limit * self.ratio))
                elif 2 * len(self.running) >= self.limit:
                    self.limit = min(self.highest, self.limit + 1)
            if verdict is IGNORED:
                assert self.adaptive.places.limit == before
            elif verdict is FAILURE:
                assert self.adaptive.places.limit <= before
            elif 2 * len(self.running) < before:
                assert self.adaptive.places.limit <= before
            self.adaptive.places.release(self.running.pop())

    @invariant()
    def the_limit_is_in_its_range(self):
        if hasattr(self, "adaptive"):
            assert self.lowest <= self.adaptive.places.limit <= self.highest
            assert self.adaptive.places.running == len(self.running)
            if self.algorithm == "aimd":
                assert self.adaptive.places.limit == self.limit


TestAdaptive = AdaptiveMachine.TestCase


def vegas(initial=10, **kwargs):
    return Vegas(AdaptiveLimit(**{"initial": initial, "max_limit": 1000, **kwargs}), Random(0))


@pytest.mark.parametrize(
    ("initial", "slower_by", "after"),
    [
        # limit 100: a few is 2 queued, some 6, many 12; queued = ceil(limit * (1 - fastest / now))
        (100, 100 / 100, 112),
        (100, 100 / 98.5, 112),
        (100, 100 / 97.5, 102),
        (100, 100 / 95.5, 102),
        (100, 100 / 94.5, 100),
        (100, 100 / 88.5, 100),
        (100, 100 / 87.5, 98),
        (100, 10.0, 98),
        # limit 10: one, three, six
        (10, 10 / 9.5, 16),
        (10, 10 / 8.5, 11),
        (10, 10 / 7.5, 10),
        (10, 10 / 4.5, 10),
        (10, 10 / 3.5, 9),
        # limit 5: the same steps, for a logarithm below one counts as one
        (5, 1.0, 11),
        (5, 100.0, 5),
    ],
)
def test_vegas_moves_by_how_many_calls_seem_to_be_queued(initial, slower_by, after):
    limit = vegas(initial)
    limit.sample(0.1, initial, False)
    assert limit.limit == initial
    limit.sample(0.1 * slower_by, initial, False)
    assert limit.limit == after


def test_vegas_takes_the_fastest_success_for_time_without_a_queue():
    limit = vegas(100)
    limit.sample(1.0, 100, False)
    limit.sample(0.1, 100, True)  # a failure may be fast for other reasons
    assert limit.limit == 98
    limit.sample(1.0, 100, False)
    assert limit.limit == 98 + 6
    limit.sample(0.5, 100, False)
    assert limit.limit == 104
    limit.sample(1.0, 100, False)
    assert limit.limit == 102


def test_vegas_does_not_grow_while_less_than_half_is_used():
    limit = vegas(100)
    limit.sample(0.1, 49, False)
    limit.sample(0.1, 49, False)
    assert limit.limit == 100
    limit.sample(0.1, 50, False)
    assert limit.limit == 112


def test_vegas_takes_a_failure_as_a_sign_however_little_is_used():
    limit = vegas(100)
    limit.sample(0.1, 1, True)
    assert limit.limit == 98


def test_vegas_measures_the_fastest_time_anew_once_in_fifteen_to_thirty_rounds():
    """Otherwise a service that became slower for good would be taken for one that queues."""
    for seed in range(20):
        limit = Vegas(AdaptiveLimit(initial=10, min_limit=10, max_limit=10), Random(seed))
        for _ in range(200):
            limit.sample(0.1, 10, False)
        assert limit._fastest == 0.1
        count = 0
        while limit._fastest == 0.1:
            limit.sample(0.3, 10, False)
            count += 1
            assert count <= 300
        assert limit._fastest == 0.3
        again = 0
        while limit._fastest == 0.3:
            limit.sample(0.7, 10, False)
            again += 1
        assert 150 <= again <= 301


def test_vegas_does_not_take_a_failure_for_the_fastest_time():
    """A refused connection is back in no time, and would make everything after it look queued."""
    limit = Vegas(AdaptiveLimit(initial=10, min_limit=10, max_limit=10), Random(0))
    for _ in range(1000):
        limit.sample(0.1, 10, False)
        limit.sample(0.0001, 10, True)
    assert limit._fastest == 0.1


class Lowest(Random):
    """A source of randomness that always lands at the lower end."""

    def uniform(self, a, b):
        return a


def test_vegas_measures_anew_with_exactly_the_sample_that_was_drawn():
    limit = Vegas(AdaptiveLimit(initial=10, min_limit=10, max_limit=10), Lowest())
    seen = []
    for number in range(1, 451):
        limit.sample(float(number), 10, False)
        seen.append(limit._fastest)
    assert seen == [1.0] * 149 + [150.0] * 150 + [300.0] * 150 + [450.0]


def test_vegas_takes_part_of_each_step_with_smoothing():
    limit = vegas(10, smoothing=0.5)
    limit.sample(0.1, 10, False)
    limit.sample(0.1, 10, False)
    assert limit.limit == 13.0
    limit.sample(10.0, 13, False)
    assert limit.limit == 12.5


def test_vegas_can_bear_calls_that_take_no_time():
    limit = vegas(10)
    limit.sample(0.0, 10, False)
    limit.sample(0.0, 10, False)
    assert limit.limit == 16


def test_vegas_never_leaves_its_range():
    limit = vegas(10, min_limit=9, max_limit=12)
    limit.sample(0.1, 10, False)
    limit.sample(0.1, 10, False)
    assert limit.limit == 12
    for _ in range(9):
        limit.sample(0.1, 10, True)
    assert limit.limit == 9


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=200), st.integers(0, 99))
def test_vegas_stays_a_number_in_its_range_whatever_it_is_told(samples, seed):
    limit = Vegas(AdaptiveLimit(initial=5, min_limit=2, max_limit=50, smoothing=0.7), Random(seed))
    for elapsed, failed in samples:
        limit.sample(elapsed, 50, failed)
        assert 2 <= limit.limit <= 50


# Through the public face.


def adaptive(**kwargs):
    return Policy("p", adaptive=AdaptiveLimit(**{"algorithm": "aimd", "initial": 4, "backoff_ratio": 0.5, **kwargs}))


@pytest.mark.parametrize(("algorithm", "after"), [("vegas", 98), ("aimd", 90)])
def test_the_algorithm_is_the_one_that_was_asked_for(drive, algorithm, after):
    policy = Policy("p", adaptive=AdaptiveLimit(algorithm=algorithm, initial=100))
    drive.outcome(policy, Scripted(ConnectionError()))
    assert limit_of(drive, policy) == after


def limit_of(drive, policy):
    return drive.look(policy.snapshot)["limit"]["limit"]


def test_failures_halve_it_and_successes_raise_it_by_one_while_it_is_used(drive):
    policy = adaptive()
    drive.outcome(policy, Scripted(ConnectionError()))
    assert limit_of(drive, policy) == 2
    drive.call(policy, Scripted("tax"))
    assert limit_of(drive, policy) == 3
    drive.call(policy, Scripted("tax"))
    assert limit_of(drive, policy) == 3


@pytest.mark.parametrize(("took", "limit"), [(0.999, 3), (1.0, 1)])
def test_a_slow_success_counts_as_a_failure(drive, took, limit):
    policy = adaptive(initial=2, slow_after=1.0)
    drive.call(policy, Scripted(Step(after=took)))
    assert limit_of(drive, policy) == limit


def test_what_is_ignored_does_not_move_it(drive):
    policy = adaptive(initial=2)
    drive.outcome(policy, Scripted(BulkheadFull("inner")))
    assert limit_of(drive, policy) == 2


def test_more_than_the_limit_is_refused_and_a_queue_may_wait():
    policy = adaptive(initial=2, queue=1, wait=5.0)

    async def main():
        calls = [policy.acall(asyncio.sleep, 1.0, number) for number in range(4)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert outcomes[:3] == [0, 1, 2]
        assert isinstance(outcomes[3], BulkheadFull)
        assert policy.snapshot()["limit"] == {"limit": 4, "running": 0, "waiting": 0}

    FakeClock().run(main())


def test_running_calls_are_not_ended_when_it_shrinks():
    policy = adaptive(initial=4)

    async def broken():
        raise ConnectionError

    async def main():
        slow = [asyncio.create_task(policy.acall(asyncio.sleep, 1.0, number)) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await policy.acall(broken)
        assert policy.snapshot()["limit"] == {"limit": 2, "running": 3, "waiting": 0}
        with pytest.raises(BulkheadFull):
            await policy.acall(broken)
        assert await asyncio.gather(*slow) == [0, 1, 2]
        assert policy.snapshot()["limit"]["running"] == 0

    FakeClock().run(main())


def test_each_move_is_told(drive):
    told = []
    stop = events.subscribe(lambda event: told.append(event) if isinstance(event, events.LimitChanged) else None)
    try:
        policy = adaptive(initial=4)
        drive.outcome(policy, Scripted(ConnectionError()))
        drive.call(policy, Scripted("tax"))
        drive.call(policy, Scripted("tax"))
    finally:
        stop()
    assert told == [events.LimitChanged("p", 4, 2), events.LimitChanged("p", 2, 3)]


def test_where_nobody_listens_no_event_is_kept():
    part = Adaptive(AdaptiveLimit(algorithm="aimd"), "p", Random())
    part.settle(FAILURE, 0.1)
    assert part.news == []
    assert part.take_news() == []


def test_it_finds_the_limit_of_a_service_that_queues():
    """A service that does 10 at once in 0.1 s each, and queues the rest: from 200, vegas comes down to the order of 10
    (not to it: the fastest time is measured anew under load)."""
    limit = Vegas(AdaptiveLimit(initial=200, max_limit=1000), Random(3))
    limit.sample(0.1, 1, False)
    for _ in range(3000):
        running = int(limit.limit)
        limit.sample(0.1 * max(1.0, running / 10), running, False)
    assert 8 <= limit.limit <= 60


def test_the_defaults_are_vegas_from_twenty():
    rules = AdaptiveLimit()
    assert (rules.algorithm, rules.initial, rules.min_limit, rules.max_limit) == ("vegas", 20, 1, 1000)
    assert (rules.backoff_ratio, rules.slow_after, rules.smoothing, rules.queue, rules.wait) == (0.9, None, 1.0, 0, 0.0)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (AdaptiveLimit(), "at most as many at once as vegas finds right, from 20, in [1, 1000]"),
        (AdaptiveLimit(queue=3), "at most as many at once as vegas finds right, from 20, in [1, 1000]"),
        (AdaptiveLimit(wait=3), "at most as many at once as vegas finds right, from 20, in [1, 1000]"),
        (
            AdaptiveLimit(algorithm="aimd", queue=3, wait=0.1),
            "at most as many at once as aimd finds right, from 20, in [1, 1000], 3 more wait up to 0.1 s",
        ),
    ],
)
def test_it_describes_itself(rules, words):
    assert rules.describe() == words
