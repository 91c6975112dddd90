"""Incident 5: a Christmas crowd keeps clicking on a billing service that is down, and knocks it over each time it gets up.

Billing has ten gunicorn workers. The first requests make the rates from the database: 100 MB, in the worker that is asked. Cold, with a
crowd before it, all ten do so at once, and the container is killed for its memory; and again after its restart. With holdfast the rates are
made once, before the socket is there; the shop's breaker keeps the crowd off meanwhile; and a checkout that needs billing is refused
before its authorization, its queries and its prices.

Memory and the starts of processes cannot be sped up, so this incident has its true times, also where the others are scaled.
"""

from __future__ import annotations

from holdfast.replay.figures import Points, between, changes, per_minute, per_run
from holdfast.replay.incidents.crowd_runs import CRASH_AT, CROWD_FROM, ENDS, LAST, MEGABYTE, MEMORY, STRETCH, TAIL, Run, customers, run_side
from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.results import Chart, Claim, Figure, Headline, Incident, Mark, Series
from holdfast.replay.stage import Stage, difference

TITLE = "Hitting who is down"

RECOVERED_WITHIN = 10.0  # seconds


def play(stage: Stage) -> Incident:
    """Run it without holdfast and with it."""
    with postgres_server() as database:
        customers(database)
        runs = {}
        for name, side in (("unprotected", "before"), ("protected", "after")):
            stage.tell(f"{name}: billing is killed while a crowd clicks")
            runs[name] = run_side(stage, stage.subfolder(name), side, database.url)
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
            measured=f"{run.kills} times in {run.end - CRASH_AT:g} s, by {run.limited_by} at {MEMORY // MEGABYTE} MB",
            held=run.kills >= 2,
        ),
        Claim(
            text="Unprotected: it does not recover as long as the crowd clicks",
            bar=f"below 20 % of the checkouts of {LAST:g} s succeed, from {run.end - TAIL - LAST - CRASH_AT:g} s after the crash on",
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
    limit = MEMORY / MEGABYTE
    used = per_run("all its processes", runs, lambda run: run.watch.series("memory"))
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
        return per_minute((one.at for one in run.samples if one.good and one.at + one.latency < run.end), STRETCH, run.end - TAIL)

    return Chart(
        title="Checkouts that succeed",
        unit="per minute",
        kind="line",
        series=per_run("checkouts", runs, points),
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
        series=per_run("while billing is down", runs, points),
        note="With holdfast a checkout is refused before all of it; a few are let through to see whether billing is back.",
    )


def _breaker(run: Run) -> Chart:
    return Chart(
        title="The breaker, from holdfast's metrics",
        unit="",
        kind="band",
        series=[Series(name="billing", run="protected", points=changes(run.watch.series("breaker"), run.end))],
        marks=_MARKS,
    )
