"""Every metric: one table for all that show them.

Names, units and buckets follow OpenTelemetry's semantic conventions; Prometheus gets the same names by the usual translation
(`holdfast.attempt.duration` in `s` is `holdfast_attempt_duration_seconds`, and a counter ends in `_total`).

A label's values are few and known beforehand, but for the names of policies and pools, of which `Names` lets through a bounded number.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Literal

from holdfast.validation import count


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric.

    Args:
        name: OpenTelemetry's, with dots.
        kind: "counter" only rises; "histogram" of single values; "gauge" is read when somebody looks.
        unit: in UCUM: "s", or "{what}" for a count.
        help: one sentence.
        labels: their names.
        together: for gauges, what those of several policies of one name, or of several processes, are as one.
    """

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    unit: str
    help: str
    labels: tuple[str, ...] = ("policy",)
    together: Literal["sum", "max"] = "sum"

    @property
    def prometheus_name(self) -> str:
        """The same for Prometheus, without the `_total` that its client adds to counters."""
        return self.name.replace(".", "_") + ("_seconds" if self.unit == "s" else "")


CALLS = Metric("holdfast.calls", "counter", "{call}", "Calls that came to their first attempt.")
ATTEMPTS = Metric("holdfast.attempts", "counter", "{attempt}", "Attempts that ended.", ("policy", "verdict"))
ATTEMPT_DURATION = Metric(
    "holdfast.attempt.duration", "histogram", "s", "How long attempts took, waits before them not included.", ("policy", "verdict")
)
RETRIES = Metric("holdfast.retries", "counter", "{retry}", "Attempts that follow a failed one.")
GAVE_UP = Metric(
    "holdfast.gave_up", "counter", "{call}", "Calls that failed though their failure was of the retried kind.", ("policy", "reason")
)
REFUSALS = Metric("holdfast.refusals", "counter", "{refusal}", "Attempts that the policy refused.", ("policy", "kind"))
HEDGES = Metric("holdfast.hedges", "counter", "{attempt}", "Rivals of attempts that were late.")
HEDGE_DELAY = Metric("holdfast.hedge.delay", "gauge", "s", "When a late attempt gets a rival.", together="max")
FALLBACKS = Metric("holdfast.fallbacks", "counter", "{call}", "Calls that the fallback answered.")

BREAKER_STATE = Metric("holdfast.breaker.state", "gauge", "1", "1 for the state that the breaker is in.", ("policy", "state"), "max")
BREAKER_TRANSITIONS = Metric(
    "holdfast.breaker.transitions", "counter", "{transition}", "Changes of the breaker's state.", ("policy", "from", "to")
)
BUDGET_LEFT = Metric("holdfast.budget.left", "gauge", "{retry}", "Retries that the budget would grant now.")
BUDGET_DECISIONS = Metric(
    "holdfast.budget.decisions", "counter", "{retry}", "Retries and hedges that the budget granted or denied.", ("policy", "decision")
)
IN_FLIGHT = Metric("holdfast.bulkhead.in_flight", "gauge", "{call}", "Calls that hold a place of the bulkhead or the adaptive limit.")
LIMIT = Metric("holdfast.bulkhead.limit", "gauge", "{call}", "Places of the bulkhead, or what the adaptive limit is now.")
WAITING = Metric("holdfast.bulkhead.waiting", "gauge", "{call}", "Calls that wait for a place.")
HOST_IN_FLIGHT = Metric(
    "holdfast.bulkhead.host.in_flight", "gauge", "{call}", "Calls of all processes of the machine that hold a place.", together="max"
)
HOST_LIMIT = Metric("holdfast.bulkhead.host.limit", "gauge", "{call}", "Places that the processes of the machine share.", together="max")
RATE_LIMIT_WAIT = Metric("holdfast.rate_limit.wait", "gauge", "s", "How long a call would wait for its turn now.", together="max")

OUTRUNS = Metric("holdfast.deadline.outruns", "counter", "{attempt}", "Attempts and blocks that went on past their deadline.")
OUTRUN_TIME = Metric("holdfast.deadline.outrun", "counter", "s", "For how long they went on past it, in all.")

# A lock's name says what is locked, "order:42": that is no label.
LOCK_WAIT = Metric("holdfast.lock.wait", "histogram", "s", "How long locks were waited for until they were taken.", ())
LOCK_OVERRUNS = Metric("holdfast.lock.overruns", "counter", "{overrun}", "Times that work ran on after its lock had ended.", ())
LOCK_OVERRUN_TIME = Metric("holdfast.lock.overrun", "counter", "s", "For how long it ran on outside of its lock, in all.", ())
LOCK_LOSSES = Metric("holdfast.lock.losses", "counter", "{lock}", "Locks that were lost before their time, or could not be given back.", ())

FLEET_LOSSES = Metric("holdfast.fleet.losses", "counter", "{loss}", "Times that this process went on without the fleet's store.", ())
FLEET_AWAY = Metric("holdfast.fleet.away", "counter", "s", "For how long it was without the store, in all, once that was over.", ())
FLEET_IGNORED = Metric("holdfast.fleet.ignored", "counter", "{item}", "What was in the store and not used, each kind once.", ())

POOL = ("pool",)
WORKERS = Metric("holdfast.workers.live", "gauge", "{process}", "Processes of the pool.", POOL, "max")
WORKERS_BUSY = Metric("holdfast.workers.busy", "gauge", "{request}", "Requests that the pool works on.", POOL, "max")
WORKERS_IDLE = Metric("holdfast.workers.idle", "gauge", "{request}", "Requests that it could take up at once.", POOL, "max")
WORKERS_QUEUE = Metric("holdfast.workers.queue", "gauge", "{request}", "Requests that nobody works on yet.", POOL, "max")
WORKERS_QUEUE_LIMIT = Metric("holdfast.workers.queue.limit", "gauge", "{request}", "How many may wait; more are turned away.", POOL, "max")
WORKERS_REQUESTS = Metric("holdfast.workers.requests", "counter", "{request}", "Requests that the pool took up.", POOL)
WORKERS_BUSY_TIME = Metric("holdfast.workers.busy_time", "counter", "s", "How long its workers worked, in all.", POOL)
WORKERS_WAIT = Metric("holdfast.workers.wait", "histogram", "s", "How long requests waited until a worker took them up.", POOL)
WORKERS_WAIT_TIME = Metric("holdfast.workers.wait_time", "counter", "s", "For how long they waited, in all.", POOL)

EVENTS = (
    *(CALLS, ATTEMPTS, ATTEMPT_DURATION, RETRIES, GAVE_UP, REFUSALS, HEDGES, FALLBACKS),
    *(BREAKER_TRANSITIONS, BUDGET_DECISIONS, OUTRUNS, OUTRUN_TIME),
    *(LOCK_WAIT, LOCK_OVERRUNS, LOCK_OVERRUN_TIME, LOCK_LOSSES, FLEET_LOSSES, FLEET_AWAY, FLEET_IGNORED),
)
GAUGES = (BREAKER_STATE, BUDGET_LEFT, IN_FLIGHT, LIMIT, WAITING, HOST_IN_FLIGHT, HOST_LIMIT, RATE_LIMIT_WAIT, HEDGE_DELAY)
POOL_GAUGES = (WORKERS, WORKERS_BUSY, WORKERS_IDLE, WORKERS_QUEUE, WORKERS_QUEUE_LIMIT)
POOL_COUNTERS = (WORKERS_REQUESTS, WORKERS_BUSY_TIME)

# Of OpenTelemetry's http.client.request.duration.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

OVERFLOW = "(other)"
NOBODY = "(none)"
_LONGEST = 120


class Names:
    """The names that get a label of their own: the first so many. A policy per user would fill memory here and in what collects metrics.

    Args:
        field: what the user calls `most`.
        most: how many, >= 1; every other name is `(other)`. What belongs to no policy is `(none)`.

    Raises:
        ValueError: `most` is out of its range.
    """

    def __init__(self, field: str, most: int) -> None:
        self._most = count(field, most)
        self._known = {"": NOBODY}
        self._lock = threading.Lock()

    def label(self, name: str) -> str:
        """The label of this name, now and ever after."""
        label = self._known.get(name)
        return self._learn(name) if label is None else label

    def _learn(self, name: str) -> str:
        with self._lock:
            if len(self._known) > self._most:
                return self._known.get(name, OVERFLOW)
            # Half of a surrogate pair cannot be encoded, and one such label would fail every scrape.
            return self._known.setdefault(name, name[:_LONGEST].encode("utf-8", "backslashreplace").decode())
