"""What a replay shows while it runs and when it is done, on a terminal or in a log.

On a terminal the current step is one line that changes; elsewhere each step is a line of its own. Colour is never the only sign, and
NO_COLOR and TERM=dumb are obeyed.
"""

from __future__ import annotations

import io
import os
import sys
import time
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from holdfast.replay.results import Replay, Skipped

_IN_A_LOG = 120  # columns where there is no terminal to ask


def _console() -> Console:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a claim's "≤" must not end the replay where the locale is ASCII
    # On a terminal the width is its own, and COLUMNS counts everywhere; both are rich's business.
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal() else _IN_A_LOG
    return Console(width=width, highlight=False, soft_wrap=False)


def _plain(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "\ufffd" for letter in text)


def _marks(console: Console) -> tuple[str, str]:
    return ("held", "NOT HELD") if console.options.ascii_only else ("✓ held", "✗ not held")


def say(text: str) -> None:
    """Print a line, and do not wrap it: it may be a path that somebody copies."""
    _console().print(Text(_plain(text)), soft_wrap=True)


class Progress:
    """What is being done just now. A context manager: at its end the changing line is gone, also after Ctrl-C."""

    def __init__(self) -> None:
        self._console = _console()
        self._status: Status | None = None
        self._began = 0.0

    def incident(self, title: str) -> None:
        """An incident begins."""
        self._end_status()
        self._began = time.monotonic()
        self._console.print(Text(_plain(title), style="bold"), soft_wrap=True)

    def step(self, text: str) -> None:
        """Part of an incident begins."""
        shown = Text(f"  {_plain(text)}", style="dim", overflow="ellipsis", no_wrap=True)
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            self._console.print(Text(f"  {_plain(text)}"), soft_wrap=True)
        elif self._status is None:
            spinner = "line" if self._console.options.ascii_only else "dots"
            self._status = self._console.status(shown, spinner=spinner)
            self._status.start()
        else:
            self._status.update(shown)

    def done(self, text: str) -> None:
        """The incident has ended: with what."""
        self._end_status()
        self._console.print(Text(f"  {_plain(text)} ({time.monotonic() - self._began:.0f} s)"), soft_wrap=True)

    def _end_status(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._end_status()


def claims(replay: Replay) -> None:
    """Print the table of claims, and what could not run."""
    console = _console()
    every = [claim for incident in replay.incidents for claim in incident.claims]
    if every:
        console.print()
        console.print(_table(replay, console))
        held = sum(claim.held for claim in every)
        console.print(Text(f"{held} of {len(every)} claims held", style="bold green" if held == len(every) else "bold red"))
    for where, part in _left_out(replay):
        console.print(Text(_plain(f"not run: {where}{part.part}: {part.reason}"), style="yellow"), soft_wrap=True)


def _table(replay: Replay, console: Console) -> Table:
    table = Table(box=box.ASCII2 if console.options.ascii_only else box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("Claim", ratio=5, overflow="fold")
    table.add_column("Bar", ratio=3, overflow="fold")
    table.add_column("Measured", ratio=3, overflow="fold")
    table.add_column("Result", no_wrap=True)
    good, bad = _marks(console)
    for incident in replay.incidents:
        for claim in incident.claims:
            verdict = Text(good, style="green") if claim.held else Text(bad, style="bold red")
            words = (Text(_plain(said)) for said in (claim.text, claim.bar, claim.measured))
            table.add_row(str(incident.number), *words, verdict)
        table.add_section()
    return table


def _left_out(replay: Replay) -> list[tuple[str, Skipped]]:
    """What could not run, and in which incident."""
    parts = [(f"incident {one.number}, ", part) for one in replay.incidents for part in one.skipped]
    return [*(("", part) for part in replay.skipped), *parts]
