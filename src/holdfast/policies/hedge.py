"""Hedge: when an answer is late, ask once more and take whichever comes first.

A retry helps against failures; a hedge against the slowest few calls, which hold the user up though nothing failed. It costs
a second call for those few, so it is for idempotent calls only, and inside a budget.

1. An attempt that has not answered after `after` seconds, or after the live `percentile` of recent attempts, gets a rival.
2. At most `extra` rivals, each only if the budget grants it and the deadline leaves time.
3. Each attempt passes the breaker, the limits and the attempt timeout like any other.
4. The first success wins; the others are cancelled and count as nothing. A failure waits for the attempts that still run; when all have
   failed, the last failure is raised; a refusal only where no attempt ran.
5. Blocking calls hedge only on an executor that the user gives, since a thread cannot be cancelled: losers run to their end there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from holdfast.locks import Guarded
from holdfast.policies.budget import Budget
from holdfast.validation import Config, Seconds, config, count, positive_seconds, share
from holdfast.window import Latencies

if TYPE_CHECKING:  # it would load logging
    from concurrent.futures import Executor


@config
class Hedge(Config):
    """When to ask a second time before the first has answered. For idempotent calls only.

    Args:
        after: seconds without an answer, > 0. Exactly one of `after` and `percentile` is given.
        percentile: hedge when an attempt takes longer than this share of the recent ones, in (0, 1]; 0.95 hedges one in twenty.
        extra: how many further attempts at most, >= 1.
        min_calls: with `percentile`: no hedge before this many attempts were seen in the window, >= 1.
        window: with `percentile`: over how many seconds attempts are seen, > 0.
        budget: a limit to the share of hedges in the traffic; may be the budget of retries.
        executor: where blocking attempts run. Async calls need none.

    Raises:
        ValueError, TypeError: a field is out of its range, or not of its kind.
    """

    after: Seconds | None = None
    percentile: float | None = None
    extra: int = 1
    min_calls: int = 20
    window: Seconds = 60.0
    budget: Budget | None = None
    executor: Executor | None = None

    def __post_init__(self) -> None:
        if (self.after is None) == (self.percentile is None):
            raise ValueError(f"Hedge takes exactly one of after and percentile, got after={self.after!r}, percentile={self.percentile!r}")
        if self.after is not None:
            object.__setattr__(self, "after", positive_seconds("Hedge.after", self.after))
        if self.percentile is not None:
            share("Hedge.percentile", self.percentile)
        count("Hedge.extra", self.extra)
        count("Hedge.min_calls", self.min_calls)
        object.__setattr__(self, "window", positive_seconds("Hedge.window", self.window))
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise TypeError(f"Hedge.budget must be a Budget or None, got {self.budget!r}")
        if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
            raise TypeError(f"Hedge.executor must be an executor or None, got {self.executor!r}")

    def describe(self) -> str:
        """The rules in words, for `Policy.explain`."""
        when = f"after {self.after:g} s" if self.after is not None else f"after the {cast('float', self.percentile) * 100:g}th percentile"
        budget = f"; {self.budget.describe()}" if self.budget else ""
        return f"{self.extra} more attempt{'s' if self.extra > 1 else ''} {when}, the first success wins{budget}"


class Patience(Guarded):
    """How long one policy waits for an attempt before it hedges."""

    __slots__ = ("_config", "_recent")

    def __init__(self, config: Hedge) -> None:
        super().__init__()
        self._config = config
        self._recent = Latencies(cast("float", config.window))

    def delay(self, now: float) -> float | None:
        """Seconds after which to hedge; None while too little is known."""
        if self._config.after is not None:
            return cast("float", self._config.after)
        with self._lock:
            self._recent.advance(now)
            return self._recent.quantile(cast("float", self._config.percentile), self._config.min_calls)

    def learn(self, elapsed: float, now: float) -> None:
        """Note how long an attempt took that came to its end by itself."""
        if self._config.percentile is not None:
            with self._lock:
                self._recent.add(elapsed, now)
