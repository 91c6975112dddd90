"""Incident 3: a provider answers in its usual time, and one request of 500 takes thirty times as long.

A shop asks its provider who a customer is, and places orders there. Usually that takes 350 ms and hardly ever more than 500; now and then a
stall somewhere on the way makes it 15 s. Five runs: without anything; with timeouts only; with retries as one writes them in an afternoon,
without request ids and without a budget; with holdfast; and without holdfast in the shop, behind an nginx that `holdfast export nginx`
configured. Who retries meets a storm as well, in which stalls come twenty times as often, and who does it without nginx an outage.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from holdfast.replay.figures import Points, over_time, per_minute, per_run, percentiles, rate
from holdfast.replay.incidents.spikes_runs import ATTEMPTS, OUTAGE, PLANS, STALLED, TIMEOUT, USUAL, WARM, Run, Stretch, run
from holdfast.replay.load import Sample
from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.process import Unavailable
from holdfast.replay.results import Chart, Claim, Figure, Headline, Incident, Series, Skipped
from holdfast.replay.stage import Stage, difference

TITLE = "Rare stalls, and the storm of retries after them"

PERCENTILES = (50, 99, 99.9, 99.99)

_WIDTH = 5.0  # of the stretches that charts over time summarize; in the article's seconds


def play(stage: Stage) -> Incident:
    """Run it without holdfast and with it."""
    runs: dict[str, Run] = {}
    skipped = []
    with postgres_server() as database:
        for name, plan in PLANS.items():
            stage.tell(f"{name}: {', then '.join(phase.name for phase in plan.phases)}")
            try:
                runs[name] = run(stage, stage.subfolder(name.replace(" ", "-")), plan, database.url)
            except Unavailable as missing:
                skipped.append(Skipped(part=name, reason=str(missing)))
    return Incident(
        number=3,
        title=TITLE,
        story=(
            "A provider answers within 500 ms, but for one request of 500, which takes 15 s. Timeouts turn the wait into an error, retries "
            "into an answer. Done carelessly, they order twice, and are four times the load in an outage."
        ),
        runs={name: _figures(stage, one) for name, one in runs.items()},
        charts=_charts(stage, runs),
        claims=[claim for name, one in runs.items() for claim in _CLAIMS[name](stage, one)],
        difference="\n".join(difference(app) for app in ("shop", "orders")),
        skipped=skipped,
        headlines=_headlines(stage, runs),
    )


def _headlines(stage: Stage, runs: Mapping[str, Run]) -> list[Headline]:
    """What retries cost is seen where they are written by hand: the unprotected run has none."""
    nothing, by_hand, protected = runs["unprotected"], runs["retries by hand"], runs["protected"]
    slowest, kept = (f"{_tail(stage, one)[-1]:.0f} ms" for one in (nothing, protected))
    twice, once = (f"{one.twice} of {one.orders}" for one in (by_hand, protected))
    many, few = (f"{_share(one.stretches['outage']):.2f}" for one in (by_hand, protected))
    return [
        Headline(what="99.99th percentile among rare stalls", unprotected=slowest, protected=kept),
        Headline(what="orders made twice, against retries by hand", unprotected=twice, protected=once),
        Headline(what="requests per call in an outage, against retries by hand", unprotected=many, protected=few),
    ]


# Figures.


def _measured(stage: Stage, one: Run) -> list[Sample]:
    """The requests among rare stalls, connections and caches being warm."""
    return [sample for sample in one.stretches["spikes"].samples if sample.at >= stage.seconds(WARM)]


def _tail(stage: Stage, one: Run) -> list[float]:
    """Their percentiles, in ms."""
    return percentiles((sample.latency * 1e3 for sample in _measured(stage, one)), *PERCENTILES)


def _stalls(stage: Stage, stretch: Stretch) -> int:
    return sum(one.took >= stage.seconds(STALLED) for one in stretch.asked)


def _share(stretch: Stretch) -> float:
    """How many requests the provider saw for each call."""
    return len(stretch.asked) / len(stretch.samples)


def _figures(stage: Stage, one: Run) -> dict[str, Figure]:
    measured = _measured(stage, one)
    figures: dict[str, Figure] = {"calls": len(measured)}
    for percent, value in zip(PERCENTILES, _tail(stage, one), strict=True):
        figures[f"p{percent:g}_ms".replace(".", "_")] = round(value, 1)
    figures["slowest_ms"] = round(max(sample.latency for sample in measured) * 1e3, 1)
    figures["failed_share"] = round(sum(not sample.good for sample in measured) / len(measured), 5)
    for name, stretch in one.stretches.items():
        figures[f"requests_at_the_provider_per_call_{name}"] = round(_share(stretch), 3)
        figures[f"stalls_{name}"] = _stalls(stage, stretch)
    figures["orders_wanted"] = one.orders
    figures["orders_made_twice"] = one.twice
    figures["generator_late_p99_ms"] = round(percentiles((sample.late * 1e3 for sample in measured), 99)[0], 1)
    return figures


# Claims.


def _unprotected(stage: Stage, one: Run) -> list[Claim]:
    bar = stage.seconds(STALLED) * 1e3
    worst = max(sample.latency for sample in _measured(stage, one)) * 1e3
    return [
        Claim(
            text=f"Unprotected: stalls of {STALLED:g} s reach users",
            bar=f"slowest at least {bar:.0f} ms, 99.9th percentile at least half of it",
            measured=f"slowest {worst:.0f} ms, 99.9th percentile {_tail(stage, one)[2]:.0f} ms",
            held=worst >= bar and _tail(stage, one)[2] >= bar / 2,
        )
    ]


def _timeouts(stage: Stage, one: Run) -> list[Claim]:
    measured = _measured(stage, one)
    failed = sum(not sample.good for sample in measured)
    limit = 2 * stage.seconds(TIMEOUT) * 1e3
    tail = _tail(stage, one)[-1]
    return [
        Claim(
            text="Timeouts only: nobody waits for a stall, and each stall is an error",
            bar=f"99.99th percentile at most {limit:.0f} ms, and errors",
            measured=f"{tail:.0f} ms; {failed} of {len(measured)} failed",
            held=tail <= limit and failed > 0,
        )
    ]


def _by_hand(stage: Stage, one: Run) -> list[Claim]:
    storm, share = one.stretches["storm"], _share(one.stretches["outage"])
    return [
        Claim(
            text="Retries without request ids: orders are made twice",
            bar="at least one",
            measured=f"{one.twice} of {one.orders} ({_stalls(stage, storm)} stalls in the storm)",
            held=one.twice > 0,
        ),
        Claim(
            text="Retries without a budget: an outage is met with a multiple of the calls",
            bar=f"at least 3.5 x, of {ATTEMPTS} attempts",
            measured=f"{share:.2f} x",
            held=share >= 3.5,
        ),
    ]


def _protected(stage: Stage, one: Run) -> list[Claim]:
    share = _share(one.stretches["outage"])
    return [
        _quick(stage, "Protected", one),
        _once(stage, "Protected", one),
        Claim(
            text="Protected: in a full outage the provider sees hardly more than the normal calls",
            bar="at most 1.1 x",
            measured=f"{share:.3f} x ({len(one.stretches['outage'].samples)} calls in {OUTAGE:g} s)",
            held=share <= 1.1,
        ),
    ]


def _nginx(stage: Stage, one: Run) -> list[Claim]:
    asked = [asked for stretch in one.stretches.values() for asked in stretch.asked]
    tries = Counter(Counter(one.identity for one in asked if one.identity).values())
    again = sum(calls for attempts, calls in tries.items() if attempts > 1)
    return [
        _quick(stage, "nginx", one),
        _once(stage, "nginx", one),
        Claim(
            text="nginx: what it sends to the provider is what the policy says, counted there by request id",
            bar=f"every request has an id; more than one attempt for some, at most {ATTEMPTS}",
            measured=f"{sum(tries.values())} requests, {again} of them again, at most {max(tries, default=0)} attempts",
            held=len(asked) == sum(attempts * calls for attempts, calls in tries.items()) and 1 < max(tries, default=0) <= ATTEMPTS,
        ),
    ]


def _quick(stage: Stage, who: str, one: Run) -> Claim:
    measured, tail = _measured(stage, one), _tail(stage, one)[-1]
    limit = 2 * stage.seconds(TIMEOUT) * 1e3
    failed = sum(not sample.good for sample in measured)
    return Claim(
        text=f"{who}: stalls do not reach users, who get an answer and no error",
        bar=f"99.99th percentile at most 2 x the attempt timeout ({limit:.0f} ms), at most 1 of 1000 failed",
        measured=f"{tail:.0f} ms over {len(measured)} calls, {failed} failed",
        held=tail <= limit and failed <= len(measured) / 1000,
    )


def _once(stage: Stage, who: str, one: Run) -> Claim:
    stalls = sum(_stalls(stage, stretch) for stretch in one.stretches.values())
    return Claim(
        text=f"{who}: the same storm, and no order is made twice",
        bar="none",
        measured=f"{one.twice} of {one.orders} ({stalls} stalls)",
        held=one.twice == 0 and stalls > 0,
    )


_CLAIMS = {
    "unprotected": _unprotected,
    "timeouts": _timeouts,
    "retries by hand": _by_hand,
    "protected": _protected,
    "nginx": _nginx,
}


# Charts.


def _charts(stage: Stage, runs: Mapping[str, Run]) -> list[Chart]:
    return [
        _latency(stage, runs),
        _slowest(stage, runs),
        _failed(stage, runs),
        _made_twice(runs),
        _seen_in_the_outage(stage, runs),
        *_of_metrics(stage, runs["protected"]),
    ]


def _latency(stage: Stage, runs: Mapping[str, Run]) -> Chart:
    def points(one: Run) -> Points:
        return [(f"p{percent:g}", value) for percent, value in zip(PERCENTILES, _tail(stage, one), strict=True)]

    return Chart(
        title="Latency among rare stalls",
        unit="ms",
        kind="bars",
        series=per_run("latency", runs, points),
        logarithmic=True,
        note="The median is the same everywhere; the difference is in the last one of a thousand. An error counts as its latency.",
    )


def _slowest(stage: Stage, runs: Mapping[str, Run]) -> Chart:
    def points(one: Run) -> Points:
        stretch = one.stretches["spikes"].samples
        end = max(sample.at for sample in stretch)
        return over_time(((sample.at, sample.latency * 1e3) for sample in stretch), stage.seconds(_WIDTH), end, max)

    return Chart(
        title="The slowest call of each moment",
        unit="ms",
        kind="line",
        series=per_run("slowest", runs, points),
        logarithmic=True,
        note=f"The provider's usual time is {stage.seconds(USUAL) * 1e3:.0f} ms, a stall {stage.seconds(STALLED) * 1e3:.0f} ms.",
    )


def _failed(stage: Stage, runs: Mapping[str, Run]) -> Chart:
    def share(one: Run) -> float:
        measured = _measured(stage, one)
        return sum(not sample.good for sample in measured) / len(measured)

    return Chart(
        title="Calls that failed among rare stalls",
        unit="of 1000",
        kind="bars",
        series=per_run("failed", runs, lambda one: [("calls", 1000 * share(one))]),
    )


def _made_twice(runs: Mapping[str, Run]) -> Chart:
    stormy = {name: one for name, one in runs.items() if "storm" in one.stretches}
    return Chart(
        title="Orders made twice",
        unit="orders",
        kind="bars",
        series=per_run("made twice", stormy, lambda one: [("orders", one.twice)]),
        note="Counted in the provider's database after the storm. A timeout says nothing about whether the order was made.",
    )


def _seen_in_the_outage(stage: Stage, runs: Mapping[str, Run]) -> Chart:
    outages = {name: one.stretches["outage"] for name, one in runs.items() if "outage" in one.stretches}

    def line(name: str, run: str, times: Iterable[float]) -> Series:
        return Series(name=name, run=run, points=per_minute(times, stage.seconds(_WIDTH), stage.seconds(OUTAGE)))

    return Chart(
        title="Requests per minute that the provider sees in an outage",
        unit="requests per minute",
        kind="line",
        series=[
            line("calls", "", (sample.at for sample in outages["protected"].samples)),
            *(line("seen", name, (asked.at for asked in stretch.asked)) for name, stretch in outages.items()),
        ],
        note="Seconds count from its start. With a budget retries are a share of the calls; without, four times as many.",
    )


def _of_metrics(stage: Stage, one: Run) -> list[Chart]:
    """From holdfast's own metrics, over the whole protected run."""
    calls, attempts = one.watch.series("calls"), one.watch.series("attempts")
    return [
        Chart(
            title="Attempts per call, from holdfast's metrics",
            unit="attempts",
            kind="line",
            series=[Series(name="attempts", run="protected", points=[*rate(attempts, calls)])],
            note=_phases(stage),
        ),
        Chart(
            title="Budget left, from holdfast's metrics",
            unit="retries",
            kind="line",
            series=[Series(name="budget left", run="protected", points=one.watch.series("budget left"))],
            note="In the storm it pays for retries; in the outage it is used up at once, and that is its purpose.",
        ),
    ]


def _phases(stage: Stage) -> str:
    begin, said = 0.0, []
    for phase in PLANS["protected"].phases:
        said.append(f"{phase.name} from {stage.seconds(begin):g} s")
        begin += phase.length
    return f"{', '.join(said).capitalize()}."
