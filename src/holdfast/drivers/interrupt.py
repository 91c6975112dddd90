"""Stop blocking code at its deadline, whatever it does: SIGALRM in the main thread.

The signal's handler runs between two bytecodes of whatever the main thread is doing. It raises only into code of the user: while
a policy does its bookkeeping, or a shield is up, it comes again a little later. One timer serves all nested interrupts; a timer and a
handler that the program had set before are kept, and go on.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # no stubs
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, NamedTuple, cast

from holdfast.deadlines import Deadline, ShieldDeadline, ambient
from holdfast.drivers import clock
from holdfast.outcome import deadline_behind

# Code that swallows the error is interrupted again; clean-up has this long, or a shield.
_AGAIN = 1.0
# How soon to look again where raising would have torn the bookkeeping of a policy, and where a shield, which may end early, is up.
_SOON = 0.001
_SHIELDED = 0.01
# A timer takes no longer times than the system can count; one that rings too early is set again.
_LONGEST = 1e9
# A signal that comes between Python's look for signals and a system call is heard of when that call ends, and does not end it. So the timer
# rings again until it is heard; not so often that it keeps C code from its own look for signals, which psycopg has every tenth of a second.
_UNHEARD = 1.0
_PACKAGE = __name__.split(".")[0]

# signal.signal without its looking for an enum's member that each handler might be: that takes longer than all the rest, and a server
# sets two handlers for each of its requests.
_set_handler, _get_handler = _signal.signal, _signal.getsignal

_HAS_TIMERS = hasattr(signal, "setitimer")
_SIGALRM = int(getattr(signal, "SIGALRM", 0))
_main_thread = threading.main_thread().ident

_active: list[Interrupt] = []
_rings_at = 0.0  # when the timer rings, where it is ours


class Interrupt:
    """Raises DeadlineExceeded in the main thread while it is started and its deadline has passed.

    Args:
        resident: for a server's requests: leave handler and timer where there were none before, and let the next request find them.
            Setting a timer anew for each costs 20 us on a virtual machine; this way it rings ten times a second at most.

    Raises:
        RuntimeError: this is not the main thread, or the system has no interval timers.
    """

    __slots__ = ("_before", "_resident", "due", "limit", "spared")

    def __init__(self, *, resident: bool = False) -> None:
        if not _HAS_TIMERS:
            raise RuntimeError("deadline(interrupt=True) needs signal.setitimer, which this system does not have")
        if get_ident() != _main_thread:
            raise RuntimeError("deadline(interrupt=True) works in the main thread only: signals arrive there")
        self._resident = resident
        self._before: _Before | None = None  # of the first one
        self.limit: Deadline | None = None
        self.due = 0.0
        self.spared = False  # once: clean-up that was begun without us has as long as any

    def start(self, limit: Deadline) -> None:
        """Interrupt at this deadline."""
        now = clock.now()
        self.limit = limit
        self.spared = False
        self.due = limit.look_at(now)
        _active.append(self)
        if len(_active) > 1:
            _set()
        elif _get_handler(_SIGALRM) is not _ring:
            self._take_over(now)
        elif not now < _rings_at <= self.due:
            _arm(self.due, now)

    def _take_over(self, now: float) -> None:
        handler = _set_handler(_SIGALRM, _ring)
        before = _Before(handler, time.monotonic(), *_arm(self.due, now))
        if not (self._resident and not before.delay and (handler is None or handler == signal.SIG_DFL)):
            self._before = before

    def stop(self) -> None:
        """End it, and give the signal back if no other interrupt is active."""
        if self not in _active:
            return
        _active.remove(self)
        self.limit = None  # it may hold this: no ring of the two
        before, self._before = self._before, None
        if _active:
            if before is not None:
                _active[0]._before = before
            _set()
        elif before is not None:
            before.restore()
        elif not self._resident:
            _arm(0.0, 0.0)


class _Before(NamedTuple):
    """What the program had set before the first interrupt."""

    handler: Callable[[int, FrameType | None], Any] | int | None  # None: by C, and it cannot be set again
    since: float  # by time.monotonic: from then on the timer was ours
    delay: float  # of its timer, 0 for none
    interval: float

    def restore(self) -> None:
        """Give it back."""
        _arm(0.0, 0.0)
        if self.handler is not None:
            _set_handler(_SIGALRM, self.handler)
        if self.delay:
            # A timer of the program that came due meanwhile rings now: late, but not lost.
            signal.setitimer(signal.ITIMER_REAL, max(_SOON, self.delay - (time.monotonic() - self.since)), self.interval)


def can_interrupt() -> bool:
    """Whether this thread can be interrupted."""
    return _HAS_TIMERS and get_ident() == _main_thread


def of_request() -> Interrupt | None:
    """One for a server's request, where this thread can have one."""
    return Interrupt(resident=True) if can_interrupt() else None


def _set() -> None:
    _arm(min(interrupt.due for interrupt in _active), clock.now())


def _arm(moment: float, now: float) -> tuple[float, float]:
    """Let the timer ring at this moment, 0 for never; what it was set to before."""
    global _rings_at
    _rings_at = moment
    if not moment:
        return signal.setitimer(signal.ITIMER_REAL, 0.0)
    return signal.setitimer(signal.ITIMER_REAL, min(max(_SOON, moment - now), _LONGEST), _UNHEARD)


def _in_child() -> None:
    """Timers are not inherited, and the thread that forked is the main thread now."""
    global _main_thread, _rings_at
    if get_ident() != _main_thread:
        _main_thread = get_ident()
        _active.clear()
    _rings_at = 0.0
    if _active:
        _set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


@atexit.register
def _silence() -> None:
    # An interpreter that ends gives signals their defaults back, and SIGALRM's ends the process.
    if _rings_at and _get_handler(_SIGALRM) is _ring:
        _arm(0.0, 0.0)


def _ring(_signal: int, frame: FrameType | None) -> None:
    global _rings_at
    _rings_at = 0.0
    now = clock.now()
    due = [interrupt for interrupt in _active if interrupt.due <= now]
    if not due:
        if _active:
            _set()
        else:
            _arm(0.0, now)
        return
    if not _in_users_code(frame):
        _again(due, now + _SOON)
        return
    held = [interrupt for interrupt in due if _is_shielded(interrupt)]
    free = [interrupt for interrupt in due if interrupt not in held]
    for interrupt in held:
        interrupt.due = now + _SHIELDED
    # The outermost that is over says most: the inner ones are over with it.
    over = ended = None
    for interrupt in free:
        limit = cast("Deadline", interrupt.limit)
        ended = limit.over(now)
        if ended is not None and not interrupt.spared and _is_handled(limit):
            interrupt.spared = True
            interrupt.due = now + _AGAIN
            continue
        interrupt.due = limit.look_at(now) if ended is None else now + _AGAIN
        over = over or ended
    _set()
    if over is not None:
        try:
            raise over
        finally:
            del over, ended, free, due  # the traceback holds this frame: no ring of the two


def _again(interrupts: list[Interrupt], moment: float) -> None:
    for interrupt in interrupts:
        interrupt.due = moment
    _set()


def _is_handled(limit: Deadline) -> bool:
    """Whether the code is cleaning up after this deadline already: something in it had asked, and heard that the time is up."""
    error = sys.exc_info()[1]
    cut = None if error is None else deadline_behind(error)
    return cut is not None and limit.encloses(cut)


def _is_shielded(interrupt: Interrupt) -> bool:
    """Whether a shield that began inside of the interrupt's block is up."""
    inside = ambient.get()
    for link in inside.around() if inside is not None else ():
        if link is interrupt.limit:
            return False
        if isinstance(link, ShieldDeadline):
            return True
    return False


def _in_users_code(frame: FrameType | None) -> bool:
    """Whether raising here hits the user's code: the nearest frame of this package must be one that calls it."""
    innermost = True
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.split(".")[0] == _PACKAGE:
            return not innermost and frame.f_code.co_name in _CALLS_USER
        innermost = False
        frame = frame.f_back
    return True


# The functions of the drivers that call what the user gave; everything else of this package is bookkeeping.
_CALLS_USER = frozenset({"_run", "guarded", "_guarded", "carried", "answer", "_is_healthy", "call_app", "call_theirs", "next_chunk"})
