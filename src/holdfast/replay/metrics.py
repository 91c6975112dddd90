"""Reads the metrics that holdfast's own exporter writes, from the files that the worker processes of a server share."""

from __future__ import annotations

import contextlib
import struct
import time
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

# Worst first, so that a band shows it if one worker of many is in it.
_STATES = ("forced-open", "open", "half-open", "forced-closed", "closed")

# Gauges that are asked for at one moment are answered from one reading.
_MOMENT = 0.05


class Metrics:
    """The metrics of one run.

    Args:
        folder: where its processes put them; `environment` tells them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
        self._registry = CollectorRegistry()
        MultiProcessCollector(self._registry, str(folder))  # type: ignore[no-untyped-call]  # it registers itself
        self._read: list[tuple[str, dict[str, str], float]] = []
        self._read_at = 0.0

    def total(self, name: str, **labels: str) -> float | None:
        """The sum of a metric's series that have these labels; None while there is none."""
        found = [value for one, its, value in self._samples() if one == name and labels.items() <= its.items()]
        return sum(found) if found else None

    def breaker_state(self, policy: str) -> str | None:
        """The worst state that a policy's breaker is in, in any process."""
        found = {
            labels["state"]
            for name, labels, value in self._samples()
            if name == "holdfast_breaker_state" and labels["policy"] == policy and value
        }
        return next((state for state in _STATES if state in found), None)

    def _samples(self) -> list[tuple[str, dict[str, str], float]]:
        if time.monotonic() - self._read_at > _MOMENT:
            # Between making a file and giving it a size the library lets a reader see it empty: then the last reading stands.
            with contextlib.suppress(struct.error):
                self._read = [
                    (sample.name, dict(sample.labels), sample.value) for family in self._registry.collect() for sample in family.samples
                ]
            self._read_at = time.monotonic()
        return self._read
