"""The colours of both themes, and what tells runs apart without colour.

The colours of runs are Okabe and Ito's (https://jfly.uni-koeln.de/color/), darkened for paper and lightened for the dark theme until text
in them has a contrast of 4.5 : 1 against its ground (WCAG 2.2, 1.4.3). Charts are drawn in the light theme's colours, and each is
replaced by its name afterwards; so no two may be equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# name -> (light, dark)
COLOURS: Mapping[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14161a"),
    "raised": ("#f6f7f8", "#1c1f25"),
    "ink": ("#1a1b1f", "#e7e8eb"),
    "muted": ("#585d67", "#a6abb5"),
    "grid": ("#e4e6ea", "#2c3038"),
    "axis": ("#8b9099", "#6c727d"),
    "span": ("#f3f0e6", "#24251f"),
    "link": ("#00559b", "#7fc0f5"),
    "run-a": ("#b3420a", "#ff9a66"),
    "run-b": ("#0061a3", "#6cb8f2"),
    "run-c": ("#00725a", "#4dc8a5"),
    "run-d": ("#8f3c78", "#e69bd1"),
    "run-e": ("#775f00", "#d8b74b"),
    "reference": ("#5d636e", "#a0a5af"),
    "held": ("#00664e", "#7fe3cf"),
    "failed": ("#b1001f", "#ff8d8d"),
    "added": ("#00523e", "#8fe1c5"),
    "added-ground": ("#e4f3ed", "#122c24"),
    "removed": ("#8a2a0a", "#ffb698"),
    "removed-ground": ("#fbe8e2", "#381d14"),
    # States differ in lightness first: good is pale, bad is dark (bright in the dark theme).
    "good": ("#d6e9f4", "#1d3a4c"),
    "on-good": ("#12303f", "#d5ebf7"),
    "trying": ("#f2cf72", "#7a5a00"),
    "on-trying": ("#3a2b00", "#fff0c7"),
    "bad": ("#a83c09", "#ff9b67"),
    "on-bad": ("#fffefe", "#2b0e00"),
    "other-1": ("#dcdfe4", "#383d47"),
    "on-other-1": ("#24262b", "#e9eaed"),
    "other-2": ("#eadfe9", "#453548"),
    "on-other-2": ("#38243a", "#f3e6f4"),
    "other-3": ("#aeb3bd", "#5c626e"),
    "on-other-3": ("#15171b", "#f7f8fa"),
}


@dataclass(frozen=True, slots=True)
class Style:
    """How a run is drawn wherever it appears.

    Args:
        colour: a name of COLOURS.
        dashes: lengths of strokes and gaps in line widths; empty for a solid line.
        marker: at the end of a line, as matplotlib names it.
        hatch: of bars, likewise; empty for solid ones.
    """

    colour: str
    dashes: tuple[float, ...]
    marker: str
    hatch: str

    @property
    def hex(self) -> str:
        """The light theme's colour."""
        return light(self.colour)


UNPROTECTED = Style("run-a", (3.0, 1.0), "X", "////")
PROTECTED = Style("run-b", (), "o", "")
REFERENCE = Style("reference", (1.0, 1.6), "", "....")
OTHERS = (
    Style("run-c", (6.0, 1.2, 1.2, 1.2), "^", "\\\\\\\\"),
    Style("run-d", (1.4, 1.1), "s", "xxxx"),
    Style("run-e", (8.0, 1.6), "D", "----"),
)

# state -> its ground; what is not here is "other-1" to "other-3" in turn
STATES: Mapping[str, str] = {
    "closed": "good",
    "forced-closed": "good",
    "up": "good",
    "ready": "good",
    "ok": "good",
    "half-open": "trying",
    "warming": "trying",
    "slow": "trying",
    "open": "bad",
    "forced-open": "bad",
    "down": "bad",
    "killed": "bad",
}


def light(name: str) -> str:
    """A colour as it is on paper."""
    return COLOURS[name][0]


def styles(runs: Iterable[str]) -> dict[str, Style]:
    """Run -> how it is drawn; the same runs in the same order are drawn alike."""
    found: dict[str, Style] = {"": REFERENCE, "unprotected": UNPROTECTED, "protected": PROTECTED}
    for run in runs:
        if run not in found:
            found[run] = OTHERS[(len(found) - 3) % len(OTHERS)]
    return found
