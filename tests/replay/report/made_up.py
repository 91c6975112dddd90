"""A replay with every kind of chart and everything that can be wrong with one. Its figures are made up: it tests the page, not holdfast."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from holdfast.replay.results import Chart, Claim, Headline, Incident, Mark, Replay, Series, Skipped

# What a page must show as it is: markup, an entity, quotes, a template's braces, an escape sequence, half of a surrogate pair, an emoji.
HOSTILE = "<script>alert(1)</script> &amp; \"quotes\" 'single' {{ 7 * 7 }} \x1b[31m \ud800 \U0001f600"
LONG = "a very long name of a run that nobody would give but somebody will"

Points = list[tuple[float | str, float | str | None]]


def noisy(dice: random.Random, base: float, shape: Callable[[float], float] = lambda _: 1.0) -> Points:
    """A measurement per second for a minute."""
    return [(float(at), base * shape(at) * (1 + dice.gauss(0, 0.05))) for at in range(61)]


def pair(name: str, unprotected: Points, protected: Points) -> list[Series]:
    return [Series(name=name, run="unprotected", points=unprotected), Series(name=name, run="protected", points=protected)]


def usual(dice: random.Random) -> Incident:
    """An incident as they are meant to be."""

    def slow(at: float) -> float:
        return 10.0 if 20 <= at < 45 else 1.0

    def starved(at: float) -> float:
        return 0.2 if 21 <= at < 47 else 1.0

    marks = [Mark(at=20, label="provider at 10 x", until=45)]
    normal = Series(name="normal", run="", points=[(0.0, 30.0), (60.0, 30.0)])
    states: Points = [
        (0.0, "closed"),
        (22.5, "open"),
        (32.5, "half-open"),
        (33.0, "open"),
        (43.0, "half-open"),
        (46.0, "closed"),
        (60.0, None),
    ]
    latencies = [
        *pair("S2S", [("p50", 812.0), ("p99", 4210.0), ("p99.99", 9877.0)], [("p50", 11.2), ("p99", 18.9), ("p99.99", 31.0)]),
        *pair("client", [("p50", 3120.0), ("p99", 9800.0), ("p99.99", 14990.0)], [("p50", 52.0), ("p99", 498.0), ("p99.99", 512.0)]),
    ]
    minute = "requests per minute"
    requests = pair("S2S", noisy(dice, 1200, starved), noisy(dice, 1200)) + pair("client", noisy(dice, 640, starved), noisy(dice, 640))
    queue = [(float(at), float(max(0, (at - 20) * 9) if at < 46 else max(0, 240 - (at - 46) * 80))) for at in range(61)]
    workers = [*pair("workers busy", noisy(dice, 4, starved), noisy(dice, 2)), *pair("queue length", list(queue), [(0.0, 0), (60.0, 1)])]
    charts = [
        Chart(
            title="Median response time of the provider",
            unit="ms",
            kind="line",
            series=[*pair("provider", noisy(dice, 30, slow), noisy(dice, 30, slow)), normal],
            marks=marks,
            note="It is as slow in both runs.",
        ),
        Chart(title="Requests per minute by method", unit=minute, kind="line", series=requests, marks=marks),
        Chart(title="Latency by method", unit="ms", kind="bars", logarithmic=True, series=latencies),
        Chart(title="Workers and queue", unit="", kind="line", series=workers, marks=[*marks, Mark(at=46.5, label="provider is back")]),
        Chart(
            title="Breaker",
            unit="",
            kind="band",
            series=[Series(name="breaker", run="protected", points=states)],
            marks=marks,
            note="In words.",
        ),
    ]
    claims = [
        Claim(text="Unprotected: S2S throughput falls by more than half", bar="at most 50 %", measured="18.9 % (226 of 1,198)", held=True),
        Claim(text="Client methods answer within the SLA", bar="at most 500 ms at p99.99", measured="512 ms", held=False),
    ]
    difference = (
        "--- a/app.py\n+++ b/app.py\n@@ -1,3 +1,4 @@\n import httpx\n-client = httpx.Client()\n+from holdfast.clients.httpx import Client\n"
    )
    return Incident(
        number=1,
        title="Slow provider starves the pool",
        story="Every worker waits for the provider, so that requests wait which do not need it.",
        runs={"unprotected": {"s2s_p99_ms": 4210.3, "errors": 1204, "workers": "4 sync"}, "protected": {"s2s_p99_ms": 18.9, "errors": 0}},
        charts=charts,
        claims=claims,
        difference=difference,
        skipped=[Skipped(part="memory limits", reason="need root")],
        headlines=[Headline(what="p99 of partners", unprotected="4,210 ms", protected="19 ms")],
    )


def hostile(dice: random.Random) -> Incident:
    """An incident with what goes wrong: gaps, nothing, far too long, not text."""
    gaps: Points = [(float(at), None if 10 < at < 20 else 10 ** (1 + at / 20)) for at in range(61)]
    lonely: Points = [(0.0, 0.0), (5.0, 20.0), (6.0, None), (7.0, 30.0), (8.0, math.nan), (9.0, math.inf)]
    near = [
        Mark(at=58, label="near the right edge"),
        Mark(at=57, label="also near the edge, and rather long at that, so that it hardly fits"),
        Mark(at=3, label="first"),
        Mark(at=4, label="second thing"),
        Mark(at=30, label=f"a $5 fault {HOSTILE}", until=40),
    ]
    shares = [("1", [("1", 1.0)]), ("2", [("1", 0.98), ("2", None), (f"gave up after the last attempt {HOSTILE}", 0.02)]), ("3", [])]
    attempts = [
        Series(name="attempts", run=run, points=list(points))
        for run, (_, points) in zip(("nothing", "timeouts", LONG), shares, strict=True)
    ]
    unknown: Points = [(0.0, "starting up with a long name"), (5.0, "ready"), (9.0, "killed"), (9.4, "restarting"), (10.0, "ready")]
    dense: Points = [(number / 200, abs(dice.gauss(20, 8))) for number in range(12_000)]
    charts = [
        Chart(
            title=f"Gaps {HOSTILE}",
            unit="ms <b>",
            kind="line",
            logarithmic=True,
            series=[
                Series(name="latency", run="nothing", points=gaps),
                Series(name="latency", run="timeouts", points=lonely),
                Series(name="latency", run=LONG, points=[]),
            ],
            marks=near,
        ),
        Chart(title="Nothing measured", unit="s", kind="line", series=[Series(name="x", run="nothing", points=[(1.0, None)])]),
        Chart(title="No series", unit="s", kind="line", series=[]),
        Chart(title="No bars", unit="s", kind="bars", series=[Series(name="x", run="nothing", points=[])], logarithmic=True),
        Chart(title="Attempts per call", unit="share of calls", kind="bars", series=attempts),
        Chart(
            title="States that nobody knows",
            unit="",
            kind="band",
            series=[Series(name=f"pod {HOSTILE}", run="nothing", points=unknown), Series(name="none", run="timeouts", points=[])],
            marks=near,
        ),
        Chart(
            title="Calls in an outage",
            unit="calls per second",
            kind="line",
            series=[
                Series(name="without a budget", run="timeouts", points=noisy(dice, 400)),
                Series(name="with a budget", run="timeouts", points=noisy(dice, 110)),
            ],
        ),
        Chart(title="Dense", unit="ms", kind="line", series=[Series(name="latency", run="nothing", points=dense)]),
        Chart(
            title="Many runs",
            unit="ms",
            kind="line",
            series=[Series(name="latency", run=f"{run} of the many runs that are compared", points=noisy(dice, 20)) for run in range(7)],
        ),
        Chart(title="One moment", unit="ms", kind="line", series=[Series(name="latency", run="nothing", points=[(0.0, -3.0)])]),
    ]
    return Incident(
        number=3,
        title=f"Spikes {HOSTILE}",
        story=f"Rare stalls.\n{HOSTILE}",
        runs={"nothing": {"p99_ms": None, "calls": 3}, "timeouts": {"p99_ms": math.nan}, LONG: {HOSTILE: HOSTILE}},
        charts=charts,
        claims=[Claim(text=HOSTILE, bar=HOSTILE, measured="x" * 120, held=True)],
        headlines=[Headline(what=HOSTILE, unprotected=HOSTILE, protected="never heard of")],
        difference=f"--- a\n+++ b\n@@ -1 +1 @@\n-{HOSTILE}\n+{'y' * 300}",
    )


def replay() -> Replay:
    """The same one each time."""
    dice = random.Random(4)
    return Replay(
        seed=7,
        scale=10.0,
        incidents=[usual(dice), hostile(dice)],
        started="2026-11-23T21:30:00+00:00",
        took=93.4,
        machine={"cores": "2", "Python": "3.11.2", "path": "/a" * 60},
        skipped=[Skipped(part="incident 2: the firewall", reason=f"needs network namespaces {HOSTILE}")],
    )
