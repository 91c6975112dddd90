"""Incident 2: a firewall forgets an idle connection and drops its packets without a word; a receipt takes a quarter of an hour.

An order processor sends receipts through RabbitMQ, on one connection, and holds a mutex in Redis meanwhile. Both are in another network
behind a firewall. Without holdfast the kernel sends the receipt again and again until it gives the connection up, and the work outruns its
lock. With holdfast the silence is noticed, the receipt goes out on a new connection under the same id, and the lock's time left is the
deadline of what is done under it. Then the same with other faults, each felt by both.
"""

from __future__ import annotations

from itertools import pairwise

from holdfast.replay.figures import Points, per_run
from holdfast.replay.incidents.firewall_town import (
    FAULT,
    LOCK_TTL,
    RTO_MOST,
    SOON,
    Both,
    Outcome,
    fault,
    faults,
    forgotten,
    kernel_schedule,
    town,
)
from holdfast.replay.results import Chart, Claim, Figure, Headline, Incident, Series, Skipped
from holdfast.replay.stage import Stage, difference

TITLE = "The firewall that drops silently"

# The article's seconds, of what was seen of the lock.
RAN, OUTSIDE = 952.0, 922.0

# Linux gives a connection up after this many retransmissions (ip-sysctl, tcp_retries2), 924.6 s; scaled, after 5: 12.6 s.
RETRIES, RETRIES_SCALED = 15, 5


def play(stage: Stage) -> Incident:
    """Run it without holdfast and with it."""
    retries = RETRIES if stage.scale == 1 else RETRIES_SCALED
    with town(stage, retries) as place:
        runs: dict[str, Outcome] = {}
        schedule: list[tuple[int, float]] = []
        for name, side in (("unprotected", "before"), ("protected", "after")):
            stage.tell(f"{name}: the firewall forgets the connection, then an order comes")
            runs[name], seen = forgotten(place, side, retries)
            schedule = schedule or seen
        others = {}
        with place.processor("before") as before, place.processor("after") as after:
            for name, (begin, end) in faults(place).items():
                stage.tell(f"the same with {name}, for {FAULT:g} s")
                others[name] = fault(place, before, after, name, begin, end)
    return Incident(
        number=2,
        title=TITLE,
        story=(
            "An order processor publishes receipts on one connection to RabbitMQ, under a mutex in Redis. A firewall on the way forgets "
            "the idle connection and drops its packets without a word. The kernel retransmits for minutes, and the work outruns its lock."
        ),
        runs={name: _figures(run, others, name) for name, run in runs.items()},
        charts=_charts(runs, others, schedule, retries),
        claims=[
            *_shown(runs["unprotected"], schedule, retries),
            *_kept(runs["protected"]),
            *(_felt(name, both) for name, both in others.items()),
        ],
        difference=difference(f"receipts{place.kind}"),
        skipped=[Skipped(part="receipts through RabbitMQ; they go through a Redis stream", reason=place.missing)] if place.missing else [],
        headlines=_headlines(runs),
    )


def _headlines(runs: dict[str, Outcome]) -> list[Headline]:
    delay = {name: _said(run.delay) for name, run in runs.items()}
    outside = {name: f"{run.outside:.1f} s" for name, run in runs.items()}
    return [
        Headline(what="delay of the receipt after the firewall forgot the connection", **delay),
        Headline(what="work outside of its lock", **outside),
    ]


def _figures(run: Outcome, others: dict[str, Both], name: str) -> dict[str, Figure]:
    figures: dict[str, Figure] = {
        "receipt_delay_s": _rounded(run.delay),
        "receipts": len(run.receipts),
        "lock_ran_s": _rounded(run.ran),
        "lock_allowed_s": run.allowed,
        "lock_outside_s": _rounded(run.outside),
    }
    for label, both in others.items():
        one = both.protected if name == "protected" else both.unprotected
        word = label.lower().replace(" ", "_")
        figures[f"{word}_receipt_delay_s"] = _rounded(one.delay)
        figures[f"{word}_receipts"] = len(one.receipts)
        figures[f"{word}_lock_outside_s"] = _rounded(one.outside)
    return figures


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _shown(run: Outcome, schedule: list[tuple[int, float]], retries: int) -> list[Claim]:
    """What the unprotected run must show: the incident."""
    waits = [after[1] - before[1] for before, after in pairwise(schedule)]
    factors = [after / before for before, after in pairwise(waits)]
    least = kernel_schedule(retries + 1)[-1]
    doubles = all(1.6 <= factor <= 2.4 or wait > 0.9 * RTO_MOST for factor, wait in zip(factors, waits[1:], strict=True))
    return [
        Claim(
            text="Unprotected: the kernel sends the receipt again and again, each time after twice the time",
            bar="each wait 1.6 to 2.4 times the one before, as `ss -ti` shows it",
            measured=f"at {', '.join(f'{at:.1f}' for _, at in schedule)} s",
            held=len(factors) >= 2 and doubles,
        ),
        Claim(
            text=f"Unprotected: the receipt comes when the kernel has given up (tcp_retries2 = {retries})",
            bar=f"later than {least:.1f} s; the article's 15 minutes are Linux's default of {RETRIES}",
            measured=_said(run.delay),
            held=run.delay is not None and run.delay > least,
        ),
        Claim(
            text="Unprotected: the work outruns its lock",
            bar=f"outside of the lock (the article: ran {RAN:g} s, allowed {LOCK_TTL:g} s, outside {OUTSIDE:g} s)",
            measured=f"ran {run.ran:.1f} s, allowed {run.allowed:g} s, outside {run.outside:.1f} s",
            held=run.outside > 0,
        ),
    ]


def _kept(run: Outcome) -> list[Claim]:
    """What the protected run must keep."""
    return [
        Claim(
            text="Protected: the receipt comes once, and soon",
            bar=f"one, within {SOON:g} s",
            measured=f"{len(run.receipts)}, {_said(run.delay)}",
            held=len(run.receipts) == 1 and _soon(run.delay),
        ),
        Claim(
            text="Protected: no work outside of the lock",
            bar="0 s",
            measured=f"ran {run.ran:.2f} s, allowed {run.allowed:g} s, outside {run.outside:.2f} s",
            held=run.ran > 0 and run.outside == 0,
        ),
    ]


def _felt(name: str, both: Both) -> Claim:
    run = both.protected
    after = None if run.delay is None else run.delay - both.lasted
    # A lock that could not be given back, since its store was out of reach, is held until its time is over.
    over = None if run.delay is None else run.delay - max(both.lasted, run.allowed)
    return Claim(
        text=f"Protected, {name}: noticed soon, and one receipt soon after it has ended",
        bar=f"noticed within {SOON:g} s, the receipt within {SOON:g} s of the end of fault and lock, no work outside of the lock",
        measured=f"noticed after {_said(run.felt)}, {len(run.receipts)} receipt {_said(after)} after its end, outside {run.outside:.2f} s",
        held=run.outside == 0 and len(run.receipts) == 1 and _soon(run.felt) and _soon(over),
    )


def _soon(seconds: float | None) -> bool:
    return seconds is not None and seconds <= SOON


def _said(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


def _charts(runs: dict[str, Outcome], others: dict[str, Both], schedule: list[tuple[int, float]], retries: int) -> list[Chart]:
    return [_sent_again(runs["unprotected"], schedule, retries), _delay(runs, others), _under_the_lock(runs)]


def _sent_again(run: Outcome, schedule: list[tuple[int, float]], retries: int) -> Chart:
    kernel = kernel_schedule(RETRIES + 1)
    labels = [str(number) for number in range(1, RETRIES + 1)] + ["given up"]
    measured: Points = [(str(number), at) for number, at in schedule]
    if run.delay is not None:
        measured.append(("given up", run.delay))
    return Chart(
        title="When the kernel sends the receipt again",
        unit="s after the first time",
        kind="bars",
        series=[
            Series(name="as ss -ti shows it", run="unprotected", points=measured),
            Series(name="Linux's rule, 15 times", run="", points=list(zip(labels, kernel, strict=True))),
            Series(name="the article", run="", points=[("given up", OUTSIDE)]),
        ],
        logarithmic=True,
        note=f"Here it gives up after {retries} times. By Linux's default that takes {kernel[-1]:g} s, as the article's users saw.",
    )


def _delay(runs: dict[str, Outcome], others: dict[str, Both]) -> Chart:
    def points(name: str) -> Points:
        found: list[Outcome] = [runs[name], *(getattr(both, name) for both in others.values())]
        return [(cause, one.delay) for cause, one in zip(["firewall", *others], found, strict=True)]

    return Chart(
        title="Delay of the receipt",
        unit="s",
        kind="bars",
        series=[Series(name="receipt", run=name, points=points(name)) for name in runs],
        logarithmic=True,
        note=f"The other faults last {FAULT:g} s or a little longer, and no receipt can come through one that lasts.",
    )


def _under_the_lock(runs: dict[str, Outcome]) -> Chart:
    return Chart(
        title="Work under the lock",
        unit="s",
        kind="bars",
        series=per_run("work", runs, lambda run: [("inside", min(run.ran, run.allowed)), ("outside", run.outside)]),
        note="What ran outside ran while somebody else might have held the lock.",
    )
