"""Rate limit: no more than so many calls per second, evenly spread, with a bounded burst.

A dependency that allows 100 calls a second answers the 101st with an error that costs both sides a round trip. This
holds the calls back on our side.

1. Calls are let through at `rate` per `per` seconds; after a pause up to `burst` may go at once.
2. A call that comes too early waits for its moment if that is at most `wait` seconds away and before its deadline.
3. Otherwise it is refused at once with `RateLimited`, and takes nothing.

The form is the generic cell rate algorithm (ITU-T I.371): one number per limit, no window, no edge to burst at.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from math import isfinite
from typing import cast

from holdfast.errors import RateLimited
from holdfast.locks import Guarded
from holdfast.validation import Config, Seconds, config_with_first, count, number, positive_seconds, wait_seconds

_MOST = 1_000_000_000  # of a burst: beyond that there is no limit to speak of, and the arithmetic would lose its seconds


@config_with_first
class RateLimit(Config):
    """How many calls may start per unit of time.

    Args:
        rate: calls per `per`, > 0.
        per: seconds, > 0.
        burst: how many may start at once after a pause, in [1, 1,000,000,000].
        wait: how long a call may wait for its moment, >= 0 seconds.

    Raises:
        ValueError: a field is out of its range.
    """

    rate: float
    _: KW_ONLY
    per: Seconds = 1.0
    burst: int = 1
    wait: Seconds = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", number("RateLimit.rate", self.rate, low=0.0, low_open=True))
        object.__setattr__(self, "per", positive_seconds("RateLimit.per", self.per))
        count("RateLimit.burst", self.burst, high=_MOST)
        if not isfinite(cast("float", self.per) / self.rate * self.burst):
            raise ValueError(f"RateLimit.rate must be > 0 and let calls through in finite time, got {self.rate!r} per {self.per!r} s")
        object.__setattr__(self, "wait", wait_seconds("RateLimit.wait", self.wait))

    def describe(self) -> str:
        """The rules in words, for `Policy.explain`."""
        wait = f"waits up to {self.wait:g} s for its turn" if self.wait else "nobody waits"
        return f"{self.rate:g} calls per {self.per:g} s, bursts of {self.burst}, {wait}"


class Pacer(Guarded):
    """The living rate limit of one policy: the moment at which the next call would be on time."""

    __slots__ = ("_due", "_interval", "_name", "_tolerance", "_wait")

    # A call that is early by no more than the rounding of the clock is on time.
    _ROUNDING = 1e-9

    def __init__(self, config: RateLimit, name: str) -> None:
        super().__init__()
        self._name = name
        self._interval = cast("float", config.per) / config.rate
        self._tolerance = self._interval * (config.burst - 1) + self._ROUNDING
        self._wait = cast("float", config.wait)
        self._due = float("-inf")

    def admit(self, now: float, until: float) -> float:
        """Take a turn.

        Returns:
            Seconds to wait for it; 0.0 for at once.

        Raises:
            RateLimited: it is more than the wait away, or not before `until`.
        """
        with self._lock:
            due = max(self._due, now)
            delay = due - now - self._tolerance
            if delay <= 0:
                delay = 0.0
            elif delay > self._wait or now + delay >= until:
                raise RateLimited(self._name, delay)
            self._due = due + self._interval
            return delay

    def cancel(self) -> None:
        """Give a turn back that was not used."""
        with self._lock:
            self._due -= self._interval

    def retry_after(self, now: float) -> float:
        """Seconds until a call would go at once."""
        return max(0.0, self._due - now - self._tolerance)
