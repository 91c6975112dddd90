"""Bandwidth: a thin line."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from holdfast.testing.faults.fault import FREE, Chunk, Decision, DirectedFault, Stage
from holdfast.validation import number

# Data goes out in pieces of so many seconds' worth: short enough to look steady, long enough for the timers of any system.
_PIECE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(DirectedFault):
    """Each connection carries at most so many bytes a second.

    Args:
        rate: bytes per second, > 0.
        direction, probability: see `DirectedFault`.
    """

    rate: float

    def _check(self, name: str) -> None:
        number(f"{name}.rate", self.rate, low=0.0, low_open=True)

    def _work(self, _rng: Random, /) -> Stage:
        return _Thin(self.rate)


class _Thin(Stage):
    __slots__ = ("_free", "_rate", "_start")

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0
        self._start = 0.0

    def decide(self, head: Chunk | None, /) -> Decision:
        if head is None:
            return FREE
        size = min(max(1, int(self._rate * _PIECE)), max(1, len(head.data)))
        self._start = max(self._free, head.arrived)
        return Decision(size=size, at=self._start + size / self._rate if head.data else self._start)

    def passed(self, data: bytes, now: float, /) -> None:
        # A line that could not send for a while (the reader was slow) does not make up for it, beyond late timers.
        self._free = max(self._start + len(data) / self._rate, now - 2 * _PIECE)
