"""Drip: the server that is never silent, and never done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from holdfast.testing.faults.fault import Chunk, Decision, DirectedFault, Stage
from holdfast.validation import Seconds, count, positive_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Drip(DirectedFault):
    """A byte every so often: each read of the client succeeds, so a timeout per read never ends it.

    Args:
        interval: seconds from one byte to the next, > 0. The first one passes at once.
        size: bytes at a time, >= 1.
        direction, probability: see `DirectedFault`.
    """

    interval: Seconds
    size: int = 1

    def _check(self, name: str) -> None:
        positive_seconds(f"{name}.interval", self.interval)
        count(f"{name}.size", self.size)

    def _work(self, _rng: Random, /) -> Stage:
        return _Dripping(positive_seconds("Drip.interval", self.interval), self.size)


class _Dripping(Stage):
    __slots__ = ("_interval", "_next", "_size")

    def __init__(self, interval: float, size: int) -> None:
        self._interval = interval
        self._size = size
        self._next = -math.inf

    def decide(self, _head: Chunk | None, /) -> Decision:
        return Decision(size=self._size, at=self._next)

    def passed(self, _data: bytes, now: float, /) -> None:
        self._next = now + self._interval
