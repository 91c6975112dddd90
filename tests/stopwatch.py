"""How long something took, and what comes of it in the end, on a machine that others use as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from holdfast import DeadlineExceeded

T = TypeVar("T")


class Stopwatch:
    """Runs from when it is made.

    A bar in seconds is about the code. While a thread is ready to run and others have all the processors, nothing is said about it: the
    kernel counts that time for each thread, and `took` leaves it out. So a bar holds on a busy machine as on a quiet one, where the two are
    the same. Where nobody counts it, `took` is what the clock says.

    Args:
        servers: pids of other processes that are waited for; they and their children are asked as well.
        alone: only this thread is waited for, and the others of the process, which work on something else, are not asked.
    """

    def __init__(self, *servers: int, alone: bool = False) -> None:
        self._alone = alone
        self._processes = ("self", *map(str, servers))
        self._waited_before = self._waited()
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds by the clock: for what must not be early."""
        return time.monotonic() - self._began

    @property
    def took(self) -> float:
        """Seconds without those in which there was no processor: for what must not be late."""
        elapsed = self.elapsed
        return elapsed - sum(seconds - self._waited_before.get(thread, 0.0) for thread, seconds in self._waited().items())

    def _waited(self) -> dict[str, float]:
        """For how long each thread has been ready to run and did not."""
        found = {}
        for process in self._processes:
            for task in [Path("/proc/thread-self")] if self._alone else _tasks(process, with_children=process != "self"):
                with suppress(OSError):  # it has ended, or this is another system
                    found[str(task)] = int((task / "schedstat").read_text().split()[1]) / 1e9
        return found


def _tasks(process: str, *, with_children: bool) -> Iterator[Path]:
    with suppress(OSError):
        for task in Path("/proc", process, "task").iterdir():
            yield task
            if with_children:
                for child in (task / "children").read_text().split():
                    yield from _tasks(child, with_children=True)


def patiently(ask: Callable[[], T]) -> T:
    """What this gives. Where a deadline passed that is short for the sake of another request, it is asked again."""
    for _ in range(20):
        with suppress(DeadlineExceeded):
            return ask()
    return ask()
