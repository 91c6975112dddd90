"""Latency: bytes arrive late."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from holdfast.testing.faults.fault import FREE, Chunk, Decision, DirectedFault, Stage
from holdfast.validation import Seconds, to_seconds, wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency(DirectedFault):
    """Each piece of data arrives later than it would. What is on its way together is late together: the throughput stays.

    Connects are not delayed, the kernel answers them.

    Args:
        delay: how much later, >= 0 seconds.
        jitter: up to so much more or less, >= 0 seconds, drawn evenly for each piece; the order is kept.
        direction, probability: see `DirectedFault`.
    """

    delay: Seconds
    jitter: Seconds = 0.0

    def _check(self, name: str) -> None:
        wait_seconds(f"{name}.delay", self.delay)
        wait_seconds(f"{name}.jitter", self.jitter)

    def _work(self, rng: Random, /) -> Stage:
        return _Late(to_seconds("Latency.delay", self.delay), to_seconds("Latency.jitter", self.jitter), rng)


class _Late(Stage):
    __slots__ = ("_delay", "_due", "_head", "_jitter", "_rng")

    def __init__(self, delay: float, jitter: float, rng: Random) -> None:
        self._delay = delay
        self._jitter = jitter
        self._rng = rng
        self._head: Chunk | None = None
        self._due = 0.0

    def decide(self, head: Chunk | None, /) -> Decision:
        if head is None:
            return FREE
        if head is not self._head:
            self._head = head
            self._due = head.arrived + max(0.0, self._delay + self._rng.uniform(-self._jitter, self._jitter))
        return Decision(at=self._due)
