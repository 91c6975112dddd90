"""What it costs to be watched: a call through the five with each exporter on, over the same call with nobody listening."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from holdfast.observe import logging, otel, prometheus
from measure import Effort, Figure, Timed, blocking, fastest
from subjects import five, retry_only, work

Install = Callable[[], Callable[[], None]]


def figures(effort: Effort) -> Iterator[Figure]:
    provider = MeterProvider()
    installs: dict[str, Install] = {
        "prometheus": lambda: prometheus.install(CollectorRegistry()),
        "OpenTelemetry's SDK": lambda: otel.install(provider),
        "logging": logging.install,
    }
    for subject, policy in (("the five", five()), ("retry only", retry_only())):
        guarded = policy(work)
        unheard, *heard = fastest(effort.times(200), [blocking("f(1)", f=guarded), *(_watched(guarded, it) for it in installs.values())])
        for name, seconds in zip(installs, heard, strict=True):
            yield Figure(f"{subject} with {name}: more per call than with nobody listening", (seconds - unheard) * 1e9, unit=" ns")
            yield Figure(f"{subject} with {name} / with nobody listening", seconds / unheard)


def _watched(guarded: Callable[[int], int], install: Install) -> Timed:
    timed = blocking("f(1)", f=guarded)

    def run() -> float:
        stop = install()
        try:
            guarded(1)  # the first of each series is made
            return timed()
        finally:
            stop()

    return run
