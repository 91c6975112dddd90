"""Lines over time: one panel per series' name, the runs in it on the same axes, each named at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypedDict

from holdfast.replay.report import axes, marks, text
from holdfast.replay.report.axes import Axis
from holdfast.replay.report.canvas import HEADING, TIME_AXIS, Panel, Sheet, heading, time_axis
from holdfast.replay.report.numbers import finite, timed
from holdfast.replay.report.palette import OTHERS, PROTECTED, REFERENCE, UNPROTECTED, Style
from holdfast.replay.results import Chart, Series

_PLOTS = 600.0  # px that all plots of a chart may take together, so that it fits a printed page
_ALIKE = 4.0  # series whose largest values differ by less share one scale


class _Look(TypedDict):
    color: str
    clip_on: bool


@dataclass(frozen=True, slots=True)
class Drawn:
    """A series in a panel: what is written at its end, and how it looks."""

    series: Series
    label: str
    style: Style

    @property
    def points(self) -> list[tuple[float, float]]:
        """Numbers to draw; a gap is NaN."""
        return [(x, math.nan if (number := finite(y)) is None else number) for x, y in timed(self.series)]


def draw(chart: Chart, styles: Mapping[str, Style], width: float) -> Sheet:
    """The chart, `width` pixels wide."""
    panels = _panels(chart, styles)
    scales = _scales([lines for _, lines in panels], logarithmic=chart.logarithmic)
    moments = [x for _, lines in panels for line in lines for x, _ in line.points]
    moments += [at for mark in chart.marks for at in (mark.at, mark.until) if at is not None]
    time = axes.seconds(moments, most=8 if width > 500 else 4)
    left = max((text.width(label) for scale in scales for label in scale.labels), default=0.0) + 8
    labels = [[_label(line, width) for line in lines] for _, lines in panels]
    right = max((text.width(one) for beside in labels for label in beside for one in label), default=0.0) + 16
    plot = width - left - right
    across = [left + plot * time.share(mark.at) for mark in chart.marks]
    placed = marks.place(chart.marks, across, left, width)
    tall = min((220.0 if width > 500 else 180.0) if len(panels) == 1 else 140.0, _PLOTS / len(panels))
    if not any(math.isfinite(y) for _, lines in panels for line in lines for _, y in line.points):
        tall = 60.0
    tall = max(tall, *(sum(len(label) for label in beside) * text.LINE for beside in labels))
    tops = [number * (HEADING + tall + 12) + HEADING + marks.height(placed) for number in range(len(panels))]
    sheet = Sheet(width, tops[-1] + tall + TIME_AXIS)
    made = [sheet.panel(left, top, plot, tall, time, scale) for top, scale in zip(tops, scales, strict=True)]
    marks.draw(sheet, placed, made)
    for number, ((name, lines), panel) in enumerate(zip(panels, made, strict=True)):
        unit = text.unit(chart.unit, [y for line in lines for _, y in line.points], logarithmic=chart.logarithmic)
        if any(len(line.points) > plot for line in lines):
            unit = f"{unit} (median; shade: lowest to highest)"
        heading(sheet, panel.top - HEADING - (marks.height(placed) if number == 0 else 0), name, unit)
        _panel(sheet, panel, lines)
    time_axis(sheet, made[-1])
    return sheet


def _panels(chart: Chart, styles: Mapping[str, Style]) -> list[tuple[str, list[Drawn]]]:
    """Panel's name -> its lines. References are in every one."""
    references = [one for one in chart.series if not one.run]
    measured = [one for one in chart.series if one.run]
    quiet = [Drawn(one, one.name, REFERENCE) for one in references]
    names = list(dict.fromkeys(one.name for one in measured))
    if len(names) == len(measured) <= 4 and len(names) != 1:  # nothing to compare by run: all in one, named by series
        return [("", quiet + [Drawn(one, one.name, style) for one, style in zip(measured, _apart(measured, styles), strict=True)])]
    return [(name, quiet + [Drawn(one, one.run, styles[one.run]) for one in measured if one.name == name]) for name in names]


def _apart(measured: Sequence[Series], styles: Mapping[str, Style]) -> list[Style]:
    """A style each: the run's own for its first series, for the others what no run of the chart has."""
    free = [style for style in (*OTHERS, PROTECTED, UNPROTECTED) if style not in {styles[one.run] for one in measured}]
    firsts = {one.run: one for one in reversed(measured)}
    return [styles[one.run] if firsts[one.run] is one else free.pop(0) for one in measured]


def _scales(panels: Sequence[Sequence[Drawn]], *, logarithmic: bool) -> list[Axis]:
    """One scale for all where their sizes are alike, else one each."""
    values = [[y for line in lines for _, y in line.points if math.isfinite(y)] for lines in panels]
    scale = axes.logarithmic if logarithmic else axes.linear
    largest = [max(map(abs, known)) for known in values if known and max(map(abs, known)) > 0]
    if logarithmic or not largest or max(largest) < _ALIKE * min(largest):
        return [scale([y for known in values for y in known])] * len(panels)
    return [scale(known) for known in values]


def _label(line: Drawn, width: float) -> list[str]:
    said = line.label if any(math.isfinite(y) for _, y in line.points) else f"{line.label}: no data"
    return text.wrapped(said, width * 0.24, 3)


def _panel(sheet: Sheet, panel: Panel, lines: Sequence[Drawn]) -> None:
    for tick, label in zip(panel.y.ticks, panel.y.labels, strict=True):
        y = panel.down(tick)
        sheet.line([(panel.left, y), (panel.right, y)], "axis" if tick == 0 else "grid")
        sheet.words(panel.left - 8, y + 4, label, colour="muted", align="right")
    ends = [_line(panel, line) for line in lines]
    if not any(ends):
        sheet.words(panel.left + panel.width / 2, panel.top + panel.height / 2, "no measurements", colour="muted", align="center")
    _labels(sheet, panel, lines, ends)


def _line(panel: Panel, line: Drawn) -> tuple[float, float] | None:
    """Draw one; returns its last point."""
    points = [(x, y if y > 0 or not panel.y.logarithmic else math.nan) for x, y in line.points]
    if len(points) > panel.width:
        points = _dense(panel, line, points)
    fit = [math.isfinite(y) for _, y in points]
    known = [point for point, ok in zip(points, fit, strict=True) if ok]
    if not known:
        return None
    thick = 1.2 if line.style is REFERENCE else 1.8
    look = _Look(color=line.style.hex, clip_on=False)
    drawn = panel.axes.plot([x for x, _ in points], [y for _, y in points], linewidth=thick, solid_joinstyle="round", **look)
    if line.style.dashes:
        drawn[0].set_dashes(line.style.dashes)
    lone = [point for number, point in enumerate(points) if fit[number] and not _neighbour(fit, number)]
    if lone:  # a point between gaps has no line to be seen by
        panel.axes.plot([x for x, _ in lone], [y for _, y in lone], marker="o", markersize=3, linestyle="none", **look)
    if line.style.marker:
        panel.axes.plot(*([value] for value in known[-1]), marker=line.style.marker, markersize=6, markeredgewidth=0, **look)
    return known[-1]


def _dense(panel: Panel, line: Drawn, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Shade from the lowest to the highest of every three pixels; returns their medians."""
    found: dict[int, list[tuple[float, float]]] = {}
    for x, y in points:
        if math.isfinite(y):
            found.setdefault(int(panel.across(x) / 3), []).append((x, y))
    places = sorted(found)
    xs = [median(x for x, _ in found[place]) for place in places]
    values = [[y for _, y in found[place]] for place in places]
    panel.axes.fill_between(xs, [min(ys) for ys in values], [max(ys) for ys in values], color=line.style.hex, alpha=0.2, linewidth=0)
    gaps = [(xs[number], math.nan) for number in range(1, len(places)) if places[number] - places[number - 1] > 2]
    return sorted(
        [*gaps, *((x, median(ys)) for x, ys in zip(xs, values, strict=True))], key=lambda point: (point[0], not math.isnan(point[1]))
    )


def _neighbour(fit: Sequence[bool], number: int) -> bool:
    return (number > 0 and fit[number - 1]) or (number + 1 < len(fit) and fit[number + 1])


def _labels(sheet: Sheet, panel: Panel, lines: Sequence[Drawn], ends: Sequence[tuple[float, float] | None]) -> None:
    """Each line's name, level with its end; one without data at the foot."""
    names = [_label(line, sheet.width) for line in lines]
    wanted = [panel.down(end[1]) if end else panel.bottom for end in ends]
    heights = [len(label) * text.LINE for label in names]
    middles = marks.spread(wanted, heights, panel.top, panel.bottom + 8)
    for line, end, middle, label in zip(lines, ends, middles, names, strict=True):
        if end and (abs(middle - panel.down(end[1])) > 4 or panel.right - panel.across(end[0]) > 4):
            begin = (panel.across(end[0]) + 6, panel.down(end[1]))
            sheet.line([begin, (panel.right + 8, panel.down(end[1])), (panel.right + 13, middle)], "axis", width=0.7)
        first = middle - len(label) * text.LINE / 2 + 11.5
        for number, one in enumerate(label):
            sheet.words(panel.right + 16, first + number * text.LINE, one, colour=line.style.colour if end else "muted")
