"""Retry budget: retries are a share of the traffic, never a multiple of it.

With three attempts per call an outage makes three times the load out of it, just when the dependency can bear the least. A limit
per call cannot prevent that, because it does not see the other calls. A budget does.

1. Each call that reaches its first attempt is counted; so is each retry and each hedge that was granted.
2. A retry is granted while, over the last `window` seconds, retries <= ratio * calls + min_per_second * window.
3. The window slides: nothing is forgotten at once, so there is no burst at an edge.
4. The floor (`min_per_second`) lets a service with little traffic retry at all.
5. A refused retry costs nothing, and is never waited for: the question comes before the sleep.

The property is that of Finagle's RetryBudget: over any number of calls the retries granted are the share plus the floor.
"""

from __future__ import annotations

from dataclasses import field
from math import inf
from typing import TYPE_CHECKING

from holdfast.locks import Guarded
from holdfast.validation import Config, Seconds, config, number, positive_seconds, share
from holdfast.window import Window

if TYPE_CHECKING:
    from holdfast.policies.shared import Purse
    from holdfast.snapshots import BudgetSnapshot

_CALLS, _RETRIES = 0, 1

# 0.29 * 100 is 28.999999999999996, and that must allow 29 retries.
_ROUNDING = 1e-9


class Ledger(Guarded):
    """The counts of one budget."""

    __slots__ = ("_floor", "_ratio", "_window", "fleet")

    def __init__(self, ratio: float, floor: float, window: float) -> None:
        super().__init__()
        self._ratio = ratio
        self._floor = floor
        self._window = Window(window, kinds=2)
        self.fleet: Purse | None = None

    def deposit(self, now: float) -> None:
        """Count a call."""
        window = self._window
        if now >= window.turns_at:
            with self._lock:
                window.turn(now)
        window.bump[_CALLS]()

    def withdraw(self, now: float) -> bool:
        """Ask for a retry: True grants and counts it."""
        with self._lock:
            fleet = self.fleet
            if fleet is None:
                calls, retries = self._window.totals(now)
                granted = self._allowed(calls) > retries
            else:
                granted = self._withdraw_shared(fleet, now)
            if granted:
                self._window.bump[_RETRIES]()
            return granted

    def _withdraw_shared(self, fleet: Purse, now: float) -> bool:
        calls, retries = self._window.totals(now)
        if not fleet.cut_off:
            return fleet.spend(self._window.counted()[_CALLS])
        granted = self._allowed(calls, fleet.floor_part) > retries
        fleet.spent += granted
        return granted

    def _allowed(self, calls: int, part: float = 1.0) -> int:
        return int(self._ratio * calls + self._floor * part + _ROUNDING)

    def snapshot(self, now: float) -> BudgetSnapshot:
        """Plain data about the budget at `now`."""
        with self._lock:
            calls, retries = self._window.totals(now)
            fleet = self.fleet
            if fleet is not None and not fleet.cut_off:
                left = fleet.left(self._window.counted()[_CALLS])
            else:
                left = self._allowed(calls, 1.0 if fleet is None else fleet.floor_part) - retries
        return {"calls": calls, "retries": retries, "left": max(0, left)}


@config
class Budget(Config):
    """A share of the traffic that may be retries. The object is the budget: give one to several policies to share it.

    Args:
        ratio: retries per call, in [0, 1]; 0.1 lets an outage add a tenth to the load.
        min_per_second: retries per second that are granted whatever the traffic, >= 0.
        window: over how many seconds both are counted, > 0.

    Raises:
        ValueError: a field is out of its range.
    """

    ratio: float = 0.1
    min_per_second: float = 1.0
    window: Seconds = 10.0
    ledger: Ledger = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ratio = share("Budget.ratio", self.ratio, zero=True)
        floor = number("Budget.min_per_second", self.min_per_second, low=0.0)
        window = positive_seconds("Budget.window", self.window)
        if floor * window == inf:
            raise ValueError(f"Budget.min_per_second must be finite over the window of {window:g} s, got {self.min_per_second!r}")
        object.__setattr__(self, "window", window)
        object.__setattr__(self, "ledger", Ledger(ratio, floor * window, window))

    def describe(self) -> str:
        """`retries up to 10 % of calls + 1/s over 10 s`."""
        return f"retries up to {self.ratio * 100:g} % of the calls + {self.min_per_second:g}/s, over {self.window:g} s"
