"""A sheet to draw a chart on, counted in pixels from its upper left corner, and the panels on it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from holdfast.replay.report import text
from holdfast.replay.report.axes import Axis
from holdfast.replay.report.palette import Style, light

# At 72 dots per inch matplotlib's points are the SVG's pixels.
_DPI = 72
_DATA, _WORDS = 1e6, 2e6  # layers
# Beside matplotlib's defaults: text stays text, and a dollar sign is one.
SETTINGS: Mapping[Literal["svg.fonttype", "text.parse_math"], object] = {"svg.fonttype": "none", "text.parse_math": False}


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot with its two scales, at a place of the sheet."""

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis
    axes: Axes

    @property
    def right(self) -> float:
        """Of the plot."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Of the plot."""
        return self.top + self.height

    def across(self, value: float) -> float:
        """Where a value of x is on the sheet."""
        return self.left + self.width * self.x.share(value)

    def down(self, value: float) -> float:
        """Where a value of y is on the sheet."""
        return self.bottom - self.height * self.y.share(value)


class Sheet:
    """What one drawing is made on.

    Args:
        width: pixels.
        height: pixels.
    """

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
        self._figure.patch.set_visible(False)
        self._drawn = 0.0
        FigureCanvasSVG(self._figure)

    def _next(self) -> float:
        """What is drawn later lies above; data above all of it, and words above data."""
        self._drawn += 1
        return self._drawn

    def panel(self, left: float, top: float, width: float, height: float, x: Axis, y: Axis) -> Panel:
        """A place for data, without any ink yet."""
        across, up = self.width, self.height
        axes = self._figure.add_axes((left / across, 1 - (top + height) / up, width / across, height / up))
        axes.set_axis_off()
        axes.set_zorder(_DATA)
        for axis, scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
            scale("log" if axis.logarithmic else "linear")
        axes.set_xlim(x.low, x.high)
        axes.set_ylim(y.low, y.high)
        return Panel(left, top, width, height, x, y, axes)

    def words(
        self, x: float, y: float, said: str, *, colour: str = "ink", align: str = "left", bold: bool = False, size: float = text.SIZE
    ) -> None:
        """One line of text; y is its baseline."""
        self._figure.text(
            x / self.width,
            1 - y / self.height,
            text.clean(said),
            color=light(colour),
            horizontalalignment=align,
            verticalalignment="baseline",
            fontsize=size,
            fontweight="bold" if bold else "normal",
            family="DejaVu Sans",
            zorder=_WORDS,
        )

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 1.0, dashes: Sequence[float] = ()) -> None:
        """A line through points of the sheet."""
        xs, ys = [x for x, _ in points], [self.height - y for _, y in points]
        drawn = Line2D(xs, ys, color=light(colour), linewidth=width, transform=None, zorder=self._next())
        if dashes:
            drawn.set_dashes(dashes)
        self._figure.add_artist(drawn)

    def box(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        lower_left = (left, self.height - top - height)
        drawn = Rectangle(lower_left, width, height, facecolor=light(colour), edgecolor="none", transform=None, zorder=self._next())
        self._figure.add_artist(drawn)

    def bar(self, left: float, top: float, width: float, height: float, style: Style) -> None:
        """A rectangle as a run's bars are drawn: solid or hatched."""
        self._figure.add_artist(
            Rectangle(
                (left, self.height - top - height),
                width,
                height,
                facecolor=light("paper") if style.hatch else style.hex,
                edgecolor=style.hex,
                hatch=style.hatch or None,
                linewidth=1.0,
                transform=None,
                zorder=self._next(),
            )
        )

    def svg(self, salt: str) -> str:
        """The drawing as matplotlib writes it; the same salt and content give the same text."""
        written = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": salt}):
            self._figure.savefig(written, format="svg", dpi=_DPI, metadata={"Date": None})
        return written.getvalue()


def time_axis(sheet: Sheet, panel: Panel) -> None:
    """Ticks and what they count, below the last panel."""
    sheet.line([(panel.left, panel.bottom), (panel.right, panel.bottom)], "axis")
    for tick, label in zip(panel.x.ticks, panel.x.labels, strict=True):
        x = panel.across(tick)
        sheet.line([(x, panel.bottom), (x, panel.bottom + 4)], "axis")
        sheet.words(x, panel.bottom + 17, label, colour="muted", align="center")
    sheet.words(panel.left, panel.bottom + 33, "seconds since the run's start", colour="muted")


TIME_AXIS = 38.0  # px that it takes


def heading(sheet: Sheet, top: float, name: str, unit: str) -> None:
    """A panel's name, and its unit in a quieter voice, where it is not the name."""
    unit = "" if unit == name else unit
    room = sheet.width - (text.width(unit) + 8 if unit else 0)
    shown = text.shortened(name, max(room, sheet.width / 2), bold=True) if name else ""
    sheet.words(0, top + 13, shown, bold=True)
    beside = text.width(shown, bold=True) + 8 if shown else 0.0
    sheet.words(beside, top + 13, text.shortened(unit, sheet.width - beside), colour="muted")


HEADING = 26.0  # px that it takes
