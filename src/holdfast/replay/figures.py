"""From samples to figures and to the points of charts."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from ddsketch import DDSketch

from holdfast.replay.load import Sample
from holdfast.replay.results import Series

# DDSketch's promise: a percentile is off by at most this share of itself.
_ACCURACY = 0.005

# Readings over which a rate is taken: the kernel counts CPU in hundredths of a second, and some calls come seldom.
_READINGS = 5

Points = list[tuple[float | str, float | str | None]]

R = TypeVar("R")


def percentiles(values: Iterable[float], *wanted: float) -> list[float]:
    """Percentiles (50, 99, 99.99 ...) of `values`, in their unit.

    Raises:
        ValueError: there are no values.
    """
    sketch = DDSketch(_ACCURACY)
    for value in values:
        sketch.add(value)
    found = [sketch.get_quantile_value(percent / 100) for percent in wanted]
    if any(value is None for value in found):
        raise ValueError("no values, so no percentiles: nothing was measured")
    return [value for value in found if value is not None]


def between(samples: Iterable[Sample], begin: float, end: float, flow: str | None = None) -> list[Sample]:
    """Those that were due in [begin, end), of one flow or all."""
    return [one for one in samples if begin <= one.at < end and flow in (None, one.flow)]


def over_time(
    values: Iterable[tuple[float, float]], width: float, end: float, summary: Callable[[Sequence[float]], float] = statistics.median
) -> Points:
    """`summary` of the values of each stretch of `width` seconds, a gap where there are none."""
    buckets: dict[int, list[float]] = defaultdict(list)
    for at, value in values:
        buckets[int(at // width)].append(value)
    return [((n + 0.5) * width, summary(buckets[n]) if n in buckets else None) for n in range(int(end / width))]


def per_minute(times: Iterable[float], width: float, end: float) -> Points:
    """How many per minute, counted in stretches of `width` seconds."""
    counted = Counter(int(at // width) for at in times)
    return [((n + 0.5) * width, counted[n] * 60.0 / width) for n in range(int(end / width))]


def means(readings: Points, width: float, end: float) -> Points:
    """The mean of a gauge in each stretch of `width` seconds; where it could not be read it counts as 0."""
    return over_time(((float(at), float(value or 0)) for at, value in readings), width, end, statistics.mean)


def rate(counter: Points, per: Points | None = None) -> list[tuple[float, float]]:
    """How much a counter rose for each second, or for each that another counter rose in the same readings."""
    below = [(at, at) for at, _ in counter] if per is None else per
    both = [
        (float(at), float(over), float(under))
        for (at, over), (_, under) in zip(counter, below, strict=False)
        if isinstance(at, float) and isinstance(over, float) and isinstance(under, float)
    ]
    spans = zip(both, both[_READINGS:], strict=False)
    return [(now[0], (now[1] - before[1]) / (now[2] - before[2])) for before, now in spans if now[2] > before[2]]


def changes(states: Points, end: float) -> Points:
    """The moments at which a state began, and the last one once more at the end."""
    known = [point for point in states if point[1] is not None and float(point[0]) < end]
    begun = [point for before, point in zip([(0.0, None), *known], known, strict=False) if point[1] != before[1]]
    return [*begun, (end, known[-1][1])] if known else []


def per_run(name: str, runs: Mapping[str, R], points: Callable[[R], Points]) -> list[Series]:
    """The same line, or the same bars, of every run."""
    return [Series(name=name, run=run, points=points(one)) for run, one in runs.items()]
