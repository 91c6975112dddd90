"""What events and snapshots say in metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast import policy
from holdfast.events import Event
from holdfast.observe import metrics
from holdfast.observe.metrics import Metric, Names
from holdfast.policies.breaker import State
from holdfast.policy import Policy
from holdfast.records import (
    AttemptEnded,
    BreakerChanged,
    DeadlineOutrun,
    FellBack,
    FleetBack,
    FleetIgnored,
    FleetLost,
    GaveUp,
    Hedged,
    LockLost,
    LockOverran,
    LockTook,
    Refused,
    Retrying,
)

if TYPE_CHECKING:
    from holdfast.servers.workers import PoolSnapshot
    from holdfast.snapshots import PolicySnapshot

# Takes a value to add or to observe.
Series: TypeAlias = Callable[[float], object]
Gauges: TypeAlias = dict[tuple[Metric, tuple[str, ...]], float]

REASONS = {
    "no attempts left": "attempts",
    "the deadline leaves no time for another": "deadline",
    "the breaker is open": "breaker",
    "retry budget empty": "budget",
}
KINDS = frozenset({"BreakerOpen", "BulkheadFull", "RateLimited", "Overloaded"})
OTHER = "other"

_MOST_POOLS = 100


class Chosen:
    """The policies that are shown.

    Args:
        policies: only these; None for every one of the process, those that are made later too.

    Raises:
        TypeError: there is something else among them.
    """

    def __init__(self, policies: Iterable[Policy] | None) -> None:
        self._policies = None if policies is None else list(policies)
        for one in self._policies or ():
            if not isinstance(one, Policy):
                raise TypeError(f"policies must be policies, got {one!r}")
        self.names = None if self._policies is None else frozenset(one.name for one in self._policies)

    def snapshots(self) -> list[PolicySnapshot]:
        """What they are like now."""
        return policy.snapshots() if self._policies is None else [one.snapshot() for one in self._policies]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chosen) and self._policies == other._policies

    def __hash__(self) -> int:
        return hash(self.names)


class Readings:
    """A listener that hands on what it hears as measurements, in the thread or task where it happened.

    Args:
        series: makes the series of a metric and the values of its labels; asked once for each.
        chosen: the policies that it listens to.
        names: their labels.
    """

    __slots__ = ("_attempts", "_budgeted", "_chosen", "_label", "_make", "_names", "_series")

    def __init__(self, series: Callable[[Metric, tuple[str, ...]], Series], chosen: Chosen, names: Names) -> None:
        self._make = series
        self._chosen = chosen
        self._names = chosen.names
        self._label = names.label
        self._series: dict[tuple[Metric, tuple[str, ...]], Series] = {}
        self._attempts: dict[tuple[str, str], tuple[Series, Series, Series]] = {}
        self._budgeted: dict[str, bool] = {}

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        tell = _TELL.get(type(event))
        if tell is not None and (self._names is None or event.policy in self._names):
            tell(self, self._label(event.policy), event)
        elif self._names is None:
            for metric, read in _OF_THE_PROCESS.get(type(event), ()):
                self._add(metric, (), read(event))

    def _add(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        self._one(metric, labels)(value)

    def _one(self, metric: Metric, labels: tuple[str, ...]) -> Series:
        series = self._series.get((metric, labels))
        if series is None:
            series = self._series[metric, labels] = self._make(metric, labels)
        return series

    def _attempt(self, name: str, event: AttemptEnded) -> None:
        # Of all events only this one comes with every call, so its series are at hand.
        labels = (name, event.verdict)
        series = self._attempts.get(labels)
        if series is None:
            own = self._one(metrics.ATTEMPTS, labels), self._one(metrics.ATTEMPT_DURATION, labels), self._one(metrics.CALLS, (name,))
            series = self._attempts[labels] = own
        attempts, duration, calls = series
        attempts(1.0)
        duration(event.elapsed)
        if event.attempt == 1:
            calls(1.0)

    def _retrying(self, name: str, _: Retrying) -> None:
        self._add(metrics.RETRIES, (name,), 1.0)
        self._granted(name)

    def _gave_up(self, name: str, event: GaveUp) -> None:
        reason = REASONS.get(event.reason, OTHER)
        self._add(metrics.GAVE_UP, (name, reason), 1.0)
        if reason == "budget":
            self._add(metrics.BUDGET_DECISIONS, (name, "denied"), 1.0)

    def _refused(self, name: str, event: Refused) -> None:
        self._add(metrics.REFUSALS, (name, event.kind if event.kind in KINDS else OTHER), 1.0)

    def _changed(self, name: str, event: BreakerChanged) -> None:
        self._add(metrics.BREAKER_TRANSITIONS, (name, event.old, event.new), 1.0)

    def _hedged(self, name: str, _: Hedged) -> None:
        self._add(metrics.HEDGES, (name,), 1.0)
        self._granted(name)

    def _fell_back(self, name: str, _: FellBack) -> None:
        self._add(metrics.FALLBACKS, (name,), 1.0)

    def _outrun(self, name: str, event: DeadlineOutrun) -> None:
        self._add(metrics.OUTRUNS, (name,), 1.0)
        self._add(metrics.OUTRUN_TIME, (name,), max(0.0, event.outside))

    def _granted(self, name: str) -> None:
        # The event does not say whether a budget was asked. A policy never gains or loses one, so this is found out once per label.
        known = self._budgeted.get(name)
        if known is None:
            known = self._budgeted[name] = any(
                one["budget"] is not None and self._label(one["name"]) == name for one in self._chosen.snapshots()
            )
        if known:
            self._add(metrics.BUDGET_DECISIONS, (name, "granted"), 1.0)


_TELL: Mapping[type[Event], Callable[[Readings, str, Any], None]] = {
    AttemptEnded: Readings._attempt,
    Retrying: Readings._retrying,
    GaveUp: Readings._gave_up,
    Refused: Readings._refused,
    BreakerChanged: Readings._changed,
    Hedged: Readings._hedged,
    FellBack: Readings._fell_back,
    DeadlineOutrun: Readings._outrun,
}

# What belongs to no policy.
_OF_THE_PROCESS: Mapping[type[Event], Sequence[tuple[Metric, Callable[[Any], float]]]] = {
    LockTook: [(metrics.LOCK_WAIT, lambda event: max(0.0, event.waited))],
    LockOverran: [(metrics.LOCK_OVERRUNS, lambda _: 1.0), (metrics.LOCK_OVERRUN_TIME, lambda event: max(0.0, event.outside))],
    LockLost: [(metrics.LOCK_LOSSES, lambda _: 1.0)],
    FleetLost: [(metrics.FLEET_LOSSES, lambda _: 1.0)],
    FleetBack: [(metrics.FLEET_AWAY, lambda event: max(0.0, event.away))],
    FleetIgnored: [(metrics.FLEET_IGNORED, lambda _: 1.0)],
}


def gauges(snapshots: Iterable[PolicySnapshot], names: Names) -> Gauges:
    """What policies are like now; those of one name as one."""
    found: Gauges = {}

    def put(metric: Metric, labels: tuple[str, ...], value: float) -> None:
        before = found.get((metric, labels), 0.0)
        found[metric, labels] = before + value if metric.together == "sum" else max(before, value)

    for one in snapshots:
        name = (names.label(one["name"]),)
        if one["breaker"] is not None:
            for state in State:
                put(metrics.BREAKER_STATE, (*name, state.value), float(state.value == one["breaker"]["state"]))
        if one["budget"] is not None:
            put(metrics.BUDGET_LEFT, name, one["budget"]["left"])
        if one["limit"] is not None and one["limit_across"] == "host":
            put(metrics.HOST_IN_FLIGHT, name, one["limit"]["running"])
            put(metrics.HOST_LIMIT, name, one["limit"]["limit"])
        elif one["limit"] is not None:
            put(metrics.IN_FLIGHT, name, one["limit"]["running"])
            put(metrics.LIMIT, name, one["limit"]["limit"])
            put(metrics.WAITING, name, one["limit"]["waiting"])
        if one["rate_limit_wait"] is not None:
            put(metrics.RATE_LIMIT_WAIT, name, one["rate_limit_wait"])
        if one["hedge_after"] is not None:
            put(metrics.HEDGE_DELAY, name, one["hedge_after"])
    return found


def pool_figures(pool: PoolSnapshot) -> Mapping[Metric, float | None]:
    """What a pool of workers is like now; None for what it cannot tell."""
    return {
        metrics.WORKERS: pool["workers"],
        metrics.WORKERS_BUSY: pool["busy"],
        metrics.WORKERS_IDLE: pool["idle"],
        metrics.WORKERS_QUEUE: pool["queue"],
        metrics.WORKERS_QUEUE_LIMIT: pool["queue_limit"],
        metrics.WORKERS_REQUESTS: pool["requests"],
        metrics.WORKERS_BUSY_TIME: pool["busy_seconds"],
        metrics.WORKERS_WAIT_TIME: pool["wait_seconds"],
    }


def pools(wanted: Collection[str] | None) -> list[PoolSnapshot]:
    """The pools of workers of this user and machine.

    Args:
        wanted: those of these names; None for all that have a living worker, as far as their number is bounded.
    """
    try:
        from holdfast.servers import workers
    except ImportError:  # this system has no file locks
        return []
    if wanted is not None:
        return [one for one in workers.snapshots() if one["name"] in wanted]
    return [one for one in workers.snapshots() if one["workers"]][:_MOST_POOLS]
