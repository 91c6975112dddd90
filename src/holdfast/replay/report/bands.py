"""States over time: one band per series, with each state's name in it, or below where it is too short."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from holdfast.replay.report import axes, marks, text
from holdfast.replay.report.canvas import TIME_AXIS, Panel, Sheet, time_axis
from holdfast.replay.report.numbers import label, timed
from holdfast.replay.report.palette import STATES, Style
from holdfast.replay.results import Chart, Series

_NAME, _BAND, _AFTER = 20.0, 26.0, 12.0  # px: a band's name, the band, and what follows
_KEY = 24.0


@dataclass(frozen=True, slots=True)
class Stay:
    """A state from one second to another."""

    state: str
    begin: float
    end: float


def stays(series: Series, end: float) -> list[Stay]:
    """The states of a band, one after the other; the last lasts until the chart's end or a None."""
    points = sorted(timed(series), key=lambda point: point[0])
    found: list[Stay] = []
    for number, (begin, state) in enumerate(points):
        until = points[number + 1][0] if number + 1 < len(points) else end
        if state is None or until <= begin:
            continue
        if found and found[-1].state == str(state) and found[-1].end == begin:
            begin = found.pop().begin  # noqa: PLW2901  (one longer stay instead of two)
        found.append(Stay(str(state), begin, until))
    return found


def draw(chart: Chart, styles: Mapping[str, Style], width: float) -> Sheet:
    """The chart, `width` pixels wide."""
    moments = [x for one in chart.series for x, _ in timed(one)]
    moments += [at for mark in chart.marks for at in (mark.at, mark.until) if at is not None]
    time = axes.seconds(moments, most=8 if width > 500 else 4)
    margin = 12.0  # half of a tick's label
    plot = width - 2 * margin
    placed = marks.place(chart.marks, [margin + plot * time.share(mark.at) for mark in chart.marks], 0, width)
    all_stays = [stays(one, time.high) for one in chart.series]
    colours = grounds(stay.state for row in all_stays for stay in row)
    room = plot / (time.high - time.low)
    unnamed = [one.state for row in all_stays for one in row if not _fits(one, room)]
    first = marks.height(placed)
    rows = len(chart.series) * (_NAME + _BAND + _AFTER)
    sheet = Sheet(width, first + rows + TIME_AXIS + _key_height(unnamed, width))
    panel = sheet.panel(margin, first, plot, rows, time, axes.Axis(0.0, 1.0, (), ()))
    marks.draw(sheet, placed, [panel])
    for number, (series, row) in enumerate(zip(chart.series, all_stays, strict=True)):
        top = first + number * (_NAME + _BAND + _AFTER)
        name = text.shortened(label(series), plot - 8)
        sheet.box(margin - 2, top + 2, text.width(name) + 8, _NAME - 3, "paper")  # over the marks' lines
        sheet.words(margin, top + 15, name, colour=styles[series.run].colour)
        _band(sheet, panel, top + _NAME, row, room, colours)
    time_axis(sheet, panel)
    _key(sheet, panel.bottom + TIME_AXIS, unnamed, colours)
    return sheet


def _fits(stay: Stay, room: float) -> bool:
    return text.width(stay.state) + 8 <= (stay.end - stay.begin) * room


def grounds(states: Iterable[str]) -> dict[str, str]:
    """State -> its colour. States that are not known take turns, so that neighbours differ."""
    found: dict[str, str] = {}
    others = 0
    for state in dict.fromkeys(states):
        if state.lower() in STATES:
            found[state] = STATES[state.lower()]
        else:
            found[state] = f"other-{others % 3 + 1}"
            others += 1
    return found


def _band(sheet: Sheet, panel: Panel, top: float, row: Sequence[Stay], room: float, colours: Mapping[str, str]) -> None:
    if not row:
        sheet.words(panel.left, top + 17, "no data", colour="muted")
    for stay in row:
        begin, end = panel.across(stay.begin), panel.across(stay.end)
        sheet.box(begin, top, max(end - begin - 0.5, 0.7), _BAND, colours[stay.state])
        if _fits(stay, room):
            sheet.words((begin + end) / 2, top + 17, stay.state, colour=f"on-{colours[stay.state]}", align="center")


def _key_rows(states: Sequence[str], width: float) -> list[tuple[float, float, str, str]]:
    found, x, y = [], 0.0, 0.0
    for state in dict.fromkeys(states):
        words = text.shortened(state, width - 30)
        if x and x + 22 + text.width(words) > width:
            x, y = 0.0, y + text.LINE + 4
        found.append((x, y, state, words))
        x += 22 + text.width(words) + 16
    return found


def _key_height(states: Sequence[str], width: float) -> float:
    rows = _key_rows(states, width)
    return rows[-1][1] + _KEY if rows else 0.0


def _key(sheet: Sheet, top: float, states: Sequence[str], colours: Mapping[str, str]) -> None:
    """The names of states that were somewhere too short to have it."""
    for x, y, state, words in _key_rows(states, sheet.width):
        sheet.box(x, top + y + 4, 15, 13, colours[state])
        sheet.words(x + 22, top + y + 15, words, colour="muted")
