"""How incident 3 is run: which shop, which provider, in which moods of the network."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from holdfast.replay.apps.buyers import Buyers
from holdfast.replay.apps.orders_provider import Asked, OrdersProvider
from holdfast.replay.apps.provider import Mood
from holdfast.replay.load import Sample
from holdfast.replay.metrics import Metrics
from holdfast.replay.parts.nginx import Nginx
from holdfast.replay.parts.process import StartFailed, free_port
from holdfast.replay.stage import Stage
from holdfast.replay.watch import Watch

# The article's seconds: 99.99 % of the requests take at most 500 ms, rare ones 15 s. The timeout is twice the former.
USUAL, STALLED, TIMEOUT = 0.35, 15.0, 1.0
REFUSED = 0.02  # how long a provider that is down takes to say so
ATTEMPTS = 4
WARM = 5.0  # of the first phase: connections; not measured

RATES = {"authorize": 135.0, "order": 15.0}  # per second of the article's time

STORM, OUTAGE = 20.0, 25.0  # the outage is five times the budget's window


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of a run, in the article's seconds."""

    name: str
    length: float
    stall: float = 0.0
    status: int = 200


def spikes(length: float) -> Phase:
    """One request of 500 stalls. 142 s are 20,000 calls that count: below that a 99.99th percentile means little."""
    return Phase(name="spikes", length=length, stall=0.002)


storm = Phase(name="storm", length=STORM, stall=0.04)
outage = Phase(name="outage", length=OUTAGE, status=503)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run: modules of `apps`, what the network does, and whether nginx is between the two."""

    shop: str
    provider: str
    phases: tuple[Phase, ...]
    nginx: bool = False


PLANS = {
    "unprotected": Plan(shop="before.shop", provider="before.orders", phases=(spikes(40.0),)),
    "timeouts": Plan(shop="after.shop_timeouts", provider="before.orders", phases=(spikes(40.0),)),
    "retries by hand": Plan(shop="before.shop_retrying", provider="before.orders", phases=(spikes(20.0), storm, outage)),
    "protected": Plan(shop="after.shop", provider="after.orders", phases=(spikes(142.0), storm, outage)),
    "nginx": Plan(shop="before.shop", provider="after.orders", phases=(spikes(142.0), storm), nginx=True),
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one phase of a run gave; times count from its start."""

    samples: list[Sample]
    asked: list[Asked]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave."""

    stretches: Mapping[str, Stretch]
    orders: int  # that buyers wanted
    twice: int  # orders in the database beyond one for each cart
    watch: Watch  # of the shop's metrics; without holdfast there are none


def run(stage: Stage, folder: Path, plan: Plan, database_url: str) -> Run:
    """Do it."""
    with psycopg.connect(database_url, autocommit=True) as database:
        database.execute("DROP TABLE IF EXISTS orders, holdfast_idempotency")
        database.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, cart bigint NOT NULL)")
        provider = OrdersProvider(folder, plan.provider, database_url, stage.seed)
        with provider.process, _front(stage, folder, plan, provider) as url:
            buyers, watch = _buy(stage, folder, plan, provider, url)
            if storm in plan.phases:
                time.sleep(stage.seconds(STALLED))  # what still hangs arrives, and may make an order
        twice = database.execute("SELECT count(*) - count(DISTINCT cart) FROM orders").fetchall()[0][0]
    samples = buyers.samples()
    orders = sum(one.flow == "order" for one in samples)
    return Run(_stretches(stage, plan, samples, provider.asked(), buyers.start), orders, twice, watch)


def _buy(stage: Stage, folder: Path, plan: Plan, provider: OrdersProvider, url: str) -> tuple[Buyers, Watch]:
    metrics = Metrics(folder / "metrics")
    buyers = Buyers(
        plan.shop,
        rates={flow: stage.rate(rate) for flow, rate in RATES.items()},
        seconds=stage.seconds(sum(phase.length for phase in plan.phases)),
        seed=stage.seed,
        folder=folder,
        environment={"PROVIDER_URL": url, "SCALE": str(stage.scale), **metrics.environment},
    )
    provider.behave(_moods(stage, plan, buyers.start))
    gauges: dict[str, Callable[[], float | str | None]] = {
        "calls": lambda: metrics.total("holdfast_calls_total"),
        "attempts": lambda: metrics.total("holdfast_attempts_total"),
        "budget left": lambda: metrics.total("holdfast_budget_left"),
    }
    with buyers.process, Watch(buyers.start, stage.seconds(5.0), gauges) as watch:
        buyers.wait()
    return buyers, watch


def _moods(stage: Stage, plan: Plan, start: float) -> list[Mood]:
    moods: list[Mood] = []
    begin = 0.0
    for phase in plan.phases:
        median = stage.seconds(USUAL if phase.status == 200 else REFUSED)
        since = start + begin if moods else 0.0
        moods.append(Mood(since=since, median=median, stall=phase.stall, stalled=stage.seconds(STALLED), status=phase.status))
        begin += stage.seconds(phase.length)
    return moods


def _stretches(stage: Stage, plan: Plan, samples: list[Sample], asked: list[Asked], start: float) -> dict[str, Stretch]:
    found, begin = {}, 0.0
    for phase in plan.phases:
        end = begin + stage.seconds(phase.length)
        last = math.inf if phase is plan.phases[-1] else end  # a retry of the run's last moment comes a little later
        found[phase.name] = Stretch(
            [replace(one, at=one.at - begin) for one in samples if begin <= one.at < end],
            [replace(one, at=one.at - start - begin) for one in asked if begin <= one.at - start < last],
        )
        begin = end
    return found


@contextlib.contextmanager
def _front(stage: Stage, folder: Path, plan: Plan, provider: OrdersProvider) -> Iterator[str]:
    """The URL at which the shop finds the provider: its own, or that of an nginx in front."""
    if not plan.nginx:
        yield f"http://{provider.address}"
        return
    port = free_port()
    with Nginx(exported(stage, provider.address, port), port=port, folder=folder):
        yield f"http://127.0.0.1:{port}"


def exported(stage: Stage, upstream: str, port: int) -> str:
    """What `holdfast export nginx` makes of the shop's policy."""
    options = ["--upstream", f"provider={upstream}", "--listen", f"127.0.0.1:{port}", "--non-idempotent"]
    said = subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-m", "holdfast", "export", "nginx", "holdfast.replay.apps.after.shop:provider", *options],
        env={**os.environ, "PROVIDER_URL": "", "SCALE": str(stage.scale)},
        capture_output=True,
        text=True,
        check=False,
    )
    if said.returncode:
        raise StartFailed(f"holdfast export nginx: {said.stderr}")
    return said.stdout
