"""A point in time that work must not outlive, and the one that surrounds the running code.

A deadline is a point and not a length, so it can be handed from function to function, task to task and service to
service without anybody adding up. Nested ones only shrink: the tightest that applies is the ambient one, kept in a
context variable, which tasks and `asyncio.to_thread` inherit by themselves.

This file reads no clock: `now` is given, in seconds of the clock that made the deadline.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar, Token
from typing import Protocol

from holdfast import events
from holdfast.errors import GONE, ClientGone, DeadlineExceeded

# Timers and schedulers are late by about a millisecond; only what is later than this ran on because nothing stopped it.
OUTRUN_GRACE = 0.01


# How often what waits looks whether somebody still waits for it. A look is a system call of a microsecond.
LOOK = 0.1


class Watch(Protocol):
    """Who knows whether anybody still waits for the work: a server, of its client."""

    def gone(self, now: float, /) -> bool:
        """Whether nobody does any more. Asked often, so it looks no more often than makes sense."""
        ...


class Deadline:
    """A point in time, who set it, and what it is nested in.

    Args:
        at: monotonic seconds.
        budget: the seconds that were given.
        policy: the name of the policy that set it, None for a block.
        parent: the ambient deadline around it.

    What is nested in a server's deadline has its `watch`, and is over when the client has gone.
    """

    __slots__ = ("at", "budget", "parent", "policy", "watch")

    what = "deadline"
    attempt = 0

    def __init__(self, at: float, budget: float, policy: str | None, parent: Deadline | None) -> None:
        self.at = at
        self.budget = budget
        self.policy = policy
        self.parent = parent
        self.watch: Watch | None = None if parent is None else parent.watch

    def remaining(self, now: float) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - now)

    def tighten(self, at: float) -> float:
        """The earlier of `at` and this deadline."""
        return min(at, self.at)

    def exceeded(self, now: float, *, started: bool = True, attempt: int = 0) -> DeadlineExceeded:
        """The error that says so; to be raised by the caller."""
        elapsed = now - self.at + self.budget
        error = DeadlineExceeded(self.policy, self.budget, elapsed, started, attempt or self.attempt, self.what)
        error._source = self
        return error

    def over(self, now: float) -> DeadlineExceeded | None:
        """The error that says so, if the time has passed or the client has gone; else None."""
        if now >= self.at:
            return self.exceeded(now)
        watch = self.watch
        if watch is None or not watch.gone(now):
            return None
        source = [link for link in self.around() if link.watch is watch][-1]
        error = ClientGone(None, source.budget, now - source.at + source.budget, True, 0, GONE)
        error._source = source
        return error

    def check(self, now: float) -> None:
        """Raise what `over` returns."""
        error = self.over(now)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: no ring of the two

    def look_at(self, now: float) -> float:
        """When to ask next whether it is over: at its end, or sooner where somebody may go."""
        return self.at if self.watch is None else min(self.at, now + LOOK)

    def outrun(self, now: float) -> events.DeadlineOutrun | None:
        """The event that tells of work which went on past this deadline; None where it did not."""
        outside = now - self.at
        if outside <= OUTRUN_GRACE:
            return None
        return events.DeadlineOutrun(self.policy or "", self.budget, self.budget + outside, outside)

    def around(self) -> Iterator[Deadline]:
        """This deadline, then each that it is nested in, innermost first."""
        link: Deadline | None = self
        while link is not None:
            yield link
            link = link.parent

    def encloses(self, error: DeadlineExceeded) -> bool:
        """Whether `error` says that this deadline, or one around it, has passed."""
        return error._source is not None and any(link is error._source for link in self.around())

    def __repr__(self) -> str:
        return f"<{self.what} of {self.budget:.3g} s{' of ' + self.policy if self.policy else ''}>"


class AttemptTimeout(Deadline):
    """The time of one attempt."""

    __slots__ = ("attempt",)

    what = "attempt timeout"

    def __init__(self, at: float, budget: float, policy: str | None, parent: Deadline | None, attempt: int) -> None:
        super().__init__(at, budget, policy, parent)
        self.attempt = attempt


class ShieldDeadline(Deadline):
    """The end of clean-up that may outlive the deadlines around it."""

    __slots__ = ()

    what = "shield"

    def __init__(self, at: float, budget: float, policy: str | None, parent: Deadline | None) -> None:
        super().__init__(at, budget, policy, parent)
        self.watch = None  # clean-up is for whoever comes after the client


ambient: ContextVar[Deadline | None] = ContextVar("holdfast.deadline", default=None)


def restore(token: Token[Deadline | None]) -> None:
    """Undo `ambient.set`. A generator may be closed in another context than it began in; there, nothing is to be undone."""
    try:  # noqa: SIM105  (suppress() costs ten times as much, in every call)
        ambient.reset(token)
    except ValueError:
        pass
