"""What happened lately: counts over a sliding window, and how long things took.

Two ways of counting "the last 60 seconds" forget wrongly: a fixed window forgets everything at its edge, and a counter
with an expiry lives for ever if its process dies between the two commands. Here the window is cut into slices that fall
off one by one. Nothing older than the window is ever counted; at most one slice (a sixtieth of the window) is
forgotten early. Adding costs the same however long the window is, and memory does not depend on the traffic.
"""

from __future__ import annotations

import math

SLICES = 60


class Window:
    """Counts of a few kinds of things over the last `span` seconds. Not locked: its owner is.

    Args:
        span: seconds, > 0.
        kinds: how many kinds are counted apart.
    """

    __slots__ = ("_kinds", "_row", "_rows", "_slice", "_width", "totals")

    def __init__(self, span: float, kinds: int) -> None:
        self._kinds = kinds
        self._width = span / SLICES
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.totals = [0] * self._kinds
        self._rows = [[0] * self._kinds for _ in range(SLICES)]
        self._slice = 0
        self._row = self._rows[0]

    def add(self, kind: int, now: float) -> None:
        """Count one thing of this kind. A `now` from before the newest slice (threads race) counts in the newest."""
        if now // self._width > self._slice:
            self.advance(now)
        self._row[kind] += 1
        self.totals[kind] += 1

    def advance(self, now: float) -> None:
        """Let what is older than the window fall off; afterwards `totals` holds."""
        newest = int(now // self._width)
        if newest <= self._slice:
            return
        if newest - self._slice >= SLICES:
            self.clear()
        else:
            for index in range(self._slice + 1, newest + 1):
                row = self._rows[index % SLICES]
                for kind, n in enumerate(row):
                    self.totals[kind] -= n
                    row[kind] = 0
        self._slice = newest
        self._row = self._rows[newest % SLICES]


class Latencies:
    """The distribution of recent durations, good to 5 %. Not locked: its owner is.

    Two histograms of logarithmic bins (1 us to about 3 hours), each for half of the window: the older is dropped whole
    when the newer is full, so an answer rests on between half a window and a whole one.
    """

    __slots__ = ("_half", "_newer", "_older", "_turn")

    _GROWTH = math.log(1.1)  # a bin's edges are 10 % apart, so its middle is within 5 % of all in it
    _FLOOR = 1e-6
    _BINS = 242

    def __init__(self, span: float) -> None:
        self._half = span / 2
        self._turn = -math.inf
        self._newer = [0] * self._BINS
        self._older = [0] * self._BINS

    def add(self, seconds: float, now: float) -> None:
        """Note that something took this long."""
        self.advance(now)
        bin_ = int(math.log(max(seconds, self._FLOOR) / self._FLOOR) / self._GROWTH)
        self._newer[min(bin_, self._BINS - 1)] += 1

    def advance(self, now: float) -> None:
        """Drop what is older than the window."""
        if now < self._turn:
            return
        if now < self._turn + self._half:
            self._older = self._newer
            self._turn += self._half
        else:
            self._older = [0] * self._BINS
            self._turn = now + self._half
        self._newer = [0] * self._BINS

    def quantile(self, q: float, min_count: int) -> float | None:
        """The duration that a share `q` of the recent ones did not exceed; None with fewer than `min_count` of them."""
        total = sum(self._newer) + sum(self._older)
        if total < max(1, min_count):
            return None
        rank = math.ceil(q * total)
        seen = 0
        for bin_ in range(self._BINS):
            seen += self._newer[bin_] + self._older[bin_]
            if seen >= rank:
                break
        return self._FLOOR * math.exp((bin_ + 0.5) * self._GROWTH)
