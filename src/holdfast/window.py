"""What happened lately: counts over a sliding window, and how long things took.

Two ways of counting "the last 60 seconds" forget wrongly: a fixed window forgets everything at its edge, and a counter
with an expiry lives for ever if its process dies between the two commands. Here the window is cut into slices that fall
off one by one. Nothing older than the window is ever counted; at most one slice (a sixtieth of the window) is
forgotten early. Memory does not depend on the traffic, and counting costs the same however long the window is.
"""

from __future__ import annotations

import math
from itertools import count

SLICES = 60

# Of a slice, in seconds: shorter ones than a clock can tell apart would only overflow.
_SHORTEST = 1e-9


class Window:
    """Counts of a few kinds of things over the last `span` seconds.

    The counters only ever rise, and what they said at the beginning of each slice is kept; the difference is what happened since.
    So to count one thing is a single step of `itertools.count`, which needs no lock:

        if now >= window.turns_at:
            with lock:
                window.turn(now)
        window.bump[kind]()

    Everything else is called under the owner's lock. A thing counted by a thread that was stopped between the two steps lands in a
    slice that is a little too new; it is never lost.

    Args:
        span: seconds, > 0.
        kinds: how many kinds are counted apart.
    """

    __slots__ = ("_kinds", "_marks", "_newest", "_reads", "_width", "bump", "span", "turns_at")

    def __init__(self, span: float, kinds: int) -> None:
        self.span = span
        self._kinds = kinds
        self._width = max(span / SLICES, _SHORTEST)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.bump = tuple(count().__next__ for _ in range(self._kinds))
        self.turns_at = -math.inf  # the newest slice ends here
        self._reads = 0
        self._newest = -SLICES
        self._marks = [[0] * self._kinds] * SLICES

    def turn(self, now: float) -> None:
        """Begin the slice that `now` is in, if it is not the newest already."""
        newest = int(now // self._width)
        counts = self._read()
        for index in range(max(self._newest, newest - SLICES) + 1, newest + 1):
            self._marks[index % SLICES] = counts
        if newest > self._newest:
            self._newest = newest
            self.turns_at = (newest + 1) * self._width

    def totals(self, now: float) -> list[int]:
        """How often each kind happened in the window that ends at `now`."""
        if now >= self.turns_at:
            self.turn(now)
        oldest = self._marks[(self._newest + 1) % SLICES]
        return [total - before for total, before in zip(self._read(), oldest, strict=True)]

    def counted(self) -> list[int]:
        """How often each kind happened since the window was cleared."""
        return self._read()

    def _read(self) -> list[int]:
        # A counter can only be read by stepping it, so the steps of reading are taken off again.
        self._reads += 1
        return [step() - self._reads + 1 for step in self.bump]


class Latencies:
    """The distribution of recent durations, good to 5 %. Not locked: its owner is.

    Two histograms of logarithmic bins (1 us to about 3 hours), each for half of the window: the older is dropped whole
    when the newer is full, so an answer rests on between half a window and a whole one.
    """

    __slots__ = ("_half", "_newer", "_older", "_turn")

    _GROWTH = math.log(1.1)  # a bin's edges are 10 % apart, so its middle is within 5 % of all in it
    _FLOOR = 1e-6
    _BINS = 242
    _ROUNDING = 1e-9  # 0.07 * 100 is 7.000000000000001, and that must not be the eighth

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
        rank = math.ceil(q * total - self._ROUNDING)
        seen = 0
        bin_ = -1
        while seen < rank:
            bin_ += 1
            seen += self._newer[bin_] + self._older[bin_]
        return self._FLOOR * math.exp((bin_ + 0.5) * self._GROWTH)
