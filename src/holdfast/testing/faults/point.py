"""Faults that happen at a point of the stream: after so many bytes, from its start or from a place in an HTTP message."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar, Literal, TypeAlias

from holdfast.testing.faults.fault import FREE, Chunk, Decision, DirectedFault, Stage
from holdfast.validation import choice, count

Place: TypeAlias = Literal["start", "data", "headers", "body"]

# What the bytes before a place end with.
_MARKS: dict[Place, bytes] = {"start": b"", "data": b"", "headers": b"\n", "body": b"\r\n\r\n"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PointFault(DirectedFault):
    """A fault that happens as soon as so many bytes have passed since it was set.

    Args:
        after: bytes that still pass, >= 0, counted from `where`.
        where: "start" counts from the moment that the connection has the fault, and 0 bytes are at once; "data" does too, but
            nothing happens before there is something to pass on; "headers" counts from the end of the HTTP status line (or
            request line), "body" from the end of the headers.
        direction, probability: see `DirectedFault`.
    """

    after: int = 0
    where: Place = "start"

    # What happens at the point.
    _THERE: ClassVar[Decision]

    def _check(self, name: str) -> None:
        count(f"{name}.after", self.after, low=0)
        choice(f"{name}.where", self.where, tuple(_MARKS))

    def _work(self, _rng: Random, /) -> Stage:
        return _UpTo(self.after, self.where, self._THERE)


class _UpTo(Stage):
    __slots__ = ("_at_once", "_found", "_left", "_mark", "_tail", "_there")

    def __init__(self, after: int, where: Place, there: Decision) -> None:
        self._left = after
        self._mark = _MARKS[where]
        self._found = not self._mark
        self._tail = b""  # what has passed and may be the beginning of the mark
        self._at_once = where != "data"
        self._there = there

    def decide(self, head: Chunk | None, /) -> Decision:
        waiting = head.data if head else b""
        if self._found:
            room = self._left
        else:
            index = (self._tail + waiting).find(self._mark)
            if index < 0:
                return FREE
            room = index + len(self._mark) - len(self._tail) + self._left
        if room:
            return Decision(size=room)
        return self._there if self._at_once or waiting else FREE

    def passed(self, data: bytes, _now: float, /) -> None:
        if not self._found:
            seen = self._tail + data
            before, mark, data = seen.partition(self._mark)
            if not mark:
                self._tail = before[max(0, len(before) - len(self._mark) + 1) :]
                return
            self._found = True
        self._left -= len(data)
