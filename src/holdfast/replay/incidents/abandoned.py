"""Incident 4: clients give up and try again, and the server works on for those who have left.

A store promises answers within 1 s. A new personalization takes 10 s for some customers. Their clients wait for 2 s, give up, and try
again; each attempt takes another worker. Without holdfast soon all workers are busy with answers that nobody waits for, and everybody else
queues behind them. With holdfast a request ends at the SLA, its transaction is rolled back, and who has waited too long is not worked on.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from holdfast.replay.figures import Points, between, means, per_minute, per_run, percentiles
from holdfast.replay.load import Flow, Load, Sample
from holdfast.replay.parts.gunicorn import Gunicorn
from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from holdfast.replay.results import Chart, Claim, Figure, Headline, Incident, Mark, Series
from holdfast.replay.stage import Stage, difference
from holdfast.replay.watch import Watch
from holdfast.servers import workers

TITLE = "Clients give up, the server works on"

WORKERS = 12

# The article's seconds.
SLA, PATIENCE = 1.0, 2.0
WARM, STORM_FROM, END = 15.0, 50.0, 160.0
FELT = 15.0  # after which the storm has filled what it fills

# Per second of the article's time. The slow customers' 10 s alone would need 8 workers, and with two more attempts each 24.
ITEM_RATE, ORDER_RATE, SLOW_RATE = 3.0, 0.5, 0.8
AGAIN, PAUSE = 2, 0.5

# What the kernel tells of a request's arrival has a grain of 10 ms at most, see holdfast.servers.kernel.
_GRAIN = 0.01

# Each worker writes down its requests, with holdfast and without: when the request arrived, and from when to when it was worked on.
_BOOK = """
import time
from holdfast.servers.kernel import since_data

def pre_request(worker, req):
    worker.began = time.monotonic()

def post_request(worker, req, environ, resp):
    ended = time.monotonic()
    waited = since_data(environ["gunicorn.socket"])
    with open({folder!r} + f"/book-{{worker.pid}}.csv", "a") as book:
        book.write(f"{{req.path}},{{ended - waited:.6f}},{{worker.began:.6f}},{{ended:.6f}}\\n")
"""


@dataclass(frozen=True, slots=True)
class Work:
    """One request as a worker saw it; times count from the load's start.

    Args:
        path: of the request.
        arrived: when its last byte reached the machine.
        began, ended: from when to when a worker was busy with it.
    """

    path: str
    arrived: float
    began: float
    ended: float

    def abandoned(self, patience: float) -> float:
        """Seconds of a worker that went into it after its client had left."""
        left = self.arrived + patience + _GRAIN
        return max(0.0, self.ended - max(self.began, left))


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave."""

    samples: list[Sample]
    work: list[Work]
    watch: Watch
    open_transactions: int  # when the last client had left, and a request's time had passed once more
    half_orders: int
    orders: int


def play(stage: Stage) -> Incident:
    """Run it without holdfast and with it."""
    with postgres_server() as database:
        runs = {}
        for name, side in (("unprotected", "before"), ("protected", "after")):
            stage.tell(f"{name}: {WORKERS} sync workers, a personalization of 10 s for some, clients that leave after 2 s")
            _tables(database)
            runs[name] = _run(stage, stage.subfolder(name), side, database)
    return Incident(
        number=4,
        title=TITLE,
        story=(
            "A store promises answers within 1 s, and a new personalization takes 10 s for some customers. Their clients give up after 2 s "
            "and try again. The first attempt still has its worker, the second takes another."
        ),
        runs={name: _figures(stage, run) for name, run in runs.items()},
        charts=_charts(stage, runs),
        claims=[*_shown(stage, runs["unprotected"]), *_kept(stage, runs["protected"])],
        difference=difference("store"),
        headlines=_headlines(stage, runs),
    )


def _headlines(stage: Stage, runs: dict[str, Run]) -> list[Headline]:
    _, storm = _phases(stage)
    served = {name: f"{100 * _good(run, *storm):.0f} %" for name, run in runs.items()}
    abandoned = {name: f"{100 * _abandoned(stage, run):.0f} %" for name, run in runs.items()}
    still_open = {name: str(run.open_transactions) for name, run in runs.items()}
    return [
        Headline(what="worker time spent on clients who have left", **abandoned),
        Headline(what="other users' requests served in time", **served),
        Headline(what="transactions still open when all have left", **still_open),
    ]


def _tables(database: PostgresServer) -> None:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS order_lines, orders, items")
        connection.execute("CREATE TABLE items (id int PRIMARY KEY, name text NOT NULL, price int NOT NULL)")
        connection.execute("INSERT INTO items SELECT n, 'item ' || n, n FROM generate_series(1, 100) n")
        connection.execute("CREATE TABLE orders (id serial PRIMARY KEY, customer text NOT NULL, request text NOT NULL)")
        connection.execute("CREATE TABLE order_lines (order_id int REFERENCES orders, item_id int REFERENCES items, score int NOT NULL)")


def _run(stage: Stage, folder: Path, side: str, database: PostgresServer) -> Run:
    server = Gunicorn(
        f"holdfast.replay.apps.{side}.store:app",
        workers=WORKERS,
        folder=folder,
        environment={"DATABASE_URL": database.url, "SCALE": str(stage.scale)},
        config=_BOOK.format(folder=str(folder)),
    )
    with server.process:
        load = Load(_flows(stage, server.url), seconds=stage.seconds(END), seed=stage.seed, folder=folder)
        gauges: dict[str, Callable[[], float | str | None]] = {
            "busy": lambda: workers.snapshot(server.pool)["busy"],
            "queue": lambda: workers.snapshot(server.pool)["queue"],
        }
        with load, Watch(load.start, stage.seconds(1.0), gauges) as watch:
            samples = load.samples()
            time.sleep(stage.seconds(SLA) + 0.1)
        opened, half, orders = _looked_up(database)
    # The workers have ended, so each has written down what it worked on to the last.
    return Run(samples, list(_work(folder, load.start)), watch, opened, half, orders)


def _looked_up(database: PostgresServer) -> tuple[int, int, int]:
    """Transactions that are open, orders without their lines, and orders."""
    with psycopg.connect(database.url, autocommit=True) as connection:

        def count(query: str) -> int:
            row = connection.execute(query.encode()).fetchone()
            return 0 if row is None else int(row[0])

        return (
            count("SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND usename IS NOT NULL"),
            count("SELECT count(*) FROM orders WHERE NOT EXISTS (SELECT 1 FROM order_lines WHERE order_id = orders.id)"),
            count("SELECT count(*) FROM orders"),
        )


def _work(folder: Path, start: float) -> list[Work]:
    found = []
    for book in folder.glob("book-*.csv"):
        with book.open(newline="") as file:
            for path, arrived, began, ended in csv.reader(file):
                found.append(Work(path, float(arrived) - start, float(began) - start, float(ended) - start))
    return found


def _flows(stage: Stage, url: str) -> list[Flow]:
    patience, pause = stage.seconds(PATIENCE), stage.seconds(PAUSE)

    def orders(name: str, customer: str, rate: float, begin: float) -> Flow:
        path = f"{url}/orders/{customer}-{{n}}/{{id}}"
        return Flow(name=name, url=path, rate=rate, method="POST", patience=patience, again=AGAIN, pause=pause, begin=begin)

    return [
        Flow(name="browsing", url=f"{url}/items/42", rate=stage.rate(ITEM_RATE), patience=patience),
        orders("quick orders", "quick", stage.rate(ORDER_RATE), 0.0),
        orders("slow orders", "slow", stage.rate(SLOW_RATE), stage.seconds(STORM_FROM)),
    ]


_OTHERS = ("browsing", "quick orders")


def _phases(stage: Stage) -> tuple[tuple[float, float], tuple[float, float]]:
    """Before the storm, and when everybody had felt it."""
    return (stage.seconds(WARM), stage.seconds(STORM_FROM)), (stage.seconds(STORM_FROM + FELT), stage.seconds(END))


def _good(run: Run, begin: float, end: float) -> float:
    """The share of the other users' requests that were answered well."""
    asked = [one for one in between(run.samples, begin, end) if one.flow in _OTHERS]
    return sum(one.good for one in asked) / len(asked)


def _abandoned(stage: Stage, run: Run) -> float:
    """The share of the workers' busy seconds that went to clients who had left."""
    since = stage.seconds(STORM_FROM)
    work = [one for one in run.work if one.began >= since]
    return sum(one.abandoned(stage.seconds(PATIENCE)) for one in work) / sum(one.ended - one.began for one in work)


def _latency(run: Run, flows: tuple[str, ...], percent: float, begin: float, end: float) -> float:
    """In ms."""
    return percentiles((one.latency * 1e3 for one in between(run.samples, begin, end) if one.flow in flows), percent)[0]


def _figures(stage: Stage, run: Run) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for phase, (begin, end) in zip(("baseline", "storm"), _phases(stage), strict=True):
        figures[f"others_good_share_{phase}"] = round(_good(run, begin, end), 4)
        for percent in (50, 99):
            figures[f"others_p{percent}_ms_{phase}"] = round(_latency(run, _OTHERS, percent, begin, end), 1)
        figures[f"workers_busy_median_{phase}"] = statistics.median(run.watch.numbers("busy", begin, end))
        figures[f"queue_max_{phase}"] = max(run.watch.numbers("queue", begin, end))
    figures["abandoned_share_of_worker_seconds"] = round(_abandoned(stage, run), 4)
    figures["open_transactions_after"] = run.open_transactions
    figures["half_orders_after"] = run.half_orders
    figures["orders"] = run.orders
    figures["orders_confirmed"] = sum(one.good for one in run.samples if one.flow != "browsing")
    figures["requests"] = len(run.samples)
    figures["generator_late_p99_ms"] = round(percentiles((one.late * 1e3 for one in run.samples), 99)[0], 1)
    return figures


def _shown(stage: Stage, run: Run) -> list[Claim]:
    """What the unprotected run must show: the incident."""
    calm, storm = _phases(stage)
    before, during = _good(run, *calm), _good(run, *storm)
    share = _abandoned(stage, run)
    confirmed = sum(one.good for one in run.samples if one.flow != "browsing")
    return [
        Claim(
            text="Unprotected: workers work mostly for clients who have left",
            bar="more than half of their busy seconds",
            measured=f"{100 * share:.0f} %",
            held=share > 0.5,
        ),
        Claim(
            text="Unprotected: users whose requests are quick are not served either",
            bar="less than half as often as before",
            measured=f"{100 * during / before:.0f} % ({100 * during:.0f} % of the requests, {100 * before:.0f} % before)",
            held=during < before / 2,
        ),
        Claim(
            text="Unprotected: orders are placed for clients who have left, and never hear of it",
            bar="more orders than were confirmed",
            measured=f"{run.orders} placed, {confirmed} confirmed",
            held=run.orders > confirmed,
        ),
    ]


def _kept(stage: Stage, run: Run) -> list[Claim]:
    """What the protected run must keep."""
    calm, storm = _phases(stage)
    before, during = _good(run, *calm), _good(run, *storm)
    share = _abandoned(stage, run)
    slow = between(run.samples, *storm, "slow orders")
    silent = sum(not one.status for one in slow)
    return [
        Claim(
            text="Protected: hardly any work for clients who have left",
            bar="under 5 % of the busy seconds",
            measured=f"{100 * share:.2f} %",
            held=share < 0.05,
        ),
        Claim(
            text="Protected: the other users' goodput is unharmed",
            bar="within 1 % of the baseline",
            measured=f"{100 * (during / before - 1):+.2f} % ({100 * during:.2f} % of the requests, {100 * before:.2f} % before)",
            held=during >= 0.99 * before,
        ),
        Claim(
            text="Protected: after the storm no transaction is open and no order is half written",
            bar="0 and 0, counted in PostgreSQL",
            measured=f"{run.open_transactions} open transactions, {run.half_orders} orders without lines, of {run.orders}",
            held=run.open_transactions == 0 and run.half_orders == 0 and run.orders > 0,
        ),
        Claim(
            text="Protected: who cannot be served within the SLA hears so before leaving",
            bar="at least 99 %",
            measured=f"{100 * (1 - silent / len(slow)):.1f} % of {len(slow)} slow orders got an answer",
            held=silent <= 0.01 * len(slow),
        ),
    ]


def _charts(stage: Stage, runs: dict[str, Run]) -> list[Chart]:
    end, width = stage.seconds(END), stage.seconds(5.0)
    patience = stage.seconds(PATIENCE)
    marks = [Mark(at=stage.seconds(STORM_FROM), label="slow personalization", until=end)]

    def gauge(name: str) -> list[Series]:
        return per_run(name, runs, lambda run: means(run.watch.series(name), width, end))

    def served(run: Run) -> Points:
        return per_minute((one.at + one.latency for one in run.samples if one.flow in _OTHERS and one.good), width, end)

    def abandoned(run: Run) -> Points:
        return [
            ((n + 0.5) * width, sum(_within(one, n * width, (n + 1) * width, patience) for one in run.work) / width)
            for n in range(int(end / width))
        ]

    return [
        Chart(
            title="Workers that work for clients who have left",
            unit=f"of {WORKERS}",
            kind="line",
            series=per_run("abandoned", runs, abandoned),
            marks=marks,
            note="With holdfast work ends at the SLA, a second before the client's patience.",
        ),
        Chart(
            title="Requests per minute of the other users",
            unit="good answers per minute",
            kind="line",
            series=per_run("others", runs, served),
            marks=marks,
            note="They need nothing of the slow part.",
        ),
        Chart(title="Workers busy", unit=f"of {WORKERS}", kind="line", series=gauge("busy"), marks=marks),
        Chart(title="Requests in the accept queue", unit="requests", kind="line", series=gauge("queue"), marks=marks),
    ]


def _within(work: Work, begin: float, end: float, patience: float) -> float:
    """The abandoned seconds of a request that lie in a stretch of time."""
    left = max(work.began, work.arrived + patience + _GRAIN)
    return max(0.0, min(work.ended, end) - max(left, begin))
