"""What holdfast tells about itself: frozen records, handed to listeners.

    stop = holdfast.events.subscribe(print)      # any callable that takes one event
    ...
    stop()

A listener is called in the thread or task where the event happened, after all locks are given back, so it must be
quick and must not wait. One that raises is reported once and is called on; nobody else notices. Where nobody listens
no record is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in a policy.

    Args:
        policy: the policy's name; empty for what belongs to none, like a `holdfast.deadline` block.
    """

    policy: str


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """An attempt ended. `verdict` is "success", "failure" or "ignored"; `elapsed` its seconds, waits before it not included."""

    attempt: int
    verdict: str
    elapsed: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Retrying(Event):
    """Attempt number `attempt` failed, and the next starts in `delay` seconds. `error` is None for an unwanted result."""

    attempt: int
    delay: float
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class GaveUp(Event):
    """No retry after `attempts` attempts, though the failure was of the retried kind; `reason` in words."""

    attempts: int
    reason: str
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """The policy refused an attempt; nothing ran. `kind` is the name of the error's class."""

    kind: str


@dataclass(frozen=True, slots=True)
class BreakerChanged(Event):
    """The breaker went from state `old` to `new`; `reason` in words; `pause` seconds until it probes (0 unless it opened)."""

    old: str
    new: str
    reason: str
    pause: float


@dataclass(frozen=True, slots=True)
class DeadlineOutrun(Event):
    """Work went on past its deadline, for `outside` seconds. Blocking code is stopped only where it asks (`check`)
    or waits on something that obeys the deadline; this tells where it does neither.
    """

    budget: float
    elapsed: float
    outside: float


@dataclass(frozen=True, slots=True)
class LimitChanged(Event):
    """An adaptive limit moved."""

    old: int
    new: int


@dataclass(frozen=True, slots=True)
class Hedged(Event):
    """A second attempt was started `after` seconds because the first had not answered."""

    attempt: int
    after: float


@dataclass(frozen=True, slots=True)
class FellBack(Event):
    """The fallback's answer was given instead of `error`."""

    error: BaseException


Listener: TypeAlias = Callable[[Event], object]

# Read on every call: None means that nobody listens, and costs nothing else. Replaced whole, never changed.
listeners: tuple[Listener, ...] | None = None
_changing = Lock()


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
    global listeners
    with _changing:
        listeners = (*(listeners or ()), entry)

    def unsubscribe() -> None:
        global listeners
        with _changing:
            listeners = tuple(item for item in listeners or () if item is not entry) or None

    return unsubscribe


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
    for listener in listeners or ():
        for event in events:
            listener(event)
