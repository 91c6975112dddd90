"""Reads gauges at a steady interval while a run goes on, from outside of what is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from holdfast.replay.figures import Points


class Watch:
    """Reads every gauge, again and again, in a thread that ends with the block.

    Args:
        start: the moment that is 0 in the series; a time of the monotonic clock.
        interval: seconds.
        gauges: name -> function; None is a gap. One that raises ends the watch, and the block raises it.
    """

    def __init__(self, start: float, interval: float, gauges: Mapping[str, Callable[[], float | str | None]]) -> None:
        self._start = start
        self._interval = interval
        self._gauges = gauges
        self._read: dict[str, Points] = {name: [] for name in gauges}
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._watch, name="holdfast-replay-watch", daemon=True)

    def series(self, name: str) -> Points:
        """What was read of a gauge since `start`."""
        return [(at, value) for at, value in self._read[name] if isinstance(at, float) and at >= 0]

    def numbers(self, name: str, begin: float, end: float) -> list[float]:
        """The readings in [begin, end) that are numbers."""
        return [
            float(value)
            for at, value in self.series(name)
            if isinstance(at, float) and begin <= at < end and isinstance(value, float | int)
        ]

    def _watch(self) -> None:
        due = time.monotonic()
        try:
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                at = time.monotonic() - self._start
                for name, gauge in self._gauges.items():
                    self._read[name].append((at, gauge()))
                due = max(due + self._interval, time.monotonic())
        except Exception as error:
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error
