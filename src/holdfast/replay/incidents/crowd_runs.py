"""How incident 5 is run: billing in a container that may use so much memory, a shop, a crowd, and what is seen of them."""

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

from holdfast.replay.figures import between
from holdfast.replay.load import Flow, Load, Sample
from holdfast.replay.metrics import Metrics
from holdfast.replay.parts.container import Container, MemoryLimit, Started
from holdfast.replay.parts.gunicorn import Gunicorn
from holdfast.replay.parts.postgres import PostgresServer
from holdfast.replay.stage import Stage
from holdfast.replay.watch import Watch

WORKERS = 10
MEMORY = 512 * 2**20  # ten workers of 16 MB, and what three of them take to make the rates
TOKEN = "Bearer customer"  # noqa: S105  (the replay's own)

# Seconds, never scaled.
CROWD_FROM, CRASH_AT = 3.0, 4.0
ENDS = {"before": 15.0, "after": 20.0}  # long enough to be killed a few times, and to recover as late as the claim allows
RESTART_AFTER = 1.5
PATIENCE = 2.0

# Per second. Who gets an error clicks again, twice.
USUAL_RATE, CROWD_RATE = 8.0, 40.0
CLICKS, BETWEEN_CLICKS = 2, 0.4

_LOOK = 0.1  # how often gauges are read
STRETCH = 0.5  # in which checkouts are counted
LAST = 5.0  # before the end, when whoever can has recovered
TAIL = 2.0  # of the load: in it the crowd still clicks, and what it gets is not counted, for its answers come when it has gone

MEGABYTE = 2**20


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
        recovered = self.end - TAIL
        while recovered > CRASH_AT and self.good(recovered - STRETCH, recovered) >= 0.9:
            recovered -= STRETCH
        return None if restarted is None or recovered > self.end - 2 * TAIL else max(0.0, recovered - restarted)

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
        return self.good(self.end - TAIL - LAST, self.end - TAIL)

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


def customers(database: PostgresServer) -> None:
    """Make the shop's tables."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE customers (token_hash text PRIMARY KEY, name text NOT NULL)")
        connection.execute("INSERT INTO customers VALUES (%s, 'a customer')", (hashlib.sha256(TOKEN.encode()).hexdigest(),))
        connection.execute("CREATE TABLE items AS SELECT n * 0.99::float AS price, n % 5 AS discount FROM generate_series(1, 1000) n")


def run_side(stage: Stage, folder: Path, side: str, database_url: str) -> Run:
    """Crash billing while the crowd clicks.

    Args:
        stage: of the incident.
        folder: for what the run leaves.
        side: whose applications: "before" or "after".
        database_url: of the database with the `customers`.
    """
    metrics = Metrics(folder / "metrics")
    cache, steps = folder / "cache", folder / "steps"
    steps.touch()

    def fresh() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()

    with MemoryLimit(MEMORY, "billing") as limit:
        billing = _billing(folder, side, cache, limit)
        shop = _shop(
            folder, side, {"BILLING_URL": billing.url, "DATABASE_URL": database_url, "STEPS_FILE": str(steps), **metrics.environment}
        )
        with Container(billing, limit, delay=RESTART_AFTER, fresh=fresh) as container, shop.process:
            _first_request(billing)
            load = Load(_flows(shop.url), seconds=ENDS[side], seed=stage.seed, folder=folder)
            watch = Watch(load.start, _LOOK, _gauges(metrics, limit))
            with load, watch, _at(load.start + CRASH_AT, container.crash):
                samples = load.samples()
        starts = [_since(load.start, one) for one in container.starts]
        return Run(samples, _read_steps(steps, load.start), starts, watch, limit.kind, ENDS[side])


def _billing(folder: Path, side: str, cache: Path, limit: MemoryLimit) -> Gunicorn:
    place = folder / "billing"
    place.mkdir()
    warm = "preload_app = True\non_starting = pool.on_starting\n" if side == "after" else ""
    return Gunicorn(
        f"holdfast.replay.apps.{side}.billing:app",
        workers=WORKERS,
        folder=place,
        environment={"CACHE_DIR": str(cache)},
        config=f"{limit.joining}\n{warm}",
        name="billing",
    )


def _shop(folder: Path, side: str, environment: dict[str, str]) -> Gunicorn:
    return Gunicorn(
        f"holdfast.replay.apps.{side}.checkout:app",
        workers=1,
        folder=folder,
        environment=environment,
        config="worker_class = 'gthread'\nthreads = 32\n",
        name="shop",
    )


def _gauges(metrics: Metrics, limit: MemoryLimit) -> dict[str, Callable[[], float | str | None]]:
    return {
        "memory": lambda: limit.used() / MEGABYTE,
        "breaker": lambda: metrics.breaker_state("billing"),
        "calls": lambda: metrics.total("holdfast_attempts_total", policy="billing"),
        "failed": lambda: metrics.total("holdfast_attempts_total", policy="billing", verdict="failure") or _none_yet(metrics),
    }


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
