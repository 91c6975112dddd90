"""The incidents, one file each: `TITLE` and `play(stage) -> Incident`. Loaded when they are played."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from holdfast.replay.results import Incident
from holdfast.replay.stage import Stage

_FILES = {1: "starved", 2: "firewall", 3: "spikes", 4: "abandoned", 5: "crowd"}


class Script(Protocol):
    """What the file of an incident must have."""

    TITLE: str

    def play(self, stage: Stage) -> Incident:
        """Run it without holdfast and with it.

        Raises:
            Unavailable: this machine cannot run it at all.
        """
        ...


def numbers() -> tuple[int, ...]:
    """Which incidents there are."""
    return tuple(_FILES)


def script(number: int) -> Script:
    """The script of an incident."""
    return cast("Script", import_module(f"{__name__}.{_FILES[number]}"))
