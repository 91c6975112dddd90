"""What an incident is played on: its seed, its scale, its folder, and how it tells what it does."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Handed to every incident's `play`.

    Args:
        seed: of everything random: arrivals, service times, faults.
        scale: what the article's times are divided by; 1 for true time.
        folder: private to the incident; gone afterwards.
        tell: shows a step to whoever watches.
    """

    seed: int
    scale: float
    folder: Path
    tell: Callable[[str], None]

    def seconds(self, true: float) -> float:
        """The article's seconds as the replay's."""
        return true / self.scale

    def rate(self, true: float) -> float:
        """The article's requests per second as the replay's: each incident sees as many requests, however fast it goes."""
        return true * self.scale

    def random(self, purpose: str) -> Random:
        """A generator of its own for each purpose, the same in every run with this seed."""
        return Random(f"{self.seed} {purpose}")

    def subfolder(self, name: str) -> Path:
        """A folder for one run."""
        path = self.folder / name
        path.mkdir()
        return path


def difference(app: str) -> str:
    """The unified diff of an application of `apps/before` and `apps/after`: the lines that a user would change."""
    old, new = ((APPS / side / f"{app}.py").read_text().splitlines(keepends=True) for side in ("before", "after"))
    return "".join(difflib.unified_diff(old, new, f"{app}.py without holdfast", f"{app}.py with holdfast"))
