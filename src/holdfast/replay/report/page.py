"""The report: one HTML file that needs nothing else, neither the network nor another file."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from holdfast.replay.report.palette import COLOURS, styles
from holdfast.replay.results import Chart, Incident, Replay, Skipped

try:
    # Without a home to write to matplotlib's cache is in a folder that is gone afterwards, and it need not warn of that amid the claims.
    logging.getLogger("matplotlib").addFilter(lambda record: record.levelno >= logging.ERROR)

    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from holdfast.replay.report import charts, numbers
    from holdfast.replay.report.text import clean
except ImportError as error:
    raise ImportError("holdfast.replay.report needs the extra: pip install 'holdfast[replay]'") from error

_UNIT = re.compile(r"(?<=\d) (?=(?:%|ms|s|x|MB)(?![\w]))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A chart on the page: its drawings are markup, all else is text."""

    key: str
    chart: Chart
    wide: Markup
    narrow: Markup
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """An incident on the page."""

    key: str
    incident: Incident
    runs: Sequence[tuple[str, str]]  # name, colour
    figures: Sequence[tuple[str, str, Sequence[str]]]  # name, unit, one cell per run
    charts: Sequence[Figure]
    difference: Sequence[tuple[str, str]]  # kind, line

    @property
    def held(self) -> int:
        """Claims that did."""
        return sum(claim.held for claim in self.incident.claims)


def write(replay: Replay, path: Path) -> None:
    """Write the report.

    Args:
        replay: what to show. The same one gives the same file.
        path: of the file; its folder is made if it is not there.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    half.write_text(render(replay), encoding="utf-8")
    half.rename(path)


def render(replay: Replay) -> str:
    """The report as HTML."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if type(value) is str else value,  # not Markup, which is ours
    )
    environment.filters["together"] = together
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(_resource("page.html.j2")).render(
        replay=replay,
        sections=[_section(one) for one in replay.incidents],
        claims=[(incident, claim) for incident in replay.incidents for claim in incident.claims],
        failed=[(incident, claim) for incident in replay.incidents for claim in incident.claims if not claim.held],
        skipped=_skipped(replay),
        facts=_facts(replay),
        scaled=f"{numbers.in_words(1000 / replay.scale)} ms" if replay.scale else numbers.NOTHING,
        colours=COLOURS,
        style=Markup(_resource("page.css")),  # noqa: S704  (our own files)
        script=Markup(script),  # noqa: S704
        script_digest=digest,
    )


def _resource(name: str) -> str:
    return files("holdfast.replay.report").joinpath(name).read_text(encoding="utf-8")


def _section(incident: Incident) -> Section:
    key = f"incident-{incident.number}"
    looks = styles(incident.runs)
    names = list(dict.fromkeys(figure for figures in incident.runs.values() for figure in figures))
    return Section(
        key=key,
        incident=incident,
        runs=[(run, looks[run].colour) for run in incident.runs],
        figures=[
            (*numbers.name_and_unit(name), [numbers.in_words(figures.get(name)) for figures in incident.runs.values()]) for name in names
        ],
        charts=[_figure(chart, f"{key}-chart-{number}", list(incident.runs)) for number, chart in enumerate(incident.charts, 1)],
        difference=[(_kind(line), line) for line in incident.difference.splitlines()],
    )


def _figure(chart: Chart, key: str, runs: Sequence[str]) -> Figure:
    drawing = charts.draw(chart, key=key, runs=runs)
    first = "" if chart.kind == "bars" else "seconds"
    return Figure(
        key=key,
        chart=chart,
        wide=Markup(drawing.wide),  # noqa: S704  (made by ElementTree, which escapes)
        narrow=Markup(drawing.narrow),  # noqa: S704
        columns=[first, *(numbers.label(series) for series in chart.series)],
        rows=numbers.rows(chart),
    )


def _kind(line: str) -> str:
    if line.startswith(("+++", "---", "@@", "diff ")):
        return "where"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")


def together(words: str) -> str:
    """The text with no line broken between a number and its unit."""
    return _UNIT.sub("\N{NO-BREAK SPACE}", words)


def _skipped(replay: Replay) -> list[tuple[str, Skipped]]:
    """Where, and what could not run there."""
    parts = [(f"Incident {one.number}", part) for one in replay.incidents for part in one.skipped]
    return [*(("", part) for part in replay.skipped), *parts]


def _facts(replay: Replay) -> list[tuple[str, str]]:
    scale = "1 (real time)" if replay.scale == 1 else f"times divided by {numbers.in_words(replay.scale)}"
    minutes, seconds = divmod(round(replay.took), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return [
        ("Date", _date(replay.started)),
        ("Took", took),
        ("Seed", str(replay.seed)),
        ("Scale", scale),
        *((name.capitalize(), value) for name, value in replay.machine.items()),
    ]


def _date(started: str) -> str:
    try:
        return datetime.fromisoformat(started).strftime("%Y-%m-%d %H:%M").strip()
    except ValueError:
        return started
