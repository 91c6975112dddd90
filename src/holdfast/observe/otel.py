"""Metrics and span events through OpenTelemetry's API; which SDK and exporter are behind it is the application's choice.

    from holdfast.observe import otel

    otel.install()

The metrics are those of `holdfast.observe.metrics`. What happens in a call (a retry, a refusal, the breaker that opens) is also an
event of the span in which the call runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

try:
    from opentelemetry import trace
    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, MeterProvider, Observation, get_meter, get_meter_provider
except ImportError as error:
    raise ImportError("holdfast.observe.otel needs the extra: pip install 'holdfast[otel]'") from error

import holdfast
from holdfast import events
from holdfast.events import Event
from holdfast.observe import metrics
from holdfast.observe.lines import told
from holdfast.observe.metrics import BUCKETS, Metric, Names
from holdfast.observe.readings import Chosen, Gauges, Readings, Series, gauges, pool_figures, pools
from holdfast.policy import Policy


def install(
    meter_provider: MeterProvider | None = None,
    *,
    policies: Iterable[Policy] | None = None,
    pools: Collection[str] | None = None,
    max_policies: int = 100,
    span_events: bool = True,
) -> Callable[[], None]:
    """Send holdfast's metrics to a meter provider, and its events to the current span.

    Args:
        meter_provider: where to; None for the global one, also one that is set later. One that gets them already goes on as it is.
        policies: only these; None for every policy of the process, those that are made later too.
        pools: only the pools of workers of these names; None for all of this user and machine that live.
        max_policies: how many names get series of their own, >= 1; the rest share the name `(other)`.
        span_events: whether spans get events.

    Returns:
        A function that ends it; calling it again does nothing.

    Raises:
        ValueError: an argument is out of its range, or this provider gets them with other policies.
        TypeError: `policies` has something else in it.
    """
    chosen = Chosen(policies)
    names = Names("max_policies", max_policies)
    with _installing:
        instruments = _instruments(meter_provider)
        if instruments.source is not None and instruments.source.chosen != chosen:
            raise ValueError("holdfast's metrics go to this meter provider with other policies; end that first")
        if instruments.source is None:
            instruments.source = _Source(instruments, chosen, names, pools, span_events)
        return instruments.source.undo


class _Instruments:
    """What a meter provider has of ours. It cannot give instruments back, so they stay, and show nothing while nothing is installed."""

    def __init__(self, meter: Meter) -> None:
        self.source: _Source | None = None
        self._add: dict[Metric, Counter | Histogram] = {metric: self._make(meter, metric) for metric in metrics.EVENTS}
        for metric in (*metrics.GAUGES, *metrics.POOL_GAUGES):
            meter.create_observable_gauge(metric.name, [partial(self._observe, metric)], metric.unit, metric.help)
        for metric in (*metrics.POOL_COUNTERS, metrics.WORKERS_WAIT_TIME):
            meter.create_observable_counter(metric.name, [partial(self._observe, metric)], metric.unit, metric.help)

    @staticmethod
    def _make(meter: Meter, metric: Metric) -> Counter | Histogram:
        if metric.kind == "counter":
            return meter.create_counter(metric.name, metric.unit, metric.help)
        return meter.create_histogram(metric.name, metric.unit, metric.help, explicit_bucket_boundaries_advisory=BUCKETS)

    def series(self, metric: Metric, labels: tuple[str, ...]) -> Series:
        """What adds to a counter or observes a value."""
        instrument, attributes = self._add[metric], _attributes(metric, labels)
        if isinstance(instrument, Histogram):
            return lambda value: instrument.record(value, attributes)
        return lambda value: instrument.add(value, attributes)

    def _observe(self, metric: Metric, _: CallbackOptions) -> Iterable[Observation]:
        source = self.source
        if source is None:
            return []
        found = source.pools() if metric.labels == metrics.POOL else source.gauges()
        return [Observation(value, _attributes(one, labels)) for (one, labels), value in found.items() if one is metric]


class _Source:
    """What a meter provider shows while it is installed."""

    def __init__(self, instruments: _Instruments, chosen: Chosen, names: Names, wanted: Collection[str] | None, span_events: bool) -> None:
        self.chosen = chosen
        self._instruments = instruments
        self._names = names
        self._wanted = wanted
        self._stops = [events.subscribe(Readings(instruments.series, chosen, names))]
        if span_events:
            self._stops.append(events.subscribe(self._on_span))

    def undo(self) -> None:
        """End it."""
        with _installing:
            if self._instruments.source is self:
                self._instruments.source = None
                for stop in self._stops:
                    stop()

    def gauges(self) -> Gauges:
        """What the policies are like now."""
        return gauges(self.chosen.snapshots(), self._names)

    def pools(self) -> Gauges:
        """What the pools of workers are like now."""
        return {
            (metric, (pool["name"],)): value
            for pool in pools(self._wanted)
            for metric, value in pool_figures(pool).items()
            if value is not None
        }

    def _on_span(self, event: Event) -> None:
        if self.chosen.names is not None and event.policy not in self.chosen.names:
            return
        span = trace.get_current_span()
        if span.is_recording():
            line = told(event)
            if line is not None:
                span.add_event(f"holdfast.{line.event}", {f"holdfast.{name}": value for name, value in line.fields.items()})


_installing = threading.Lock()
_made: WeakKeyDictionary[MeterProvider, _Instruments] = WeakKeyDictionary()
_made_global: _Instruments | None = None


def _instruments(provider: MeterProvider | None) -> _Instruments:
    """Those of a provider, made once."""
    global _made_global
    if provider is None or provider is get_meter_provider():
        if _made_global is None:  # its meter goes to the provider that is global, also if that is set later
            _made_global = _Instruments(get_meter("holdfast", holdfast.__version__))
        return _made_global
    if provider not in _made:
        _made[provider] = _Instruments(provider.get_meter("holdfast", holdfast.__version__))
    return _made[provider]


def _attributes(metric: Metric, labels: tuple[str, ...]) -> Mapping[str, Any]:
    return {f"holdfast.{name}": value for name, value in zip(metric.labels, labels, strict=True)}
