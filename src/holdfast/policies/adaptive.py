"""Adaptive limit: a bulkhead that finds its own size.

A fixed limit is right for the day on which it was measured. These two find it from what calls tell, as TCP finds its window.

    aimd    Additive increase, multiplicative decrease: one place more while calls succeed and the limit is used, a tenth less
            after a failure or a call slower than `slow_after`. Simple, and saws about the limit.
    vegas   Little's law on latency: with the fastest call seen taken as time without a queue, limit * (1 - fastest / now) of the
            running calls are queued somewhere. More places while that is few, fewer when it is many. Finds the limit before calls fail.

1. A call takes a place or a ticket as in a bulkhead (`queue`, `wait`); refusals are `BulkheadFull`.
2. Success and failure move the limit, what is ignored does not.
3. The limit does not grow while less than half of it is used: an idle service learns nothing.
4. Running calls are never ended; a smaller limit is reached as they return.

The forms are those of Netflix concurrency-limits (AIMDLimit, VegasLimit).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, cast

from holdfast import events
from holdfast.outcome import FAILURE, IGNORED, Verdict
from holdfast.policies.places import MOST, Places
from holdfast.validation import Config, Seconds, choice, config, count, positive_seconds, share, wait_seconds

if TYPE_CHECKING:
    from random import Random


@config
class AdaptiveLimit(Config):
    """How a limit on running calls adapts itself.

    Args:
        algorithm: "vegas" (by latency) or "aimd" (by failures).
        initial: the limit to begin with, between `min_limit` and `max_limit`.
        min_limit: it never goes below, >= 1.
        max_limit: it never goes above, >= min_limit, <= 1,000,000.
        backoff_ratio: aimd only: what a failure leaves of the limit, in (0, 1].
        slow_after: aimd only: a call that takes this many seconds or longer counts as a failure, > 0; None for none.
        smoothing: vegas only: how much of each step is taken, in (0, 1].
        queue: how many calls may wait for a place, >= 0.
        wait: how long each waits at most, >= 0 seconds.

    Raises:
        ValueError: a field is out of its range.
    """

    algorithm: Literal["vegas", "aimd"] = "vegas"
    initial: int = 20
    min_limit: int = 1
    max_limit: int = 1000
    backoff_ratio: float = 0.9
    slow_after: Seconds | None = None
    smoothing: float = 1.0
    queue: int = 0
    wait: Seconds = 0.0

    def __post_init__(self) -> None:
        choice("AdaptiveLimit.algorithm", self.algorithm, ("vegas", "aimd"))
        count("AdaptiveLimit.min_limit", self.min_limit)
        count("AdaptiveLimit.max_limit", self.max_limit, low=self.min_limit, high=MOST)
        count("AdaptiveLimit.initial", self.initial, low=self.min_limit)
        if self.initial > self.max_limit:
            raise ValueError(f"AdaptiveLimit.initial must be <= max_limit ({self.max_limit}), got {self.initial}")
        share("AdaptiveLimit.backoff_ratio", self.backoff_ratio)
        if self.slow_after is not None:
            object.__setattr__(self, "slow_after", positive_seconds("AdaptiveLimit.slow_after", self.slow_after))
        share("AdaptiveLimit.smoothing", self.smoothing)
        count("AdaptiveLimit.queue", self.queue, low=0)
        object.__setattr__(self, "wait", wait_seconds("AdaptiveLimit.wait", self.wait))

    def describe(self) -> str:
        """The rules in words, for `Policy.explain`."""
        waits = f", {self.queue} more wait up to {self.wait:g} s" if self.queue and self.wait else ""
        return (
            f"at most as many at once as {self.algorithm} finds right, from {self.initial}, in [{self.min_limit}, {self.max_limit}]{waits}"
        )


class Algorithm(Protocol):
    """A limit that samples move."""

    limit: float

    def sample(self, elapsed: float, running: int, failed: bool) -> None:
        """Learn from one call: its seconds, how many ran with it (itself included), and whether it failed."""
        ...


class Aimd:
    """Additive increase, multiplicative decrease."""

    __slots__ = ("_config", "_slow_after", "limit")

    def __init__(self, config: AdaptiveLimit) -> None:
        self._config = config
        self._slow_after = math.inf if config.slow_after is None else cast("float", config.slow_after)
        self.limit: float = config.initial

    def sample(self, elapsed: float, running: int, failed: bool) -> None:
        """See `Algorithm.sample`."""
        config = self._config
        if failed or elapsed >= self._slow_after:
            self.limit = max(config.min_limit, int(self.limit * config.backoff_ratio))
        elif running * 2 >= self.limit:
            self.limit = min(config.max_limit, self.limit + 1)


def _tens(limit: float) -> int:
    return max(1, int(math.log10(limit)))


def _one_step_less(limit: float) -> float:
    return limit - _tens(limit)


class Vegas:
    """The limit at which calls just do not queue."""

    __slots__ = ("_config", "_decrease", "_fastest", "_probe_after", "_rng", "_samples", "limit")

    # Once in about 30 rounds of the limit the fastest time is measured anew, since what was fastest may have become slower.
    _PROBE_ROUNDS = 30

    def __init__(self, config: AdaptiveLimit, rng: Random, decrease: Callable[[float], float] = _one_step_less) -> None:
        self._config = config
        self._rng = rng
        self._decrease = decrease
        self._fastest = math.inf
        self._samples = 0
        self._probe_after = rng.uniform(0.5, 1.0)
        self.limit: float = config.initial

    def sample(self, elapsed: float, running: int, failed: bool) -> None:
        """See `Algorithm.sample`."""
        self._samples += 1
        if not failed and self._samples >= self._probe_after * self._PROBE_ROUNDS * self.limit:
            self._samples = 0
            self._probe_after = self._rng.uniform(0.5, 1.0)
            self._fastest = elapsed
        elif elapsed < self._fastest and not failed:
            self._fastest = elapsed
        else:
            self._move(elapsed, running, failed)

    def _move(self, elapsed: float, running: int, failed: bool) -> None:
        limit = self.limit
        if failed:
            target = self._decrease(limit)
        elif running * 2 < limit:
            return
        else:
            queued = math.ceil(limit * (1.0 - self._fastest / elapsed)) if elapsed > 0 else 0
            few, some, many = _tens(limit), 3 * _tens(limit), 6 * _tens(limit)
            if queued <= few:
                target = limit + many
            elif queued < some:
                target = limit + _tens(limit)
            elif queued > many:
                target = self._decrease(limit)
            else:
                return
        target = max(self._config.min_limit, min(self._config.max_limit, target))
        self.limit = limit + self._config.smoothing * (target - limit)


class Adaptive:
    """The living limit of one policy: an algorithm that says how many places there are. Both are under the places' lock, so
    that two moves are applied in the order in which they were made.
    """

    __slots__ = ("_algorithm", "_name", "news", "places")

    def __init__(self, config: AdaptiveLimit, name: str, rng: Random) -> None:
        self._name = name
        self._algorithm: Algorithm = Aimd(config) if config.algorithm == "aimd" else Vegas(config, rng)
        self.places = Places(config.initial, config.queue)
        self.news: list[events.Event] = []

    def settle(self, verdict: Verdict, elapsed: float) -> None:
        """Learn from a call that still holds its place."""
        if verdict is IGNORED:
            return
        places = self.places
        with places._lock:
            old = int(self._algorithm.limit)
            self._algorithm.sample(elapsed, places.running, verdict is FAILURE)
            new = int(self._algorithm.limit)
            if new != old and events.listeners:
                self.news.append(events.LimitChanged(self._name, old, new))
            served = places.resize_locked(new) if new != old else ()
        places.wake(served)

    def take_news(self) -> list[events.Event]:
        """The changes of the limit that nobody was told of yet."""
        with self.places._lock:
            news, self.news = self.news, []
            return news
