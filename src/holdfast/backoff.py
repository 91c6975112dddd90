"""How long to wait before the next attempt.

What is configured is what is waited: the exponential delay `base * factor ** n`, never more than `cap`, is the upper
end, and jitter only chooses below it (an often copied form adds the jitter on top, and waits twice as long).

    none            the exponential delay d itself
    full            uniform in [0, d]           spreads callers best; the default
    equal           uniform in [d/2, d]         where some wait is wanted in any case
    decorrelated    uniform in [base, 3 * the last delay], at most cap

The forms are those of Brooker, "Exponential Backoff And Jitter" (2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

from holdfast.validation import Config, Seconds, choice, config, number, wait_seconds

if TYPE_CHECKING:
    from random import Random

Jitter = Literal["none", "full", "equal", "decorrelated"]


@config
class Backoff(Config):
    """The waits between attempts.

    Args:
        base: the first delay, >= 0 seconds. 0 retries at once.
        factor: what each further delay is multiplied with, >= 1.
        cap: no delay is longer, >= base.
        jitter: "none", "full", "equal" or "decorrelated".

    Raises:
        ValueError: a field is out of its range.
    """

    base: Seconds = 0.05
    factor: float = 2.0
    cap: Seconds = 1.0
    jitter: Jitter = "full"

    def __post_init__(self) -> None:
        base = wait_seconds("Backoff.base", self.base)
        cap = wait_seconds("Backoff.cap", self.cap)
        if cap < base:
            raise ValueError(f"Backoff.cap must be >= base ({base:g} s), got {self.cap!r}")
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "cap", cap)
        object.__setattr__(self, "factor", number("Backoff.factor", self.factor, low=1.0))
        choice("Backoff.jitter", self.jitter, ("none", "full", "equal", "decorrelated"))

    def delay(self, retry: int, previous: float, rng: Random) -> float:
        """Seconds before retry number `retry` (from 1), the delay before having been `previous` (0 for none)."""
        base, cap = cast("float", self.base), cast("float", self.cap)
        if self.jitter == "decorrelated":
            return min(cap, rng.uniform(base, max(base, 3.0 * previous)))
        try:
            upper = min(cap, base * self.factor ** (retry - 1))
        except OverflowError:
            upper = cap
        if self.jitter == "none":
            return upper
        lower = upper / 2 if self.jitter == "equal" else 0.0
        return rng.uniform(lower, upper)

    def describe(self) -> str:
        """`0.05 s x 2 up to 1 s, full jitter`."""
        jitter = "no jitter" if self.jitter == "none" else f"{self.jitter} jitter"
        return f"{self.base:g} s x {self.factor:g} up to {self.cap:g} s, {jitter}"
