"""Scales with few, round ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from holdfast.replay.report.numbers import in_words


@dataclass(frozen=True, slots=True)
class Axis:
    """From where to where, and what is written at which place."""

    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value is: 0 at `low`, 1 at `high`."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def linear(values: Iterable[float], *, most: int = 4) -> Axis:
    """From 0 to a round number above the largest value; below 0 only where a value is. Without values it says nothing."""
    given = list(values)
    if not given:
        return Axis(0.0, 1.0, (), ())
    low, high = min(0.0, *given), max(0.0, *given)
    whole = high > 1 and all(value == round(value) for value in given)  # two and a half workers are no tick
    locator = MaxNLocator(nbins=most, steps=[1, 2, 2.5, 5, 10], integer=whole)
    ticks = [float(tick) for tick in locator.tick_values(low, high if high > low else low + 1)]
    return Axis(min(low, ticks[0]), max(high, ticks[-1]), tuple(ticks), _labels(ticks))


def logarithmic(values: Iterable[float]) -> Axis:
    """From the power of ten below all values above 0 to a round number above them; ticks at powers, where those are few also at 2 and 5."""
    known = [value for value in values if value > 0]
    if not known:
        return Axis(1.0, 10.0, (), (), logarithmic=True)
    first = math.floor(math.log10(min(known) * 0.8))  # 0.8: the smallest is to be seen as a bar
    power = math.floor(math.log10(max(known)))
    high = next(10.0**power * factor for factor in (1, 2, 5, 10) if 10.0**power * factor >= max(known) * 0.999)
    decades = math.log10(high) - first
    factors = (1, 2, 5) if decades <= 2 else (1,)
    ticks = [factor * 10.0**at for at in range(first, power + 2, 1 if decades <= 6 else 2) for factor in factors]
    ticks = [tick for tick in ticks if tick <= high * 1.001]
    return Axis(10.0**first, max(high, 10.0 ** (first + 1)), tuple(ticks), _labels(ticks), logarithmic=True)


def seconds(moments: Iterable[float], *, most: int) -> Axis:
    """From the run's start to its last moment, exactly: a line that ends early is to be seen."""
    known = [0.0, *moments]
    low, high = min(known), max(known)
    if low == high:
        high = 1.0
    locator = MaxNLocator(nbins=most, steps=[1, 2, 3, 5, 6, 10])
    slack = (high - low) / 1000
    ticks = [float(tick) for tick in locator.tick_values(low, high) if low - slack <= tick <= high + slack]
    return Axis(low, high, tuple(ticks), _labels(ticks))


def _labels(ticks: list[float]) -> tuple[str, ...]:
    return tuple(f"{tick / 1e6:g} M" if abs(tick) >= 1e6 else in_words(tick) for tick in ticks)
