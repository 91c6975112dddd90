"""What happened during the runs, above the first plot and through all of them; and labels that make room for each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast.replay.report import text
from holdfast.replay.report.canvas import Panel, Sheet
from holdfast.replay.results import Mark

_GAP = 5.0  # px between a line and its label


@dataclass(frozen=True, slots=True)
class Placed:
    """A mark's label: its row above the plot (0 is the lowest), and from where to where."""

    mark: Mark
    row: int
    line: float
    left: float
    right: float
    words: str


def place(marks: Sequence[Mark], across: Sequence[float], left: float, right: float) -> list[Placed]:
    """Find a row for each label, so that none meets another, nor, where that can be had, another's line.

    Args:
        marks: what to place.
        across: where the line of each is.
        left: where labels may begin.
        right: where they must end.
    """
    found: list[Placed] = []
    for mark, line in sorted(zip(marks, across, strict=True), key=lambda pair: -pair[1]):  # so that most labels need one row
        words = text.shortened(mark.label, right - left - _GAP)
        begin = line + _GAP
        if begin + text.width(words) > right:  # to the left of its line, or as far to the right as it can be
            begin = line - _GAP - text.width(words)
            begin = begin if begin >= left else max(left, right - text.width(words))
        rows = [Placed(mark, row, line, begin, begin + text.width(words), words) for row in range(len(found) + 1)]
        clear = [one for one in rows if not any(_meet(one, other) for other in found)]
        crossed = [one for one in rows if not any(_cover(one, other) for other in found)]  # never empty: the last row is free
        found.append((clear or crossed)[0])
    return found


def _cover(one: Placed, other: Placed) -> bool:
    return one.row == other.row and one.left < other.right + _GAP and other.left < one.right + _GAP


def _meet(one: Placed, other: Placed) -> bool:
    """Whether their labels meet, or the line of the upper one passes the lower one's label."""
    lower, upper = sorted((one, other), key=lambda placed: placed.row)
    passes = lower.row != upper.row and lower.left - 2 < upper.line < lower.right + 2
    return passes or _cover(one, other)


def height(placed: Sequence[Placed]) -> float:
    """Pixels that the labels take."""
    return (max(one.row for one in placed) + 1) * text.LINE + 4 if placed else 0.0


def draw(sheet: Sheet, placed: Sequence[Placed], panels: Sequence[Panel]) -> None:
    """Labels above the first panel; lines and spans through all."""
    for one in placed:
        for panel in panels:
            if one.mark.until is not None:
                begin, end = (max(panel.left, min(panel.right, panel.across(at))) for at in (one.mark.at, one.mark.until))
                sheet.box(begin, panel.top, end - begin, panel.height, "span")
    ups = [panels[0].top - 4 - one.row * text.LINE for one in placed]
    for one, up in zip(placed, ups, strict=True):
        for number, panel in enumerate(panels):
            sheet.line([(one.line, up - 11 if number == 0 else panel.top), (one.line, panel.bottom)], "muted", width=0.8, dashes=(2, 2))
    for one, up in zip(placed, ups, strict=True):
        sheet.box(one.left - 2, up - 11, one.right - one.left + 4, text.LINE, "paper")  # where a line could not be kept out
        sheet.words(one.left, up, one.words, colour="muted")


def spread(wanted: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """Middles for labels, as near to the wanted ones as they can be without meeting, between low and high where there is room."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    found = list(wanted)
    edge = low
    for number in order:  # down, away from the one above
        found[number] = max(found[number], edge + heights[number] / 2)
        edge = found[number] + heights[number] / 2
    edge = high
    for number in reversed(order):  # and up again, where the last went too far down
        found[number] = min(found[number], edge - heights[number] / 2)
        edge = found[number] - heights[number] / 2
    return found
