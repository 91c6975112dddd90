"""Metrics and span events through OpenTelemetry's API, read back by its SDK."""

import subprocess
import sys

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from holdfast import Backoff, Breaker, Budget, Bulkhead, Policy, Retry, events
from holdfast.observe import metrics, otel
from holdfast.testing import FakeClock, Scripted


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader):
    provider = MeterProvider([reader])
    yield provider
    provider.shutdown()


def read(reader):
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: {tuple(sorted(point.attributes.items())): point for point in metric.data.data_points}
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def value(reader, name, **attributes):
    key = tuple(sorted((f"holdfast.{label}", text) for label, text in attributes.items()))
    point = read(reader).get(name, {}).get(key)
    return None if point is None else point.value


def billing(**parts):
    return Policy("billing", retry=Retry(backoff=Backoff(base=0.0), budget=Budget()), breaker=Breaker(), bulkhead=Bulkhead(3), **parts)


def test_counters_and_gauges_say_what_the_policies_do(provider, reader):
    stop = otel.install(provider)
    policy = billing()
    policy.call(Scripted(ConnectionError(), "ok"))
    policy.breaker.force_open()
    assert value(reader, "holdfast.calls", policy="billing") == 1
    assert value(reader, "holdfast.attempts", policy="billing", verdict="failure") == 1
    assert value(reader, "holdfast.retries", policy="billing") == 1
    assert value(reader, "holdfast.budget.decisions", policy="billing", decision="granted") == 1
    assert value(reader, "holdfast.bulkhead.limit", policy="billing") == 3
    assert value(reader, "holdfast.breaker.state", policy="billing", state="forced-open") == 1
    assert value(reader, "holdfast.breaker.state", policy="billing", state="closed") == 0
    stop()


def test_durations_have_the_buckets_and_the_unit_of_the_conventions(provider, reader):
    stop = otel.install(provider)
    policy = billing()
    with FakeClock() as clock:
        policy.call(clock.advance, 0.3)
    (point,) = read(reader)["holdfast.attempt.duration"].values()
    assert tuple(point.explicit_bounds) == metrics.BUCKETS
    assert point.sum == pytest.approx(0.3)
    stop()


def test_installing_twice_counts_once_and_undoing_ends_counters_and_gauges(provider, reader):
    before = list(events.listeners)
    policy = billing()
    stop = otel.install(provider, policies=[policy])  # others of the name may live in this process
    otel.install(provider, policies=[policy])
    policy.call(int)
    assert value(reader, "holdfast.calls", policy="billing") == 1
    stop()
    stop()
    assert events.listeners == before
    policy.call(int)
    assert value(reader, "holdfast.calls", policy="billing") == 1
    assert value(reader, "holdfast.bulkhead.limit", policy="billing") is None
    stop = otel.install(provider, policies=[policy])
    policy.call(int)
    assert value(reader, "holdfast.calls", policy="billing") == 2
    assert value(reader, "holdfast.bulkhead.limit", policy="billing") == 3
    stop()


def test_only_the_chosen_policies_and_a_bounded_number_of_names(provider, reader):
    chosen = [Policy(f"host-{number}", bulkhead=Bulkhead(1)) for number in range(9)]
    stop = otel.install(provider, policies=chosen, max_policies=2)
    for policy in [*chosen, billing()]:
        policy.call(int)
    assert len(read(reader)["holdfast.calls"]) == 3
    assert value(reader, "holdfast.calls", policy=metrics.OVERFLOW) == 7
    assert value(reader, "holdfast.bulkhead.limit", policy=metrics.OVERFLOW) == 7
    stop()


def test_a_call_tells_the_span_in_which_it_runs_without_the_errors_text(provider):
    exporter = InMemorySpanExporter()
    tracer = TracerProvider()
    tracer.add_span_processor(SimpleSpanProcessor(exporter))
    stop = otel.install(provider)
    with tracer.get_tracer("test").start_as_current_span("request"):
        billing().call(Scripted(ConnectionError("password=hunter2"), "ok"))
    stop()
    (span,) = exporter.get_finished_spans()
    (event,) = span.events
    assert event.name == "holdfast.retrying"
    assert dict(event.attributes) == {
        "holdfast.policy": "billing",
        "holdfast.attempt": 1,
        "holdfast.delay": 0.0,
        "holdfast.error": "ConnectionError",
    }


def test_span_events_can_be_left_out(provider):
    exporter = InMemorySpanExporter()
    tracer = TracerProvider()
    tracer.add_span_processor(SimpleSpanProcessor(exporter))
    stop = otel.install(provider, span_events=False)
    with tracer.get_tracer("test").start_as_current_span("request"):
        billing().call(Scripted(ConnectionError(), "ok"))
    stop()
    assert exporter.get_finished_spans()[0].events == ()


def test_a_provider_that_becomes_the_global_one_later_gets_the_metrics_once():
    program = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from holdfast import Policy
from holdfast.observe import otel
stop = otel.install()
reader = InMemoryMetricReader()
provider = MeterProvider([reader])
metrics.set_meter_provider(provider)
otel.install()
otel.install(provider)
Policy("billing").call(int)
(resource,) = reader.get_metrics_data().resource_metrics
found = {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
assert found["holdfast.calls"].data.data_points[0].value == 1
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_without_the_package_the_error_says_what_to_install():
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "try:\n    import holdfast.observe.otel\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "holdfast.observe.otel needs the extra: pip install 'holdfast[otel]'"
