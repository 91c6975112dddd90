"""Metrics for prometheus_client.

    from holdfast.observe import prometheus

    prometheus.install()                                     # then serve prometheus_client's registry as you do

Counters and histograms rise with the events; gauges are read from the policies when the registry is scraped. With several
processes (`PROMETHEUS_MULTIPROC_DIR`) a scrape is answered by one of them for all: there each process writes its gauges down every
second, and `scrape_registry()` is what to serve.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError("holdfast.observe.prometheus needs the extra: pip install 'holdfast[prometheus]'") from error

from holdfast import events
from holdfast.observe import metrics
from holdfast.observe.metrics import BUCKETS, Metric, Names
from holdfast.observe.multiprocess import Writer
from holdfast.observe.readings import Chosen, Gauges, Readings, gauges, pool_figures, pools
from holdfast.policy import Policy

if TYPE_CHECKING:
    from holdfast.servers.workers import PoolSnapshot

Labels = tuple[str, ...]


def install(
    registry: CollectorRegistry = REGISTRY,
    *,
    policies: Iterable[Policy] | None = None,
    pools: Collection[str] | None = None,
    max_policies: int = 100,
    buckets: Sequence[float] = BUCKETS,
) -> Callable[[], None]:
    """Put holdfast's metrics on a registry.

    Args:
        registry: where to. One that has them already keeps them as they are.
        policies: only these; None for every policy of the process, those that are made later too.
        pools: only the pools of workers of these names; None for all of this user and machine that live.
        max_policies: how many names get series of their own, >= 1; the rest share the name `(other)`.
        buckets: upper bounds of durations, in seconds, rising.

    Returns:
        A function that takes them off again; calling it again does nothing.

    Raises:
        ValueError: an argument is out of its range, or the registry has them with other policies.
        TypeError: `policies` has something else in it.
    """
    chosen = Chosen(policies)
    names = Names("max_policies", max_policies)
    bounds = _checked(buckets)
    with _installing:
        there = _installed.get(registry)
        if there is None:
            there = _installed[registry] = _Installation(registry, chosen, names, bounds, pools)
        elif there.chosen != chosen:
            raise ValueError("holdfast's metrics are on this registry with other policies; take them off first")
    return there.undo


def scrape_registry(*, pools: Collection[str] | None = None) -> CollectorRegistry:
    """What to serve: the default registry, or with several processes one that collects from all of them, to be made for each scrape.

    Args:
        pools: with several processes, only the pools of workers of these names; None for all of this user and machine that live.
    """
    if not is_multiprocess():
        return REGISTRY
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # it registers itself
    registry.register(PoolCollector(pools))
    return registry


def is_multiprocess() -> bool:
    """Whether prometheus_client keeps its values in files that processes share; it asks the same."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ or "prometheus_multiproc_dir" in os.environ


class PolicyCollector(Collector):
    """Reads the gauges of policies when it is asked."""

    def __init__(self, read: Callable[[], Gauges]) -> None:
        self._read = read

    def describe(self) -> Iterable[Family]:
        """Their names, for a registry that looks for names taken twice."""
        return [_gauge(metric) for metric in metrics.GAUGES]

    def collect(self) -> Iterable[Family]:
        """What they are now."""
        families = {metric: _gauge(metric) for metric in metrics.GAUGES}
        for (metric, labels), value in self._read().items():
            families[metric].add_metric(labels, value)
        return families.values()


class PoolCollector(Collector):
    """Reads the pools of workers of this user and machine when it is asked, from whichever process.

    Args:
        wanted: only those of these names; None for all that have a living worker.
    """

    def __init__(self, wanted: Collection[str] | None = None) -> None:
        self._wanted = wanted

    def describe(self) -> Iterable[Family]:
        """Their names, for a registry that looks for names taken twice."""
        return self._families([])

    def collect(self) -> Iterable[Family]:
        """What they are now."""
        return self._families(pools(self._wanted))

    @staticmethod
    def _families(found: list[PoolSnapshot]) -> Iterator[Family]:
        figures = [(pool["name"], pool_figures(pool)) for pool in found]
        for metric in (*metrics.POOL_GAUGES, *metrics.POOL_COUNTERS):
            family = _gauge(metric) if metric.kind == "gauge" else _counter(metric)
            for name, values in figures:
                value = values[metric]
                if value is not None:
                    family.add_metric([name], value)
            yield family
        wait = metrics.WORKERS_WAIT
        waits = HistogramMetricFamily(wait.prometheus_name, wait.help, labels=wait.labels)
        for pool in found:
            waits.add_metric([pool["name"]], [(bound, float(seen)) for bound, seen in pool["waits"].items()], pool["wait_seconds"])
        yield waits


class _Installation:
    """holdfast's metrics on one registry."""

    def __init__(
        self, registry: CollectorRegistry, chosen: Chosen, names: Names, buckets: Sequence[float], wanted: Collection[str] | None
    ) -> None:
        self.chosen = chosen
        self._registry = registry
        self._names = names
        self._buckets = buckets
        self._metrics: dict[Metric, Counter | Histogram | Gauge] = {}
        self._collectors: list[Collector] = []
        self._stops: list[Callable[[], object]] = []
        try:
            self._register(wanted)
        except BaseException:
            self._take_off()
            raise

    def undo(self) -> None:
        """Take them off the registry."""
        with _installing:
            if _installed.get(self._registry) is self:
                del _installed[self._registry]
                self._take_off()

    def _register(self, wanted: Collection[str] | None) -> None:
        for metric in metrics.EVENTS:
            self._metrics[metric] = self._make(metric)
        if is_multiprocess():
            for metric in metrics.GAUGES:
                self._metrics[metric] = self._make(metric)
            writer = Writer(self._read, self._set)
            self._stops.append(writer.stop)
            self._stops.append(events.subscribe(writer.heard))
        else:
            for collector in (PolicyCollector(self._read), PoolCollector(wanted)):
                self._registry.register(collector)
                self._collectors.append(collector)
        self._stops.append(events.subscribe(Readings(self._series, self.chosen, self._names)))

    def _take_off(self) -> None:
        while self._stops:
            self._stops.pop()()
        for collector in (*self._metrics.values(), *self._collectors):
            self._registry.unregister(collector)

    def _read(self) -> Gauges:
        return gauges(self.chosen.snapshots(), self._names)

    def _make(self, metric: Metric) -> Counter | Histogram | Gauge:
        name, labels = metric.prometheus_name, metric.labels
        if metric.kind == "counter":
            return Counter(name, metric.help, labels, registry=self._registry)
        if metric.kind == "histogram":
            return Histogram(name, metric.help, labels, buckets=self._buckets, registry=self._registry)
        mode = "livesum" if metric.together == "sum" else "livemax"
        return Gauge(name, metric.help, labels, registry=self._registry, multiprocess_mode=mode)  # type: ignore[arg-type]  # one of its words

    def _series(self, metric: Metric, labels: Labels) -> Callable[[float], None]:
        series = self._metrics[metric].labels(*labels) if labels else self._metrics[metric]
        return series.observe if isinstance(series, Histogram) else series.inc

    def _set(self, metric: Metric, labels: Labels, value: float) -> None:
        series = self._metrics[metric].labels(*labels)
        if isinstance(series, Gauge):
            series.set(value)


_installed: dict[CollectorRegistry, _Installation] = {}
_installing = threading.Lock()


def _gauge(metric: Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.prometheus_name, metric.help, labels=metric.labels)


def _counter(metric: Metric) -> CounterMetricFamily:
    return CounterMetricFamily(metric.prometheus_name, metric.help, labels=metric.labels)


def _checked(buckets: Sequence[float]) -> Sequence[float]:
    bounds = [float(bound) for bound in buckets]
    if not bounds or bounds[0] < 0 or not all(low < high for low, high in pairwise(bounds)):
        raise ValueError(f"buckets must be rising numbers of seconds >= 0, got {buckets!r}")
    return bounds
