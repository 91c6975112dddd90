"""Words on a chart: their width, their lines, and what no page can show."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

SIZE = 12.0  # px; the smallest text of a chart
LINE = 15.0  # px from line to line

# Control characters but tab and newline, and halves of surrogate pairs: neither XML nor a browser takes them.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """The text with a replacement character for each one that cannot be shown."""
    return _UNFIT.sub("\ufffd", text)


@lru_cache(maxsize=4096)
def width(text: str, *, size: float = SIZE, bold: bool = False) -> float:
    """Pixels that a line takes, in a wide font: other fonts take less."""
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a script that the font lacks: the reader's browser has it
        wide, _, _ = TextToPath().get_text_width_height_descent(clean(text), font, ismath=False)
    missing = sum(ord(letter) > 0x2E80 for letter in text)  # those are as wide as they are high, and may be missing from the font
    return float(wide) + missing * size * 0.5


def unit(name: str, values: Iterable[float], *, logarithmic: bool) -> str:
    """What a panel says of its scale. A logarithmic one has no place for 0, and says so where a line goes there."""
    missing = logarithmic and any(value <= 0 for value in values)
    return ", ".join(filter(None, (name, "logarithmic" if logarithmic else "", "0 is not drawn" if missing else "")))


def shortened(text: str, room: float, *, size: float = SIZE, bold: bool = False) -> str:
    """The text, or its beginning and an ellipsis where it takes more than `room` pixels."""
    text = " ".join(text.split())
    if width(text, size=size, bold=bold) <= room:
        return text
    low, high = 0, len(text)
    while low < high:  # the most letters that fit
        middle = (low + high + 1) // 2
        if width(text[:middle] + "…", size=size, bold=bold) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "…"


def wrapped(text: str, room: float, lines: int, *, size: float = SIZE) -> list[str]:
    """The text in at most so many lines of `room` pixels; what does not fit ends in an ellipsis."""
    words, found = text.split(), [""]
    while words:
        longer = f"{found[-1]} {words[0]}".strip()
        if width(longer, size=size) > room and found[-1]:
            if len(found) == lines:
                found[-1] = shortened(" ".join([found[-1], *words]), room, size=size)
                return found
            found.append("")
            longer = words[0]
        found[-1] = shortened(longer, room, size=size)
        words.pop(0)
    return found
