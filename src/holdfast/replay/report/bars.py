"""Bars by category: one panel per series' name, the runs side by side in each category, their values beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.replay.report import axes, text
from holdfast.replay.report.canvas import HEADING, Panel, Sheet, heading
from holdfast.replay.report.numbers import finite, in_words
from holdfast.replay.report.palette import Style
from holdfast.replay.results import Chart, Figure, Series

_BAR, _BETWEEN, _GROUPS = 13.0, 3.0, 11.0  # px: a bar, the gap to the next, the gap to the next category
_KEY = 24.0  # px that the key takes
_AXIS = 22.0  # px that ticks take


@dataclass(frozen=True, slots=True)
class Group:
    """A panel: the runs' series of one name, and their categories."""

    name: str
    series: Sequence[Series]

    @property
    def categories(self) -> list[str]:
        """In the order in which they first come."""
        return list(dict.fromkeys(str(x) for one in self.series for x, _ in one.points))

    def rows(self, lines: Mapping[str, int]) -> list[tuple[str, float, float]]:
        """Category, where it begins, and how high it is, in pixels from the panel's top."""
        found, top = [], 6.0
        for category in self.categories:
            tall = max(len(self.series) * (_BAR + _BETWEEN) - _BETWEEN, lines[category] * text.LINE)
            found.append((category, top, tall))
            top += tall + _GROUPS
        return found


def draw(chart: Chart, styles: Mapping[str, Style], width: float) -> Sheet:
    """The chart, `width` pixels wide."""
    groups = [Group(name, [one for one in chart.series if one.name == name]) for name in dict.fromkeys(one.name for one in chart.series)]
    labels = {category: text.wrapped(category, width * 0.34, 3) for group in groups for category in group.categories}
    lines = {category: len(label) for category, label in labels.items()}
    left = max((text.width(one) for label in labels.values() for one in label), default=0.0) + 8
    values = [number for one in chart.series for _, y in one.points if (number := finite(y)) is not None]
    scale = axes.logarithmic(values) if chart.logarithmic else axes.linear(values)
    right = max((text.width(_said(y, width)) for one in chart.series for _, y in one.points), default=0.0) + 8
    key = _Key([one.run for one in chart.series if one.run], styles, width)
    heights = [(group.rows(lines) or [("", 0.0, 40.0)])[-1] for group in groups]
    talls = [top + tall + 6 for _, top, tall in heights]
    sheet = Sheet(width, key.height + sum(HEADING + tall + _AXIS + 8 for tall in talls))
    key.draw(sheet)
    top = key.height
    for group, tall in zip(groups, talls, strict=True):
        heading(sheet, top, group.name, text.unit(chart.unit, [], logarithmic=chart.logarithmic))
        unscaled = axes.Axis(0.0, 1.0, (), ())
        panel = sheet.panel(left, top + HEADING, width - left - right, tall, scale, unscaled)
        _scale(sheet, panel)
        for category, begin, high in group.rows(lines):
            _category(sheet, panel, begin, high, labels[category], [(one, category) for one in group.series], styles)
        if not group.categories:
            sheet.words(panel.left + panel.width / 2, panel.top + panel.height / 2 + 4, "no measurements", colour="muted", align="center")
        top += HEADING + tall + _AXIS + 8
    return sheet


class _Key:
    """Which bars are whose, in as many rows as it takes."""

    def __init__(self, runs: Sequence[str], styles: Mapping[str, Style], width: float) -> None:
        self._placed: list[tuple[float, float, str, Style]] = []
        x, y = 0.0, 0.0
        for run in dict.fromkeys(runs):
            words = text.shortened(run, width - 40)
            if x and x + 34 + text.width(words) > width:
                x, y = 0.0, y + text.LINE + 4
            self._placed.append((x, y, words, styles[run]))
            x += 34 + text.width(words) + 18
        self.height = y + _KEY if self._placed else 0.0

    def draw(self, sheet: Sheet) -> None:
        """A swatch and a name each."""
        for x, y, words, style in self._placed:
            sheet.bar(x + 1, y + 2, 26, 11, style)
            sheet.words(x + 34, y + 12, words, colour=style.colour)


def _scale(sheet: Sheet, panel: Panel) -> None:
    until = -100.0
    for tick, label in zip(panel.x.ticks, panel.x.labels, strict=True):
        x = panel.across(tick)
        sheet.line([(x, panel.top), (x, panel.bottom)], "axis" if tick == panel.x.low else "grid")
        if x - text.width(label) / 2 > until + 6:
            sheet.words(x, panel.bottom + 15, label, colour="muted", align="center")
            until = x + text.width(label) / 2


def _category(
    sheet: Sheet,
    panel: Panel,
    begin: float,
    high: float,
    label: Sequence[str],
    bars: Sequence[tuple[Series, str]],
    styles: Mapping[str, Style],
) -> None:
    middle = panel.top + begin + high / 2
    for number, line in enumerate(label):
        sheet.words(panel.left - 8, middle + 4 + (number - (len(label) - 1) / 2) * text.LINE, line, align="right")
    top = middle - (len(bars) * (_BAR + _BETWEEN) - _BETWEEN) / 2
    for number, (series, category) in enumerate(bars):
        y = top + number * (_BAR + _BETWEEN)
        said: Figure = next((value for x, value in series.points if str(x) == category), None)
        value = finite(said)
        end = panel.left
        if value is not None and (value > 0 or not panel.x.logarithmic):
            zero = panel.left if panel.x.logarithmic else panel.across(0.0)
            end = max(panel.across(value), zero)
            sheet.bar(min(panel.across(value), zero), y, abs(panel.across(value) - zero), _BAR, styles[series.run])
        sheet.words(end + 6, y + 11, _said(said, sheet.width), colour=styles[series.run].colour)


def _said(value: Figure, width: float) -> str:
    return "no data" if value is None else text.shortened(in_words(value), width * 0.25)
