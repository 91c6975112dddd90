"""What a replay found, in plain records: the report draws them, the JSON file holds them, the exit status follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, Self

from holdfast.replay.reading import read

Figure = float | int | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One sentence that the replay set out to show.

    Args:
        text: the claim.
        bar: what it had to reach, in words with units: "at most 1.5 x".
        measured: what it reached, likewise: "1.12 x (31 ms against 28 ms)".
        held: whether it did.
    """

    text: str
    bar: str
    measured: str
    held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """What an incident comes down to: one figure without holdfast and with it, in words with units.

    Args:
        what: "delay of the receipt".
        unprotected: "13.2 s".
        protected: "1.0 s".
    """

    what: str
    unprotected: str
    protected: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A part that this machine cannot run, and why, with what to do about it."""

    part: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line, set of bars or band of a chart.

    Args:
        name: what the legend says: "S2S", "provider p99".
        run: the run it was measured in: "unprotected", "protected"; empty for a reference that belongs to neither.
        points: (x, y) pairs; for a line x is seconds since the run's start, and a y of None is a gap; for bars x is the category's name;
            for a band (second from which, the state's name).
    """

    name: str
    run: str
    points: Sequence[tuple[float | str, float | str | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Something that happened at a moment of every run: "provider slows down"; `until` makes it a span."""

    at: float
    label: str
    until: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Runs on the same axes.

    Args:
        title: what is seen: "Median response time of the provider".
        unit: of y: "ms", "requests per minute"; empty for a band.
        kind: "line" over time; "bars" by category; "band" of states over time.
        series: what is drawn.
        marks: what happened, for kinds with time.
        logarithmic: whether y spans orders of magnitude.
        note: one sentence on what to look at.
    """

    title: str
    unit: str
    kind: Literal["line", "bars", "band"]
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    logarithmic: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One incident after all its runs.

    Args:
        number: 1 to 5.
        title: "Slow provider starves the pool".
        story: what happened, one to three sentences.
        runs: run -> figure -> value: "unprotected" -> "s2s_p99_ms" -> 812.0. Figures are snake_case with their unit.
        charts: in the order to look at them.
        claims: of all runs; the unprotected run has its own (it must show the incident).
        difference: the application's unified diff from unprotected to protected.
        skipped: what could not run.
        headlines: what to read first; two or three.
    """

    number: int = field(metadata={"key": "id"})
    title: str
    story: str
    runs: Mapping[str, Mapping[str, Figure]]
    charts: Sequence[Chart]
    claims: Sequence[Claim]
    difference: str = ""
    skipped: Sequence[Skipped] = ()
    headlines: Sequence[Headline] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """All that one command ran.

    Args:
        seed: of the load and the faults.
        scale: what the article's times were divided by; 1 with --real-time.
        incidents: in the order they ran.
        started: local time, ISO 8601.
        took: seconds.
        machine: what it ran on: cores, kernel, Python, versions of the servers.
        skipped: incidents that could not run at all.
    """

    seed: int
    scale: float
    incidents: Sequence[Incident]
    started: str
    took: float
    machine: Mapping[str, str] = field(default_factory=dict)
    skipped: Sequence[Skipped] = ()

    @property
    def held(self) -> bool:
        """Whether every claim of every incident did."""
        return all(claim.held for incident in self.incidents for claim in incident.claims)

    def plain(self) -> dict[str, object]:
        """The JSON file's content. JSON knows no NaN and no infinity: they are null there."""
        plain: dict[str, object] = {
            "seed": self.seed,
            "scale": self.scale,
            "started": self.started,
            "took": self.took,
            "machine": dict(self.machine),
            "skipped": [asdict(one) for one in self.skipped],
            "incidents": [
                {
                    "id": one.number,
                    "title": one.title,
                    "headlines": [asdict(line) for line in one.headlines],
                    "runs": {name: dict(figures) for name, figures in one.runs.items()},
                    "claims": [asdict(claim) for claim in one.claims],
                    "skipped": [asdict(part) for part in one.skipped],
                    "charts": [asdict(chart) for chart in one.charts],
                    "story": one.story,
                    "difference": one.difference,
                }
                for one in self.incidents
            ],
        }
        return {name: _finite(value) for name, value in plain.items()}

    @classmethod
    def from_plain(cls, plain: object) -> Self:
        """Read what `plain` made, after its way through JSON.

        Raises:
            ValueError: it is something else; the message names the field, like `incidents[0].claims[2].held`.
        """
        return read(cls, plain, "")


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
