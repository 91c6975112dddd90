"""From samples to figures and to the points of charts."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from ddsketch import DDSketch

from holdfast.replay.load import Sample

# DDSketch's promise: a percentile is off by at most this share of itself.
_ACCURACY = 0.005

Points = list[tuple[float | str, float | str | None]]


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
