"""Trickle of 1xx: interim responses that keep a client waiting for the real one."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from holdfast.testing.faults.fault import FREE, Chunk, ConnectionFault, Decision, Direction, Stage, Talk
from holdfast.validation import Seconds, count, positive_seconds

_INTERIM = {
    100: b"HTTP/1.1 100 Continue\r\n\r\n",
    102: b"HTTP/1.1 102 Processing\r\n\r\n",
    103: b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload; as=style\r\n\r\n",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trickle1xx(ConnectionFault):
    """Once the client has asked, an interim response every `interval`, while the real one is held back.

    It speaks HTTP/1.1, so it needs no upstream.

    Args:
        interval: seconds to the first one, and from one to the next, > 0.
        count: so many for each request, >= 1, then the real response passes; None where it never does.
        status: 100, 102 or 103.
        probability: see `ConnectionFault`.
    """

    interval: Seconds
    count: int | None = None
    status: int = 103

    def _check(self, name: str) -> None:
        positive_seconds(f"{name}.interval", self.interval)
        if self.count is not None:
            count(f"{name}.count", self.count)
        if self.status not in _INTERIM:
            raise ValueError(f"{name}.status must be one of {', '.join(map(str, _INTERIM))}, got {self.status!r}")

    def stage(self, direction: Direction, talk: Talk, _rng: Random, /) -> Stage | None:
        """See `Fault.stage`."""
        if direction == "up":
            return None
        return _Trickling(talk, positive_seconds("Trickle1xx.interval", self.interval), self.count, _INTERIM[self.status])


class _Trickling(Stage):
    __slots__ = ("_asked", "_count", "_interim", "_interval", "_next", "_said", "_talk")

    def __init__(self, talk: Talk, interval: float, count: int | None, interim: bytes) -> None:
        self._talk = talk
        self._interval = interval
        self._count = count
        self._interim = interim
        self._said = 0
        self._asked: float | None = None
        self._next = 0.0

    def decide(self, head: Chunk | None, /) -> Decision:
        if self._asked != self._talk.asking:
            self._asked = self._talk.asking
            self._said = 0
            self._next = (self._asked or 0.0) + self._interval
        if self._asked is None or self._said == self._count or (head is not None and head.own):
            return FREE
        return Decision(size=0, at=self._next, say=self._interim)

    def said(self, now: float, /) -> None:
        self._said += 1
        self._next = now + self._interval
