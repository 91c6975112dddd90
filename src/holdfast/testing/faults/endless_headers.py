"""Endless headers: a response that begins, and goes on beginning."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from holdfast.testing.faults.fault import FREE, Chunk, ConnectionFault, Decision, Direction, Stage, Talk
from holdfast.validation import Seconds, wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class EndlessHeaders(ConnectionFault):
    """Once the client has asked: a status line, and header lines for ever. The real response is held back.

    It speaks HTTP/1.1, so it needs no upstream.

    Args:
        interval: seconds from one line to the next, >= 0; with 0, as fast as the client reads.
        probability: see `ConnectionFault`.
    """

    interval: Seconds = 0.05

    def _check(self, name: str) -> None:
        wait_seconds(f"{name}.interval", self.interval)

    def stage(self, direction: Direction, talk: Talk, _rng: Random, /) -> Stage | None:
        """See `Fault.stage`."""
        return _Endless(talk, wait_seconds("EndlessHeaders.interval", self.interval)) if direction == "down" else None


class _Endless(Stage):
    __slots__ = ("_interval", "_lines", "_next", "_talk")

    def __init__(self, talk: Talk, interval: float) -> None:
        self._talk = talk
        self._interval = interval
        self._lines = 0
        self._next = 0.0

    def decide(self, head: Chunk | None, /) -> Decision:
        if self._talk.asking is None or (head is not None and head.own):
            return FREE
        line = b"X-Endless-%d: and so on\r\n" % self._lines if self._lines else b"HTTP/1.1 200 OK\r\n"
        return Decision(size=0, at=self._next, say=line)

    def said(self, now: float, /) -> None:
        self._lines += 1
        self._next = now + self._interval
