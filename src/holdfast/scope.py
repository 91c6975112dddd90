"""Deadlines for a block of code, and what code inside of one may ask.

with holdfast.deadline(1.0):            # blocking code: cooperative
    holdfast.remaining()
    holdfast.check()
async with holdfast.deadline(1.0):      # async code: really cancelled
    ...
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from holdfast import events
from holdfast.deadlines import Deadline, ShieldDeadline, ambient, restore
from holdfast.drivers import clock
from holdfast.validation import Seconds, positive_seconds, to_seconds

if TYPE_CHECKING:
    from typing import Self

    from holdfast.drivers.backends import Cutoff
    from holdfast.drivers.interrupt import Interrupt

P = ParamSpec("P")
R = TypeVar("R")


def deadline(seconds: Seconds, *, interrupt: bool = False) -> DeadlineBlock:
    """Bound a block: `with` in blocking code, `async with` in async code. Nested ones only shrink.

    `async with` cancels the block at the deadline and raises DeadlineExceeded. `with` cannot: whatever in it asks (`check`,
    the policies and clients of holdfast, `install`) stops, and work that goes on all the same is reported as an event.

    Args:
        seconds: from entering the block. 0 or less has passed already; math.inf only keeps what is around.
        interrupt: in the main thread, `with` only: raise DeadlineExceeded at the deadline whatever the code does, even a busy
            loop, by SIGALRM. It is raised again every second until the block ends, and not inside of a `shield`.

    Raises:
        ValueError: `seconds` is no length of time.
    """
    given = to_seconds("deadline", seconds)
    if math.isnan(given):
        raise ValueError(f"deadline must be a number of seconds, got {seconds!r}")
    return DeadlineBlock(given, interrupt)


class DeadlineBlock:
    """What `deadline` returns: a context manager of both kinds."""

    __slots__ = ("_cutoff", "_given", "_interrupt", "_token", "_wants_interrupt", "limit")

    def __init__(self, given: float, interrupt: bool) -> None:
        self._given = given
        self._wants_interrupt = interrupt
        self._interrupt: Interrupt | None = None
        self._cutoff: Cutoff | None = None
        self._token: Token[Deadline | None] | None = None
        self.limit: Deadline | None = None

    def remaining(self) -> float:
        """Seconds left in this block, never below 0; math.inf where nothing bounds it."""
        return math.inf if self.limit is None else self.limit.remaining(clock.now())

    def _begin(self) -> None:
        if self._token is not None:
            raise RuntimeError("this deadline block is entered already; make another with holdfast.deadline(...)")
        outer = ambient.get()
        now = clock.now()
        if self._given < math.inf and (outer is None or now + self._given < outer.at):
            self.limit = Deadline(now + self._given, max(0.0, self._given), None, outer)
        else:
            self.limit = outer
        self._token = ambient.set(self.limit)

    def _end(self) -> None:
        token, self._token = self._token, None
        if token is not None:
            restore(token)
        if events.listeners and self.limit is not None:
            event = self.limit.outrun(clock.now())
            if event is not None:
                events.publish([event])

    def __enter__(self) -> Self:
        if self._wants_interrupt:
            from holdfast.drivers.interrupt import Interrupt

            self._interrupt = Interrupt()
        self._begin()
        if self._interrupt is not None and self.limit is not None:
            self._interrupt.start(self.limit)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._interrupt is not None:
            self._interrupt.stop()
        self._end()

    async def __aenter__(self) -> Self:
        if self._wants_interrupt:
            raise TypeError("deadline(interrupt=True) is for blocking code; `async with` cancels by itself")
        from holdfast.drivers.backends import backend

        loop = backend()
        self._begin()
        cutoff = loop.cutoff(self.limit, clock.current.get())
        try:
            cutoff.__enter__()
        except BaseException:
            self._end()
            raise
        self._cutoff = cutoff
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        cutoff, self._cutoff = self._cutoff, None
        try:
            return None if cutoff is None else cutoff.__exit__(kind, error, trace)
        finally:
            self._end()


def remaining() -> float:
    """Seconds that are left of the ambient deadline, never below 0; math.inf where there is none."""
    limit = ambient.get()
    return math.inf if limit is None else limit.remaining(clock.now())


def check() -> None:
    """Raise DeadlineExceeded when the ambient deadline has passed, and its kind ClientGone when a server's client has gone. Loops of
    blocking code call it now and then.
    """
    limit = ambient.get()
    if limit is not None:
        limit.check(clock.now())


def shield(max_seconds: Seconds) -> Shield:
    """Let a block of clean-up outlive the deadline around it, but not for longer than `max_seconds`.

    Inside, the ambient deadline is this one. With `async with` a deadline that passes meanwhile cancels the task only when the
    block has ended (its own time bounds the block); with `with` an interrupt is held off likewise. Cancellation that is
    nobody's deadline is not held off.

    Raises:
        ValueError: `max_seconds` is not above 0 and finite.
    """
    return Shield(positive_seconds("shield.max_seconds", max_seconds))


class Shield:
    """What `shield` returns: a context manager of both kinds."""

    __slots__ = ("_cutoff", "_hold", "_seconds", "_token", "limit")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._hold: Cutoff | None = None
        self._cutoff: Cutoff | None = None
        self._token: Token[Deadline | None] | None = None
        self.limit: Deadline | None = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this shield is entered already; make another with holdfast.shield(...)")
        self.limit = ShieldDeadline(clock.now() + self._seconds, self._seconds, None, ambient.get())
        self._token = ambient.set(self.limit)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        token, self._token = self._token, None
        if token is not None:
            restore(token)

    async def __aenter__(self) -> Self:
        from holdfast.drivers.backends import backend

        loop = backend()
        self.__enter__()
        self._hold = loop.shield()
        self._hold.__enter__()
        self._cutoff = loop.cutoff(self.limit, clock.current.get())
        self._cutoff.__enter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._cutoff is not None:
                self._cutoff.__exit__(kind, error, trace)
        finally:
            if self._hold is not None:
                self._hold.__exit__(kind, error, trace)
            self.__exit__(kind, error, trace)


def install() -> None:
    """From now on every blocking socket operation, TLS handshake and name look-up of this process obeys the ambient deadline,
    whatever client library makes it. Installing twice is installing once; see `holdfast.net`.
    """
    from holdfast.net import install as install_now

    install_now()


def uninstall() -> None:
    """Put back what `install` changed. Without `install` it does nothing."""
    from holdfast.net import uninstall as uninstall_now

    uninstall_now()


def carry(fn: Callable[P, R]) -> Callable[P, R]:
    """Take the running context, and with it the deadline, into a thread: `executor.submit(holdfast.carry(work), order)`.

    Tasks and `asyncio.to_thread` inherit it by themselves; executors do not.
    """
    if not callable(fn):
        raise TypeError(f"carry takes what is to be called, got {fn!r}")
    context = contextvars.copy_context()

    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        # A context can be entered by one thread at a time, and a carried function may be called by many.
        return context.copy().run(fn, *args, **kwargs)

    return carried
