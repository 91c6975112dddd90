"""The only place that reads the time.

Every driver asks the clock of the running context. It is the system's monotonic clock, unless a test has put another one
there (`holdfast.testing.FakeClock`); contexts do not see each other's, so tests cannot disturb each other.
"""

from __future__ import annotations

import time
from contextvars import ContextVar
from threading import Lock
from typing import Protocol


class Clock(Protocol):
    """What a driver needs from time."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Block for this long."""
        ...

    def wait(self, lock: Lock, seconds: float) -> None:
        """Block until the lock can be taken, at most for this long."""
        ...

    def delay(self, seconds: float) -> float:
        """Seconds for which an event loop has to wait where this much time is to pass."""
        ...


class SystemClock:
    """Real time."""

    __slots__ = ()

    # The function itself and no method around it: it is read twice in every guarded call.
    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)

    def wait(self, lock: Lock, seconds: float) -> None:
        """See `Clock.wait`."""
        lock.acquire(timeout=max(0.0, min(seconds, _LONGEST_WAIT)))

    def delay(self, seconds: float) -> float:
        """See `Clock.delay`."""
        return seconds


# threading.TIMEOUT_MAX is about 292 years here but 49 days on some systems; a day is waited again where it is too short.
_LONGEST_WAIT = 86400.0

_SYSTEM: Clock = SystemClock()

current: ContextVar[Clock] = ContextVar("holdfast.clock", default=_SYSTEM)


def now() -> float:
    """Monotonic seconds of the running context's clock."""
    return current.get().now()
