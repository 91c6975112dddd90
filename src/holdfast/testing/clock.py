"""Clocks for tests.

    with FakeClock() as clock:            # blocking code: waits return at once, and the clock has moved on
        policy.call(charge, order)
        clock.advance(30)

    with FakeClock() as clock:            # async code: a loop in virtual time, asyncio.sleep included
        clock.run(main())

    with no_waits():                      # real time, but nothing waits between attempts
        policy.call(charge, order)

A clock holds for the running context: tests cannot disturb each other, and a thread sees it where it runs in the context
(`asyncio.to_thread`, `holdfast.carry`).
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import time
from collections.abc import Coroutine
from contextvars import ContextVar, Token
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.drivers.clock import Clock, current
from holdfast.validation import number, wait_seconds

if TYPE_CHECKING:
    from typing import Self

R = TypeVar("R")

# Of the running context and not of the clock: several threads or tasks may be inside of one clock.
_entered: ContextVar[tuple[Token[Clock], ...]] = ContextVar("holdfast.testing.clocks", default=())


def _enter(clock: Clock) -> None:
    _entered.set((*_entered.get(), current.set(clock)))


def _leave() -> None:
    *outer, token = _entered.get()
    _entered.set(tuple(outer))
    current.reset(token)


class FakeClock:
    """Time that passes only when somebody waits for it, or `advance` is called.

    Args:
        start: monotonic seconds to begin with, >= 0.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = number("FakeClock.start", start, low=0.0)
        self._looping = False
        self._moving = Lock()

    def now(self) -> float:
        """Monotonic seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let this much time pass, >= 0 seconds."""
        checked = wait_seconds("FakeClock.advance", seconds)
        with self._moving:
            self._now += checked

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        self.advance(seconds)

    def wait(self, lock: Lock, seconds: float) -> None:
        """See `Clock.wait`."""
        if not lock.acquire(blocking=False):
            self.advance(max(0.0, seconds))

    def delay(self, seconds: float) -> float:
        """See `Clock.delay`."""
        if self._looping:
            return seconds  # the loop's own time is this clock
        self.advance(max(0.0, seconds))
        return 0.0

    def run(self, main: Coroutine[Any, Any, R]) -> R:
        """Run async code in virtual time: whenever nothing is left to do, the time jumps to the next timer.

        Threads and real sockets take real time, which does not count here: what is tested must not wait for them.
        """
        with self:
            self._looping = True
            try:
                with asyncio.Runner(loop_factory=lambda: _VirtualLoop(self)) as runner:
                    return runner.run(main, context=contextvars.copy_context())
            finally:
                self._looping = False

    def __enter__(self) -> Self:
        _enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _leave()


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(_Jumping(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock.now()


class _Jumping(selectors.DefaultSelector):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0)
        if not ready:
            self._clock.advance(timeout)
        return ready


class no_waits:  # noqa: N801  (used like a function, as `holdfast.deadline` is)
    """Real time, in which waits between attempts and for places take none: the clock jumps over them."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> float:
        """Monotonic seconds, and what was skipped."""
        return time.monotonic() + self._skipped

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        self._skipped += seconds

    def wait(self, lock: Lock, seconds: float) -> None:
        """See `Clock.wait`."""
        if not lock.acquire(blocking=False):
            self._skipped += max(0.0, seconds)

    def delay(self, seconds: float) -> float:
        """See `Clock.delay`."""
        self._skipped += max(0.0, seconds)
        return 0.0

    def __enter__(self) -> Self:
        _enter(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _leave()
