"""One chart as two drawings, wide and narrow, and in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib as mpl

from holdfast.replay.report import bands, bars, lines
from holdfast.replay.report.canvas import SETTINGS, Sheet
from holdfast.replay.report.numbers import finite, in_words, label
from holdfast.replay.report.palette import Style, styles
from holdfast.replay.report.svg import embedded
from holdfast.replay.results import Chart

# Pixels: what a page of text leaves on a desk and on paper, and what a phone of 375 pixels does.
WIDE, NARROW = 720.0, 343.0

_KINDS: Mapping[str, Callable[[Chart, Mapping[str, Style], float], Sheet]] = {"line": lines.draw, "bars": bars.draw, "band": bands.draw}


@dataclass(frozen=True, slots=True)
class Drawing:
    """SVG elements of the same chart, one of which is shown."""

    wide: str
    narrow: str


@contextmanager
def ready() -> Iterator[None]:
    """Within it matplotlib draws by our settings, whatever the user's own are."""
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's browser has the font
        mpl.rcdefaults()
        for name, value in SETTINGS.items():
            mpl.rcParams[name] = value
        yield


def draw(chart: Chart, *, key: str, runs: Sequence[str] = ()) -> Drawing:
    """Draw a chart.

    Args:
        chart: what.
        key: unique on the page; its ids begin with it.
        runs: all runs of the incident, in the order in which colours are given; those of the chart follow.
    """
    looks = styles([*runs, *(one.run for one in chart.series)])
    said = description(chart)
    drawn = {}
    for kind, width in (("wide", WIDE), ("narrow", NARROW)):
        own = f"{key}-{kind}"
        with ready():
            written = _KINDS[chart.kind](chart, looks, width).svg(own) if chart.series else Sheet(width, 1.0).svg(own)
        drawn[kind] = embedded(written, key=own, kind=kind, title=chart.title, description=said)
    return Drawing(drawn["wide"], drawn["narrow"])


def description(chart: Chart) -> str:
    """What the chart shows, for those who do not see it."""
    unit = f" {chart.unit}" if chart.unit else ""
    said = [chart.note, *(_in_words(chart, number, unit) for number in range(len(chart.series)))]
    for mark in chart.marks:
        until = f" to {in_words(mark.until)}" if mark.until is not None else ""
        said.append(f"At {in_words(mark.at)}{until} s: {mark.label}.")
    return " ".join(filter(None, said)) or "No data."


def _in_words(chart: Chart, number: int, unit: str) -> str:
    series = chart.series[number]
    name = label(series)
    if not series.points:
        return f"{name}: no data."
    if chart.kind == "line":
        known = [value for _, y in series.points if (value := finite(y)) is not None]
        if not known:
            return f"{name}: no data."
        return f"{name}: from {in_words(min(known))} to {in_words(max(known))}{unit}, at the end {in_words(known[-1])}."
    if chart.kind == "bars":
        return f"{name}: {', '.join(f'{x} {in_words(y)}{unit}' for x, y in series.points)}."
    states = ", ".join(f"{y or 'unknown'} from {x if isinstance(x, str) else in_words(x)} s" for x, y in series.points[:20])
    return f"{name}: {states}{', and so on' if len(series.points) > 20 else ''}."
