"""Incident 5: a Christmas crowd keeps clicking on a billing service that is down, and knocks it over each time it gets up.

Billing has ten gunicorn workers. The first requests make the rates from the database: 100 MB, in the worker that is asked. Cold, with a
crowd before it, all ten do so at once, and the container is killed for its memory; and again after its restart. With holdfast the rates are
made once, before the socket is there; the shop's breaker keeps the crowd off meanwhile; and a checkout that needs billing is refused
before its authorization, its queries and its prices.

Memory and the starts of processes cannot be sped up, so this incident has its true times, also where the others are scaled.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from holdfast.replay.figures import Points, between, per_minute
from holdfast.replay.load import Flow, Load, Sample
from holdfast.replay.metrics import Metrics
from holdfast.replay.parts.container import Container, MemoryLimit, Started
from holdfast.replay.parts.gunicorn import Gunicorn
from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from holdfast.replay.results import Chart, Claim, Figure, Headline, Incident, Mark, Series
from holdfast.replay.stage import Stage, difference
from holdfast.replay.watch import Watch

TITLE = "Hitting who is down"

WORKERS = 10
MEMORY = 512 * 2**20  # ten workers of 16 MB, and what three of them take to make the rates
TOKEN = "Bearer customer"  # noqa: S105  (the replay's own)

# Seconds, never scaled.
CROWD_FROM, CRASH_AT = 3.0, 4.0
ENDS = {"before": 15.0, "after": 20.0}  # long enough to be killed a few times, and to recover as late as the claim allows
RESTART_AFTER = 1.5
RECOVERED_WITHIN = 10.0
PATIENCE = 2.0

# Per second. Who gets an error clicks again, twice.
USUAL_RATE, CROWD_RATE = 8.0, 40.0
CLICKS, BETWEEN_CLICKS = 2, 0.4

_LOOK = 0.1  # how often gauges are read
_STRETCH = 0.5  # in which checkouts are counted
_LAST = 5.0  # before the end, when whoever can has recovered
_TAIL = 2.0  # of the load: in it the crowd still clicks, and what it gets is not counted, for its answers come when it has gone

_MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave; all times count from the load's start."""

    samples: list[Sample]
    steps: dict[str, list[float]]  # when the shop did which part of a checkout
    starts: list[Started]  # of billing's container
    watch: Watch
    limited_by: str
    end: float  # of the load

    @property
    def recovery(self) -> float | None:
        """Seconds from the first restart to the stretch from which on nine checkouts of ten succeed; None where that never comes."""
        restarted = next((one.at for one in self.starts if one.at > CRASH_AT), None)
        recovered = self.end - _TAIL
        while recovered > CRASH_AT and self.good(recovered - _STRETCH, recovered) >= 0.9:
            recovered -= _STRETCH
        return None if restarted is None or recovered > self.end - 2 * _TAIL else max(0.0, recovered - restarted)

    @property
    def down_until(self) -> float:
        """From the crash until then checkouts fail."""
        return self.end if self.recovery is None else CRASH_AT + RESTART_AFTER + self.recovery

    def good(self, begin: float, end: float) -> float:
        """The share of the checkouts due in a time that succeeded while the crowd was there; 1 where none was due."""
        due = between(self.samples, begin, end)
        return sum(one.good and one.at + one.latency < self.end for one in due) / len(due) if due else 1.0

    @property
    def good_at_the_end(self) -> float:
        """The same of the last seconds that count."""
        return self.good(self.end - _TAIL - _LAST, self.end - _TAIL)

    @property
    def kills(self) -> int:
        """How often billing was killed for its memory."""
        return sum(one.out_of_memory for one in self.starts)

    def count(self, step: str) -> int:
        """How often the shop did it while billing was down."""
        return sum(CRASH_AT <= at < self.down_until for at in self.steps.get(step, ()))

    def called(self) -> int:
        """How often billing was called while it was down. Behind a breaker the metrics know: not every checkout that gets there calls."""
        return self._read("calls", self.count("asked"))

    def in_vain(self) -> int:
        """How many of these calls failed; without holdfast nobody counts them, and hardly one did not."""
        return self._read("failed", self.count("asked"))

    def _read(self, gauge: str, without: int) -> int:
        read = self.watch.numbers(gauge, CRASH_AT - 1.5 * _LOOK, self.down_until)
        return int(read[-1] - read[0]) if read else without


def play(stage: Stage) -> Incident:
    """Run it without holdfast and with it."""
    with postgres_server() as database:
        _customers(database)
        runs = {}
        for name, side in (("unprotected", "before"), ("protected", "after")):
            stage.tell(f"{name}: billing is killed while a crowd clicks")
            runs[name] = _run(stage, stage.subfolder(name), side, database.url)
    return Incident(
        number=5,
        title=TITLE,
        story=(
            "A billing service makes 100 MB of rates in each of its ten workers when their first requests come. It is restarted in the "
            "Christmas rush, and whenever it gets up, the crowd makes all ten do so at once: it is killed for its memory, again and again. "
            "Every checkout does all of its work before it finds out."
        ),
        runs={name: _figures(run) for name, run in runs.items()},
        charts=_charts(runs),
        claims=[*_shown(runs["unprotected"]), *_kept(runs)],
        difference=difference("checkout") + difference("billing"),
        headlines=_headlines(runs),
    )


def _headlines(runs: dict[str, Run]) -> list[Headline]:
    recovery = {name: _said(run.recovery) for name, run in runs.items()}
    kills = {name: str(run.kills) for name, run in runs.items()}
    vain = {name: f"{run.in_vain() / (run.down_until - CRASH_AT):.1f} per second" for name, run in runs.items()}
    return [
        Headline(what="time from the restart until checkouts succeed again", **recovery),
        Headline(what="times that billing is killed for its memory", **kills),
        Headline(what="calls in vain while it is down", **vain),
    ]


def _said(recovery: float | None) -> str:
    return "never" if recovery is None else f"{recovery:.1f} s"


def _customers(database: PostgresServer) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE customers (token_hash text PRIMARY KEY, name text NOT NULL)")
        connection.execute("INSERT INTO customers VALUES (%s, 'a customer')", (hashlib.sha256(TOKEN.encode()).hexdigest(),))
        connection.execute("CREATE TABLE items AS SELECT n * 0.99::float AS price, n % 5 AS discount FROM generate_series(1, 1000) n")


def _run(stage: Stage, folder: Path, side: str, database_url: str) -> Run:
    metrics = Metrics(folder / "metrics")
    cache, steps = folder / "cache", folder / "steps"
    steps.touch()

    def fresh() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()

    with MemoryLimit(MEMORY, "billing") as limit:
        place = folder / "billing"
        place.mkdir()
        warm = "preload_app = True\non_starting = pool.on_starting\n" if side == "after" else ""
        billing = Gunicorn(
            f"holdfast.replay.apps.{side}.billing:app",
            workers=WORKERS,
            folder=place,
            environment={"CACHE_DIR": str(cache)},
            config=f"{limit.joining}\n{warm}",
            name="billing",
        )
        shop = Gunicorn(
            f"holdfast.replay.apps.{side}.checkout:app",
            workers=1,
            folder=folder,
            environment={"BILLING_URL": billing.url, "DATABASE_URL": database_url, "STEPS_FILE": str(steps), **metrics.environment},
            config="worker_class = 'gthread'\nthreads = 32\n",
            name="shop",
        )
        with Container(billing, limit, delay=RESTART_AFTER, fresh=fresh) as container, shop.process:
            _first_request(billing)
            load = Load(_flows(shop.url), seconds=ENDS[side], seed=stage.seed, folder=folder)
            gauges: dict[str, Callable[[], float | str | None]] = {
                "memory": lambda: limit.used() / _MEGABYTE,
                "breaker": lambda: metrics.breaker_state("billing"),
                "calls": lambda: metrics.total("holdfast_attempts_total", policy="billing"),
                "failed": lambda: metrics.total("holdfast_attempts_total", policy="billing", verdict="failure") or _none_yet(metrics),
            }
            with load, Watch(load.start, _LOOK, gauges) as watch, _at(load.start + CRASH_AT, container.crash):
                samples = load.samples()
        starts = [_since(load.start, one) for one in container.starts]
        return Run(samples, _read_steps(steps, load.start), starts, watch, limit.kind, ENDS[side])


def _first_request(billing: Gunicorn) -> None:
    """One customer on a quiet day: without holdfast this is who makes the rates."""
    connection = http.client.HTTPConnection("127.0.0.1", billing.port, timeout=30)
    try:
        connection.request("POST", "/tax", json.dumps({"price": 1.0}), {"Content-Type": "application/json"})
        connection.getresponse().read()
    finally:
        connection.close()


def _flows(url: str) -> list[Flow]:
    click = {"method": "POST", "headers": {"Authorization": TOKEN}, "patience": PATIENCE}
    return [
        Flow(name="usual", url=f"{url}/checkout", rate=USUAL_RATE, end=CROWD_FROM, **click),  # type: ignore[arg-type]  # a mixed mapping
        Flow(name="crowd", url=f"{url}/checkout", rate=CROWD_RATE, begin=CROWD_FROM, again=CLICKS, pause=BETWEEN_CLICKS, **click),  # type: ignore[arg-type]  # likewise
    ]


@contextlib.contextmanager
def _at(moment: float, do: Callable[[], None]) -> Iterator[None]:
    """Do it at that time of the monotonic clock, beside the block."""
    timer = threading.Timer(max(0.0, moment - time.monotonic()), do)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _none_yet(metrics: Metrics) -> float | None:
    """0 where calls are counted and none has failed; None where nobody counts."""
    return None if metrics.total("holdfast_attempts_total", policy="billing") is None else 0.0


def _since(start: float, one: Started) -> Started:
    return Started(
        one.at - start,
        None if one.ready is None else one.ready - start,
        None if one.ended is None else one.ended - start,
        one.out_of_memory,
    )


def _read_steps(path: Path, start: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in path.read_text().splitlines():
        at, name = line.split()
        found.setdefault(name, []).append(float(at) - start)
    return found


def _figures(run: Run) -> dict[str, Figure]:
    failed = [one for one in between(run.samples, CRASH_AT, run.down_until) if not one.good]
    return {
        "killed_for_memory": run.kills,
        "starts": len(run.starts),
        "recovery_s": None if run.recovery is None else round(run.recovery, 2),
        "memory_peak_mb": round(max(run.watch.numbers("memory", 0.0, run.end))),
        "good_share_at_the_end": round(run.good_at_the_end, 4),
        "failed_checkouts": len(failed),
        "calls_in_vain": run.in_vain(),
        "calls_in_vain_per_s": round(run.in_vain() / (run.down_until - CRASH_AT), 2),
        "begun_while_down": run.count("authorized"),
        "checkouts": len(run.samples),
        "limited_by": run.limited_by,
    }


def _shown(run: Run) -> list[Claim]:
    """What the unprotected run must show: the incident."""
    return [
        Claim(
            text="Unprotected: billing is killed for its memory, restarted, and killed again",
            bar="at least twice",
            measured=f"{run.kills} times in {run.end - CRASH_AT:g} s, by {run.limited_by} at {MEMORY // _MEGABYTE} MB",
            held=run.kills >= 2,
        ),
        Claim(
            text="Unprotected: it does not recover as long as the crowd clicks",
            bar=f"below 20 % of the checkouts of {_LAST:g} s succeed, from {run.end - _TAIL - _LAST - CRASH_AT:g} s after the crash on",
            measured=f"{100 * run.good_at_the_end:.0f} %",
            held=run.good_at_the_end < 0.2,
        ),
    ]


def _kept(runs: dict[str, Run]) -> list[Claim]:
    """What the protected run must keep."""
    run, bare = runs["protected"], runs["unprotected"]
    recovery = run.recovery
    rate, bare_rate = (one.in_vain() / (one.down_until - CRASH_AT) for one in (run, bare))
    begun, called = run.count("authorized"), run.called()
    attempts = sum(one.attempts for one in between(run.samples, CRASH_AT, run.down_until))
    return [
        Claim(
            text="Protected: billing recovers after its restart, with the crowd before it",
            bar=f"within {RECOVERED_WITHIN:g} s, and never killed for its memory",
            measured=f"{_said(recovery)}, killed {run.kills} times",
            held=recovery is not None and recovery <= RECOVERED_WITHIN and not run.kills,
        ),
        Claim(
            text="Protected: while billing is down it is hardly called",
            bar="95 % fewer calls a second than unprotected",
            measured=f"{100 * (1 - rate / bare_rate):.1f} % fewer ({rate:.1f} a second, {bare_rate:.1f} unprotected)",
            held=rate <= 0.05 * bare_rate,
        ),
        Claim(
            text="Protected: a checkout that must fail is refused before its authorization, its query and its prices",
            bar="at most 1 % of those that were not let through to billing did any of it",
            measured=f"{max(0, begun - called)} of {attempts - called}; {called} called billing to see whether it is back",
            held=begun - called <= 0.01 * (attempts - called),
        ),
        Claim(
            text="Unprotected, every checkout that must fail does all of it",
            bar="at least 90 % of the calls of a dead billing had their authorization, query and prices",
            measured=f"{bare.count('priced')} prices for {bare.called()} calls",
            held=bare.count("priced") >= 0.9 * bare.called() > 0,
        ),
    ]


# Charts.

_MARKS = (Mark(at=CROWD_FROM, label="the crowd comes"), Mark(at=CRASH_AT, label="billing is killed"))

_WORK = (("authorizations", "authorized"), ("queries", "queried"), ("prices", "priced"))


def _charts(runs: dict[str, Run]) -> list[Chart]:
    return [_memory(runs), _succeeded(runs), _work(runs), _breaker(runs["protected"])]


def _memory(runs: dict[str, Run]) -> Chart:
    limit = MEMORY / _MEGABYTE
    used = [Series(name="all its processes", run=name, points=run.watch.series("memory")) for name, run in runs.items()]
    return Chart(
        title="Memory of billing",
        unit="MB",
        kind="line",
        series=[*used, Series(name="limit", run="", points=[(0.0, limit), (max(ENDS.values()), limit)])],
        marks=_MARKS,
        note="Without holdfast every start ends at the limit. With it the rates are made once, in the master.",
    )


def _succeeded(runs: dict[str, Run]) -> Chart:
    def points(run: Run) -> Points:
        return per_minute((one.at for one in run.samples if one.good and one.at + one.latency < run.end), _STRETCH, run.end - _TAIL)

    return Chart(
        title="Checkouts that succeed",
        unit="per minute",
        kind="line",
        series=[Series(name="checkouts", run=name, points=points(run)) for name, run in runs.items()],
        marks=_MARKS,
        note="By when they were due.",
    )


def _work(runs: dict[str, Run]) -> Chart:
    def points(run: Run) -> Points:
        down = run.down_until - CRASH_AT
        return [*((what, run.count(step) / down) for what, step in _WORK), ("calls of billing in vain", run.in_vain() / down)]

    return Chart(
        title="Work of the shop while billing is down",
        unit="per second",
        kind="bars",
        series=[Series(name="while billing is down", run=name, points=points(run)) for name, run in runs.items()],
        note="With holdfast a checkout is refused before all of it; a few are let through to see whether billing is back.",
    )


def _breaker(run: Run) -> Chart:
    return Chart(
        title="The breaker, from holdfast's metrics",
        unit="",
        kind="band",
        series=[Series(name="billing", run="protected", points=_changes(run.watch.series("breaker")))],
        marks=_MARKS,
    )


def _changes(points: Points) -> Points:
    """The moments at which a state began."""
    known = [point for point in points if point[1] is not None]
    return [point for before, point in zip([(0.0, None), *known], known, strict=False) if point[1] != before[1]]
