"""Incident 1: an authorization provider slows down, and partners who do not need it wait for minutes.

A gateway has ten gunicorn sync workers. Its customers' requests ask the provider, its partners' requests only compare an API key's hash
in the database. The provider goes from 500 ms to 5 s. Without holdfast every worker soon waits for it, burning no CPU, and partners queue
behind customers. With holdfast at most seven workers wait for the provider, each no longer than 1 s.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from holdfast.replay.apps.provider import Mood, Provider, Served
from holdfast.replay.figures import Points, between, changes, means, over_time, per_minute, per_run, percentiles, rate
from holdfast.replay.load import Flow, Load, Sample
from holdfast.replay.metrics import Metrics
from holdfast.replay.parts.gunicorn import Gunicorn
from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from holdfast.replay.results import Chart, Claim, Figure, Headline, Incident, Mark, Series
from holdfast.replay.stage import Stage, difference
from holdfast.replay.watch import Watch
from holdfast.servers import workers

TITLE = "A slow provider starves the pool"

WORKERS = 10
API_KEY = "partner-key"

# The article's seconds. The SLA is the article's advice: with a timeout of 1 s, answers within 1-2 s.
USUAL, SLOW, SLA = 0.5, 5.0, 2.0
SLOW_FROM, SLOW_UNTIL, END = 75.0, 170.0, 215.0
WARM = 15.0  # connections and caches; not measured
AGAIN_WITHIN = 25.0  # how long after the provider's recovery customers may still be refused: pause of the breaker and two probes a worker
PATIENCE = 10.0  # the partner's requests "took more than 10 seconds"

# Per second of the article's time: on average 2 of the 10 workers wait for the provider while it is well, and 20 would while it is not.
CLIENT_RATE, S2S_RATE = 4.0, 10.0


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave."""

    samples: list[Sample]
    provider: list[Served]  # `at` counts from the load's start
    watch: Watch


def play(stage: Stage) -> Incident:
    """Run it without holdfast and with it."""
    with postgres_server() as database:
        _partners(database)
        runs = {}
        for name, side in (("unprotected", "before"), ("protected", "after")):
            stage.tell(f"{name}: {WORKERS} sync workers, the provider slows down tenfold")
            runs[name] = _run(stage, stage.subfolder(name), side, database.url)
    return Incident(
        number=1,
        title=TITLE,
        story=(
            "A gateway's customers are checked by an authorization provider, its partners by an API key in its own database. "
            "The provider goes from 500 ms to 5 s. All workers wait for it, and partners queue behind customers."
        ),
        runs={name: _figures(stage, run) for name, run in runs.items()},
        charts=_charts(stage, runs),
        claims=[*_shown(stage, runs["unprotected"]), *_kept(stage, runs["protected"])],
        difference=difference("gateway"),
        headlines=_headlines(stage, runs),
    )


def _headlines(stage: Stage, runs: dict[str, Run]) -> list[Headline]:
    _, slow = _phases(stage)
    answered = {name: f"{100 * _answered(run, 'S2S', *slow):.0f} %" for name, run in runs.items()}
    tail = {name: f"{_latency(run, 'S2S', 99, *slow):.0f} ms" for name, run in runs.items()}
    busy = {name: f"{statistics.median(run.watch.numbers('busy', *slow)):g} of {WORKERS}" for name, run in runs.items()}
    return [
        Headline(what="partners' requests answered while the provider is slow", **answered),
        Headline(what="their 99th percentile", **tail),
        Headline(what="workers busy (median)", **busy),
    ]


def _partners(database: PostgresServer) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE partners (key_hash text PRIMARY KEY, name text NOT NULL)")
        known = hashlib.sha256(API_KEY.encode()).hexdigest()
        connection.execute("INSERT INTO partners VALUES (%s, 'a partner')", (known,))
        # As many as to make the look-up one of an index.
        connection.execute("INSERT INTO partners SELECT md5(n::text), 'partner ' || n FROM generate_series(1, 10000) n")
        connection.execute("ANALYZE partners")


def _run(stage: Stage, folder: Path, side: str, database_url: str) -> Run:
    provider = Provider(folder, stage.seed)
    metrics = Metrics(folder / "metrics")
    environment = {
        "AUTHORIZATION_URL": provider.url,
        "DATABASE_URL": database_url,
        "SCALE": str(stage.scale),
        **metrics.environment,
    }
    gateway = Gunicorn(f"holdfast.replay.apps.{side}.gateway:app", workers=WORKERS, folder=folder, environment=environment)
    with provider.process, gateway.process:
        load = Load(_flows(stage, gateway.url), seconds=stage.seconds(END), seed=stage.seed, folder=folder)
        provider.behave(
            [
                Mood(since=0.0, median=stage.seconds(USUAL)),
                Mood(since=load.start + stage.seconds(SLOW_FROM), median=stage.seconds(SLOW)),
                Mood(since=load.start + stage.seconds(SLOW_UNTIL), median=stage.seconds(USUAL)),
            ]
        )
        gauges: dict[str, Callable[[], float | str | None]] = {
            "busy": lambda: workers.snapshot(gateway.pool)["busy"],
            "queue": lambda: workers.snapshot(gateway.pool)["queue"],
            "cpu": gateway.cpu_seconds,
            "breaker": lambda: metrics.breaker_state("authorization"),
            "succeeded": lambda: metrics.total("holdfast_attempts_total", verdict="success"),
            "failed": lambda: metrics.total("holdfast_attempts_total", verdict="failure"),
            "refused": lambda: metrics.total("holdfast_refusals_total"),
        }
        with load, Watch(load.start, stage.seconds(2.0), gauges) as watch:
            samples = load.samples()
    served = [Served(one.path, one.at - load.start, one.took, one.status) for one in provider.served()]
    return Run(samples, served, watch)


def _flows(stage: Stage, url: str) -> list[Flow]:
    patience = stage.seconds(PATIENCE)
    return [
        Flow(name="client", url=f"{url}/cart", rate=stage.rate(CLIENT_RATE), headers={"Authorization": "Bearer {id}"}, patience=patience),
        Flow(name="S2S", url=f"{url}/stock", rate=stage.rate(S2S_RATE), headers={"X-Api-Key": API_KEY}, patience=patience),
    ]


def _phases(stage: Stage) -> tuple[tuple[float, float], tuple[float, float]]:
    """When the provider was well, and when it was slow and everybody had felt it."""
    return (stage.seconds(WARM), stage.seconds(SLOW_FROM)), (stage.seconds(SLOW_FROM), stage.seconds(SLOW_UNTIL))


def _answered(run: Run, flow: str, begin: float, end: float) -> float:
    """Good answers given in a time, as a share of the requests that fell due in it."""
    given = sum(one.good and begin <= one.at + one.latency < end for one in run.samples if one.flow == flow)
    return given / len(between(run.samples, begin, end, flow))


def _cpu(run: Run, begin: float, end: float) -> float:
    """Cores that the gateway used."""
    read = run.watch.numbers("cpu", begin, end)
    return (read[-1] - read[0]) / (end - begin)


def _latency(run: Run, flow: str, percent: float, begin: float, end: float) -> float:
    """In ms."""
    return percentiles((one.latency * 1e3 for one in between(run.samples, begin, end, flow)), percent)[0]


def _figures(stage: Stage, run: Run) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for phase, (begin, end) in zip(("baseline", "slow"), _phases(stage), strict=True):
        for flow in ("S2S", "client"):
            figures[f"{flow.lower()}_answered_share_{phase}"] = round(_answered(run, flow, begin, end), 4)
            for percent in (50, 99, 99.99):
                name = f"{flow.lower()}_p{percent:g}_ms_{phase}".replace(".", "_")
                figures[name] = round(_latency(run, flow, percent, begin, end), 1)
        figures[f"workers_busy_median_{phase}"] = statistics.median(run.watch.numbers("busy", begin, end))
        figures[f"queue_max_{phase}"] = max(run.watch.numbers("queue", begin, end))
        figures[f"cpu_cores_{phase}"] = round(_cpu(run, begin, end), 2)
    figures["requests"] = len(run.samples)
    figures["generator_late_p99_ms"] = round(percentiles((one.late * 1e3 for one in run.samples), 99)[0], 1)
    return figures


def _shown(stage: Stage, run: Run) -> list[Claim]:
    """What the unprotected run must show: the incident."""
    calm, slow = _phases(stage)
    before, during = _answered(run, "S2S", *calm), _answered(run, "S2S", *slow)
    busy, cpu = statistics.median(run.watch.numbers("busy", *slow)), _cpu(run, *slow)
    queue = max(run.watch.numbers("queue", *slow))
    return [
        Claim(
            text="Unprotected: partners' requests, which do not need the provider, are answered less than half as often",
            bar="below 50 % of the baseline",
            measured=f"{100 * during / before:.0f} % ({100 * during:.0f} % of the requests, {100 * before:.0f} % before)",
            held=during < before / 2,
        ),
        Claim(
            text="Worker saturation is visible while the CPU is not busy",
            bar=f"at least {WORKERS - 1} of {WORKERS} workers busy and a queue, below half a core",
            measured=f"{busy:g} busy (median), queue up to {queue:g}, {cpu:.2f} cores",
            held=busy >= WORKERS - 1 and queue > 0 and cpu < 0.5,
        ),
    ]


def _kept(stage: Stage, run: Run) -> list[Claim]:
    """What the protected run must keep."""
    calm, slow = _phases(stage)
    before, during = _answered(run, "S2S", *calm), _answered(run, "S2S", *slow)
    usual, tail = _latency(run, "S2S", 99, *calm), _latency(run, "S2S", 99, *slow)
    clients = between(run.samples, *slow, "client")
    worst = max(one.latency for one in clients)
    silent = sum(not one.status for one in clients)
    return [
        Claim(
            text="Protected: partners' throughput stays at its baseline",
            bar="within 1 %",
            measured=f"{100 * (during / before - 1):+.2f} % ({100 * during:.2f} % of the requests answered, {100 * before:.2f} % before)",
            held=abs(during / before - 1) <= 0.01,
        ),
        Claim(
            text="Protected: partners' 99th percentile stays at its baseline",
            bar="at most 1.5 x",
            measured=f"{tail / usual:.2f} x ({tail:.1f} ms, {usual:.1f} ms before)",
            held=tail <= 1.5 * usual,
        ),
        Claim(
            text="Protected: customers get an answer or an error within the SLA",
            bar=f"all within {stage.seconds(SLA) * 1e3:.0f} ms",
            measured=f"slowest {worst * 1e3:.0f} ms of {len(clients)}, {silent} without an answer",
            held=worst <= stage.seconds(SLA) and not silent,
        ),
        _back(stage, run),
    ]


def _back(stage: Stage, run: Run) -> Claim:
    since = stage.seconds(SLOW_UNTIL + AGAIN_WITHIN)
    later = between(run.samples, since, stage.seconds(END), "client")
    good = sum(one.good for one in later)
    return Claim(
        text=f"Protected: customers are served again {stage.seconds(AGAIN_WITHIN):g} s after the provider's recovery",
        bar="at least 90 %",
        measured=f"{100 * good / len(later):.1f} % of {len(later)}",
        held=good >= 0.9 * len(later),
    )


def _charts(stage: Stage, runs: dict[str, Run]) -> list[Chart]:
    marks = [Mark(at=stage.seconds(SLOW_FROM), label="provider slow", until=stage.seconds(SLOW_UNTIL))]
    return [*_of_load(stage, runs, marks), *_of_gateway(stage, runs, marks), *_of_metrics(stage, runs["protected"], marks)]


def _of_load(stage: Stage, runs: dict[str, Run], marks: list[Mark]) -> list[Chart]:
    """What the article's operators saw, and the users."""
    end, width = stage.seconds(END), stage.seconds(5.0)
    _, slow = _phases(stage)

    def answered(run: Run, flow: str) -> Points:
        return per_minute((one.at + one.latency for one in run.samples if one.flow == flow and one.good), width, end)

    def per_flow(flow: str, who: str, note: str) -> Chart:
        series = per_run(flow, runs, lambda run: answered(run, flow))
        title = f"Requests per minute, {who}"
        return Chart(title=title, unit="good answers per minute", kind="line", series=series, marks=marks, note=note)

    return [
        Chart(
            title="Median response time of the provider",
            unit="ms",
            kind="line",
            series=per_run("provider", runs, lambda run: over_time(((s.at, s.took * 1e3) for s in run.provider if s.at >= 0), width, end)),
            marks=marks,
            note="What its caller sees: with holdfast the caller leaves at the attempt timeout.",
        ),
        per_flow("S2S", "partners (S2S)", "They do not need the provider: with holdfast nothing happens to them."),
        per_flow("client", "customers", "Who needs the provider cannot be served while it is slow; with holdfast they hear so at once."),
        Chart(
            title="Latency while the provider is slow",
            unit="ms",
            kind="bars",
            series=[
                Series(name=flow, run=name, points=[(f"p{percent:g}", _latency(run, flow, percent, *slow)) for percent in (50, 99, 99.99)])
                for flow in ("S2S", "client")
                for name, run in runs.items()
            ],
            logarithmic=True,
        ),
    ]


def _of_gateway(stage: Stage, runs: dict[str, Run], marks: list[Mark]) -> list[Chart]:
    """What tells that workers are short, and what does not."""
    end, width = stage.seconds(END), stage.seconds(5.0)

    def gauge(name: str) -> list[Series]:
        return per_run(name, runs, lambda run: means(run.watch.series(name), width, end))

    return [
        Chart(
            title="Workers busy",
            unit=f"of {WORKERS}",
            kind="line",
            series=gauge("busy"),
            marks=marks,
            note="With holdfast at least three of them are left for who does not need the provider.",
        ),
        Chart(title="Requests in the accept queue", unit="requests", kind="line", series=gauge("queue"), marks=marks),
        Chart(
            title="CPU of the gateway",
            unit="cores",
            kind="line",
            series=per_run("CPU", runs, lambda run: [*rate(run.watch.series("cpu"))]),
            marks=marks,
            note="An autoscaler that looks at this sees nothing to do.",
        ),
    ]


def _of_metrics(stage: Stage, run: Run, marks: list[Mark]) -> list[Chart]:
    """From holdfast's own metrics, of the protected run."""
    return [
        Chart(
            title="The breaker, from holdfast's metrics",
            unit="",
            kind="band",
            series=[Series(name="authorization", run="protected", points=changes(run.watch.series("breaker"), stage.seconds(END)))],
            marks=marks,
            note="The worst state of ten workers, each with a breaker of its own.",
        ),
        Chart(
            title="What holdfast did, from its metrics",
            unit="calls per minute",
            kind="line",
            series=[
                Series(name=name, run="protected", points=[(at, 60 * each) for at, each in rate(run.watch.series(name))])
                for name in ("succeeded", "failed", "refused")
            ],
            marks=marks,
            note="Most customers are refused at once, by breaker or bulkhead; the few that fail are probes that ran into the timeout.",
        ),
    ]
