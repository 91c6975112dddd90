"""Figures in words, and a chart's numbers as a table."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence

from holdfast.replay.results import Chart, Figure, Series

NOTHING = "–"  # noqa: RUF001  (a dash where a figure is missing)
ROWS = 24  # of a chart's table; more is a file, not a table

_NINES = re.compile(r"\b((?:.*_)?p\d\d)_(9+)(?=_|$)")  # p99_99 is the 99.99th percentile
_UNITS = {
    "ms": "ms",
    "s": "s",
    "us": "µs",
    "percent": "%",
    "share": "share",
    "ratio": "ratio",
    "rpm": "per minute",
    "rps": "per second",
    "bytes": "bytes",
    "mb": "MB",
    "cores": "cores",
    "x": "x",
}


def in_words(value: Figure) -> str:
    """A figure with three significant digits, thousands apart: "1,204", "31.2", "0.00125"."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _float(value)
    return f"{value:,}" if isinstance(value, int) else NOTHING if value is None else value


def _float(value: float) -> str:
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    if value == 0 or abs(value) >= 1e-4:
        digits = 2 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:.{digits}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.2e}"


def name_and_unit(figure: str) -> tuple[str, str]:
    """A figure's name in words, and its unit: "s2s_p99_99_ms_slow" -> ("s2s p99.99 slow", "ms")."""
    words = _NINES.sub(r"\1.\2", figure).split("_")
    for number in range(len(words) - 1, 0, -1):
        two = " ".join(words[number - 1 : number + 1])
        if two in {"per minute", "per second"} and number > 1:
            return " ".join(words[: number - 1] + words[number + 1 :]), two
        if words[number] in _UNITS:
            return " ".join(words[:number] + words[number + 1 :]), _UNITS[words[number]]
    return " ".join(words), ""


def label(series: Series) -> str:
    """A series' name with its run: "S2S, unprotected"."""
    return ", ".join(part for part in (series.name, series.run) if part)


def finite(value: object) -> float | None:
    """A number that can be drawn, or None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def timed(series: Series) -> list[tuple[float, Figure]]:
    """The points whose x is a moment."""
    return [(moment, y) for x, y in series.points if (moment := finite(x)) is not None]


def rows(chart: Chart) -> list[list[str]]:
    """The chart's numbers, one row per moment or category, one column per series; a long time is shown at ROWS moments."""
    if chart.kind == "bars":
        names = list(dict.fromkeys(str(x) for series in chart.series for x, _ in series.points))
        tables = [{str(x): y for x, y in series.points} for series in chart.series]
        return [[name, *(in_words(table.get(name)) for table in tables)] for name in names]
    moments = sorted({x for series in chart.series for x, _ in timed(series)})
    if len(moments) > ROWS:
        step = (len(moments) - 1) / (ROWS - 1)
        moments = [moments[round(number * step)] for number in range(ROWS)]
    columns = [_at(series, moments, held=chart.kind == "band") for series in chart.series]
    return [[in_words(moment), *cells] for moment, *cells in zip(moments, *columns, strict=True)]


def _at(series: Series, moments: Sequence[float], *, held: bool) -> list[str]:
    """What a series was at each moment: its last point since the moment before, or since ever for a state, which holds."""
    points = sorted(timed(series), key=lambda point: point[0])
    times = [x for x, _ in points]
    found, before = [], 0
    for moment in moments:
        now = bisect_right(times, moment)
        found.append(in_words(points[now - 1][1]) if now > before or (held and now) else NOTHING)
        before = now
    return found
