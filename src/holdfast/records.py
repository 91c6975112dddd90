"""What events are made of. Loaded by `holdfast.events` when the first one is asked for: nobody pays for them who does not listen."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class FleetLost(Event):
    """The store that the fleet shares cannot be asked, and this process goes on alone; `reason` in words. Told once, until `FleetBack`."""

    reason: str


@dataclass(frozen=True, slots=True)
class FleetBack(Event):
    """The store answers again, after `away` seconds: what this process knows and what the fleet knows were put together."""

    away: float


@dataclass(frozen=True, slots=True)
class FleetIgnored(Event):
    """Something in the store, or an answer of it, is nothing that holdfast could have written: it was not used. `what` in words."""

    what: str


@dataclass(frozen=True, slots=True)
class LockTook(Event):
    """A lock was taken after `waited` seconds, with this fencing token. `policy` is the lock's name, in all events of locks."""

    waited: float
    token: int


@dataclass(frozen=True, slots=True)
class LockOverran(Event):
    """Work under a lock ran for `ran` seconds, `allowed` were fewer: for `outside` seconds another may have held it."""

    ran: float
    allowed: float
    outside: float


@dataclass(frozen=True, slots=True)
class LockLost(Event):
    """A lock was lost before its time, or could not be given back and ends by its ttl; `reason` in words."""

    reason: str
