"""What holdfast tells about itself: frozen records, handed to listeners.

    stop = holdfast.events.subscribe(print)      # any callable that takes one event
    ...
    stop()

A listener is called in the thread or task where the event happened, after all locks are given back, so it must be
quick and must not wait. One that raises is reported once and is called on; nobody else notices. Where nobody listens
no record is built.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from holdfast.records import (
        AttemptEnded,
        BreakerChanged,
        DeadlineOutrun,
        Event,
        FellBack,
        FleetBack,
        FleetIgnored,
        FleetLost,
        GaveUp,
        Hedged,
        LimitChanged,
        LockLost,
        LockOverran,
        LockTook,
        Refused,
        Retrying,
    )

__all__ = [
    "AttemptEnded",
    "BreakerChanged",
    "DeadlineOutrun",
    "Event",
    "FellBack",
    "FleetBack",
    "FleetIgnored",
    "FleetLost",
    "GaveUp",
    "Hedged",
    "LimitChanged",
    "Listener",
    "LockLost",
    "LockOverran",
    "LockTook",
    "Refused",
    "Retrying",
    "publish",
    "subscribe",
]

Listener: TypeAlias = "Callable[[Event], object]"

# Who listens; empty, and then no record is built. One list for ever, so that the drivers may hold it.
listeners: list[Listener] = []

# Who does without a look at `listeners` on every call, and is told instead when that changes.
_switches: dict[int, weakref.ref[Callable[[bool], None]]] = {}


def subscribe(listener: Listener) -> Callable[[], None]:
    """Hand every event of this process to `listener` from now on.

    Returns:
        A function that ends it; calling it again does nothing.

    Raises:
        TypeError: `listener` cannot be called.
    """
    if not callable(listener):
        raise TypeError(f"a listener must be callable with one event, got {listener!r}")
    entry = _Entry(listener)
    listeners.append(entry)  # one step, which needs no lock, and none could be held by a thread that a fork leaves behind
    _turn()

    def unsubscribe() -> None:
        try:  # noqa: SIM105  (contextlib is not loaded here)
            listeners.remove(entry)
        except ValueError:
            pass  # it was ended before
        _turn()

    return unsubscribe


def switch(turn: Callable[[bool], None]) -> None:
    """Tell `turn` from now on whether anybody listens. It is not kept alive by that."""
    key = id(turn)
    _switches[key] = weakref.ref(turn, lambda _: _switches.pop(key, None))
    if listeners:
        turn(True)


def _turn() -> None:
    for reference in list(_switches.values()):
        turn = reference()
        if turn is not None:
            turn(bool(listeners))


class _Entry:
    """One subscription: the same listener may be subscribed twice, and each is ended on its own."""

    __slots__ = ("listener", "reported")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.reported = False

    def __call__(self, event: Event) -> None:
        try:
            self.listener(event)
        except Exception as error:
            if not self.reported:
                self.reported = True
                _report(self.listener, error)


def _report(listener: Listener, error: Exception) -> None:
    # sys.excepthook and not a warning: under "error" filters a warning would raise into the user's call.
    import contextlib
    import sys

    with contextlib.suppress(Exception):  # the listener's repr and the hook are user's code as well
        error.add_note(f"raised by the holdfast listener {listener!r}; it is called on, its later errors are not reported")
        sys.excepthook(type(error), error, error.__traceback__)


def publish(events: list[Event]) -> None:
    """Hand `events` to every listener."""
    for listener in tuple(listeners):
        for event in events:
            listener(event)


def __getattr__(name: str) -> object:
    """The records, loaded when the first is asked for."""
    if name not in __all__:  # the import system asks for __path__
        raise AttributeError(f"module 'holdfast.events' has no attribute {name!r}")
    from holdfast import records

    record = globals()[name] = getattr(records, name)
    return record
