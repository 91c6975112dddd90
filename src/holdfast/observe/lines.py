"""What an event says in one line: for logs and for spans.

An error is named by its class alone: its text may hold what users sent, or an address with a password in it. Locks are not named at all:
"order:42" and "user@example.com" are data of users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from holdfast.events import Event
from holdfast.records import (
    BreakerChanged,
    DeadlineOutrun,
    FellBack,
    FleetBack,
    FleetIgnored,
    FleetLost,
    GaveUp,
    Hedged,
    LimitChanged,
    LockLost,
    LockOverran,
    Refused,
    Retrying,
)

Level: TypeAlias = Literal["debug", "info", "warning"]
Value: TypeAlias = "str | int | float"

_LONGEST = 120


@dataclass(frozen=True, slots=True)
class Line:
    """One line.

    Args:
        event: what happened, in snake_case: "breaker_changed".
        level: how much it matters.
        text: it in words.
        fields: it in values that JSON knows.
    """

    event: str
    level: Level
    text: str
    fields: Mapping[str, Value] = field(default_factory=dict)


def told(event: Event) -> Line | None:
    """The line for an event; None for one that is no news by itself, like the end of an attempt."""
    tell = _TELL.get(type(event))
    return None if tell is None else tell(printable(event.policy), event)


def printable(name: str) -> str:
    """A name that cannot begin a line of its own, or fill one."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:_LONGEST])


def _class_of(error: BaseException | None) -> str:
    return "an unwanted result" if error is None else type(error).__name__


def _line(event: str, level: Level, policy: str, text: str, **fields: Value) -> Line:
    return Line(event, level, f"{policy or 'a deadline block'}: {text}", {"policy": policy, **fields})


def _seconds(value: float) -> float:
    return round(value, 6)


def _retrying(policy: str, event: Retrying) -> Line:
    error, delay = _class_of(event.error), _seconds(event.delay)
    text = f"attempt {event.attempt} failed ({error}), the next in {delay:.3g} s"
    return _line("retrying", "info", policy, text, attempt=event.attempt, delay=delay, error=error)


def _gave_up(policy: str, event: GaveUp) -> Line:
    error = _class_of(event.error)
    text = f"gave up after {event.attempts} attempt{'s' if event.attempts != 1 else ''} ({error}): {event.reason}"
    return _line("gave_up", "warning", policy, text, attempts=event.attempts, reason=event.reason, error=error)


def _refused(policy: str, event: Refused) -> Line:
    return _line("refused", "warning", policy, f"refused ({event.kind})", kind=event.kind)


def _changed(policy: str, event: BreakerChanged) -> Line:
    level: Level = "warning" if event.new in {"open", "forced-open"} else "info"
    text = f"breaker {event.old} -> {event.new}: {event.reason}" + (f", probes in {event.pause:.3g} s" if event.pause else "")
    return _line("breaker_changed", level, policy, text, old=event.old, new=event.new, reason=event.reason, pause=_seconds(event.pause))


def _limit(policy: str, event: LimitChanged) -> Line:
    return _line("limit_changed", "debug", policy, f"limit {event.old} -> {event.new}", old=event.old, new=event.new)


def _hedged(policy: str, event: Hedged) -> Line:
    after = _seconds(event.after)
    text = f"no answer after {after:.3g} s, attempt {event.attempt} started beside it"
    return _line("hedged", "debug", policy, text, attempt=event.attempt, after=after)


def _fell_back(policy: str, event: FellBack) -> Line:
    error = _class_of(event.error)
    return _line("fell_back", "warning", policy, f"the fallback answered ({error})", error=error)


def _outrun(policy: str, event: DeadlineOutrun) -> Line:
    budget, elapsed, outside = map(_seconds, (event.budget, event.elapsed, event.outside))
    text = f"ran {outside:.3g} s past its deadline of {budget:.3g} s"
    return _line("deadline_outrun", "warning", policy, text, budget=budget, elapsed=elapsed, outside=outside)


def _lock_overran(_: str, event: LockOverran) -> Line:
    ran, allowed, outside = map(_seconds, (event.ran, event.allowed, event.outside))
    text = f"a lock: work ran {ran:.3g} s, {allowed:.3g} s were allowed, {outside:.3g} s of it outside of the lock"
    return Line("lock_overran", "warning", text, {"ran": ran, "allowed": allowed, "outside": outside})


def _lock_lost(_: str, event: LockLost) -> Line:
    return Line("lock_lost", "warning", f"a lock: lost ({printable(event.reason)})", {"reason": printable(event.reason)})


def _fleet_lost(_: str, event: FleetLost) -> Line:
    reason = printable(event.reason)
    return Line("fleet_lost", "warning", f"fleet: the store cannot be asked, this process goes on alone ({reason})", {"reason": reason})


def _fleet_back(_: str, event: FleetBack) -> Line:
    away = _seconds(event.away)
    return Line("fleet_back", "info", f"fleet: the store answers again, after {away:.3g} s", {"away": away})


def _fleet_ignored(policy: str, event: FleetIgnored) -> Line:
    what = printable(event.what)
    return Line("fleet_ignored", "warning", f"fleet: not used: {what}", {"policy": policy, "what": what})


_TELL: Mapping[type[Event], Callable[[str, Any], Line]] = {
    Retrying: _retrying,
    GaveUp: _gave_up,
    Refused: _refused,
    BreakerChanged: _changed,
    LimitChanged: _limit,
    Hedged: _hedged,
    FellBack: _fell_back,
    DeadlineOutrun: _outrun,
    LockOverran: _lock_overran,
    LockLost: _lock_lost,
    FleetLost: _fleet_lost,
    FleetBack: _fleet_back,
    FleetIgnored: _fleet_ignored,
}
