"""Metrics on prometheus_client's registry: what they say, that their labels are bounded, and that they go as they came."""

import asyncio
import gc
import subprocess
import sys
import threading

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, Counter

import holdfast
from holdfast import (
    Backoff,
    Breaker,
    BreakerOpen,
    Budget,
    Bulkhead,
    BulkheadFull,
    Fallback,
    Hedge,
    Policy,
    RateLimit,
    RateLimited,
    Retry,
    events,
    records,
)
from holdfast.observe import metrics, prometheus
from holdfast.testing import FakeClock, Scripted


@pytest.fixture(autouse=True)
def no_policies_of_other_tests():
    gc.collect()  # an error that was raised may hold one in a ring


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    stop = prometheus.install(registry)
    yield registry
    stop()


def value(registry, name, **labels):
    return registry.get_sample_value(name, labels)


def series(registry, name):
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def quietly(policy, *outcomes):
    try:
        return policy.call(Scripted(*outcomes))
    except Exception as error:
        return error


def instant(**parts):
    return Retry(backoff=Backoff(base=0.0, jitter="none"), **parts)


def test_attempts_and_calls_are_counted_by_their_verdict(registry):
    billing = Policy("billing", retry=instant())
    quietly(billing, ConnectionError(), "ok")
    quietly(billing, "ok")
    quietly(billing, *[TimeoutError()] * 3)
    assert value(registry, "holdfast_calls_total", policy="billing") == 3
    assert value(registry, "holdfast_attempts_total", policy="billing", verdict="success") == 2
    assert value(registry, "holdfast_attempts_total", policy="billing", verdict="failure") == 4
    assert value(registry, "holdfast_retries_total", policy="billing") == 3


def test_durations_fall_into_buckets_of_seconds(registry):
    billing = Policy("billing")
    with FakeClock() as clock:
        for seconds in (0.004, 0.3, 20.0):
            billing.call(clock.advance, seconds)
    assert value(registry, "holdfast_attempt_duration_seconds_count", policy="billing", verdict="success") == 3
    assert value(registry, "holdfast_attempt_duration_seconds_sum", policy="billing", verdict="success") == pytest.approx(20.304)
    at_most = {
        bound: value(registry, "holdfast_attempt_duration_seconds_bucket", policy="billing", verdict="success", le=bound)
        for bound in ("0.005", "0.25", "0.5", "10.0", "+Inf")
    }
    assert at_most == {"0.005": 1, "0.25": 1, "0.5": 2, "10.0": 2, "+Inf": 3}


def test_buckets_are_the_users_where_he_gives_some():
    registry = CollectorRegistry()
    stop = prometheus.install(registry, buckets=(0.001, 1))
    Policy("billing").call(int)
    assert len(series(registry, "holdfast_attempt_duration_seconds_bucket")) == 3
    stop()


@pytest.mark.parametrize(
    ("reason", "policy"),
    [
        ("attempts", lambda: Policy("p", retry=instant(attempts=2))),
        ("budget", lambda: Policy("p", retry=instant(budget=Budget(ratio=0.0, min_per_second=0.0)))),
        ("deadline", lambda: Policy("p", deadline=1, retry=Retry(backoff=Backoff(base=5, cap=5, jitter="none")))),
        ("breaker", lambda: Policy("p", retry=instant(), breaker=Breaker(consecutive=1))),
    ],
)
def test_giving_up_is_told_by_its_reason(registry, reason, policy):
    quietly(policy(), ConnectionError(), ConnectionError())
    assert series(registry, "holdfast_gave_up_total") == {(("policy", "p"), ("reason", reason)): 1}


def test_refusals_are_told_by_their_kind(registry):
    shut = Policy("shut", breaker=Breaker())
    shut.breaker.force_open()
    full = Policy("full", bulkhead=Bulkhead(1))
    paced = Policy("paced", rate_limit=RateLimit(0.001))
    assert isinstance(quietly(shut, 1), BreakerOpen)
    with full.guard():
        assert isinstance(quietly(full, 1), BulkheadFull)
    quietly(paced, 1)
    assert isinstance(quietly(paced, 1), RateLimited)
    assert series(registry, "holdfast_refusals_total") == {
        (("kind", "BreakerOpen"), ("policy", "shut")): 1,
        (("kind", "BulkheadFull"), ("policy", "full")): 1,
        (("kind", "RateLimited"), ("policy", "paced")): 1,
    }


def test_the_state_of_a_breaker_is_one_gauge_per_state_and_its_changes_are_counted(registry):
    billing = Policy("billing", breaker=Breaker(consecutive=1, open_for=10))

    def states():
        found = {labels: one for labels, one in series(registry, "holdfast_breaker_state").items() if ("policy", "billing") in labels}
        assert len(found) == 5
        return [dict(labels)["state"] for labels, one in found.items() if one == 1]

    with FakeClock() as clock:
        assert states() == ["closed"]
        quietly(billing, ConnectionError())
        assert states() == ["open"]
        clock.advance(11)
        quietly(billing, "ok")
        assert states() == ["half-open"]
    assert series(registry, "holdfast_breaker_transitions_total") == {
        (("from", "closed"), ("policy", "billing"), ("to", "open")): 1,
        (("from", "open"), ("policy", "billing"), ("to", "half-open")): 1,
    }


def test_the_budget_tells_what_is_left_granted_and_denied(registry):
    billing = Policy("billing", retry=instant(budget=Budget(ratio=0.0, min_per_second=0.3, window=10.0)))
    plain = Policy("plain", retry=instant())
    with FakeClock():
        assert value(registry, "holdfast_budget_left", policy="billing") == 3
        for _ in range(3):
            quietly(billing, *[ConnectionError()] * 3)
        quietly(plain, ConnectionError(), 1)
        assert value(registry, "holdfast_budget_left", policy="billing") == 0
        assert value(registry, "holdfast_budget_left", policy="plain") is None
    assert series(registry, "holdfast_budget_decisions_total") == {
        (("decision", "denied"), ("policy", "billing")): 2,
        (("decision", "granted"), ("policy", "billing")): 3,
    }


def test_places_are_read_when_the_registry_is_scraped(registry):
    billing = Policy("billing", bulkhead=Bulkhead(2, queue=1, wait=5))
    assert value(registry, "holdfast_bulkhead_limit", policy="billing") == 2
    release, waiting = threading.Event(), []
    with billing.guard(), billing.guard():
        waiting = [threading.Thread(target=lambda: billing.call(release.wait, 5))]
        waiting[0].start()
        while billing.snapshot()["limit"]["waiting"] == 0:
            pass
        assert value(registry, "holdfast_bulkhead_in_flight", policy="billing") == 2
        assert value(registry, "holdfast_bulkhead_waiting", policy="billing") == 1
    release.set()
    waiting[0].join()
    assert value(registry, "holdfast_bulkhead_in_flight", policy="billing") == 0


def test_places_across_the_host_are_the_machines_and_not_added_up(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_RUN_DIR", str(tmp_path))
    policies = [Policy("billing", bulkhead=Bulkhead(4, across="host")) for _ in range(2)]
    with policies[0].guard(), policies[1].guard():
        assert value(registry, "holdfast_bulkhead_host_in_flight", policy="billing") == 2
        assert value(registry, "holdfast_bulkhead_host_limit", policy="billing") == 4
        assert value(registry, "holdfast_bulkhead_in_flight", policy="billing") is None


def test_an_adaptive_limit_a_rate_limit_and_a_hedge_show_what_they_found(registry):
    adaptive = Policy("adaptive", adaptive=holdfast.AdaptiveLimit(algorithm="aimd", initial=10))
    hedged = Policy("hedged", hedge=Hedge(after=0.25))
    paced = Policy("paced", rate_limit=RateLimit(0.5))
    with FakeClock():
        quietly(adaptive, ConnectionError())
        quietly(paced, 1)
        assert value(registry, "holdfast_bulkhead_limit", policy="adaptive") == 9
        assert value(registry, "holdfast_hedge_delay_seconds", policy="hedged") == 0.25
        assert value(registry, "holdfast_rate_limit_wait_seconds", policy="paced") == pytest.approx(2)
    assert hedged


def test_hedges_and_fallbacks_are_counted(registry):
    hedged = Policy("hedged", hedge=Hedge(after=0.1, budget=Budget()))
    FakeClock().run(hedged.acall(asyncio.sleep, 1))
    quietly(Policy("fallen", fallback=Fallback(value=0)), ConnectionError())
    assert value(registry, "holdfast_hedges_total", policy="hedged") == 1
    assert value(registry, "holdfast_budget_decisions_total", policy="hedged", decision="granted") == 1
    assert value(registry, "holdfast_fallbacks_total", policy="fallen") == 1


def test_deadlines_that_were_outrun_are_counted_with_their_seconds(registry):
    report = Policy("report", deadline=1.0)
    with FakeClock() as clock:
        report.call(clock.advance, 1.5)
    assert value(registry, "holdfast_deadline_outruns_total", policy="report") == 1
    assert value(registry, "holdfast_deadline_outrun_seconds_total", policy="report") == pytest.approx(0.5)


def test_locks_and_the_fleet_are_counted_without_their_names(registry):
    told = [
        records.LockTook("order:42", 0.3, 7),
        records.LockOverran("user@example.com", 33.0, 30.0, 3.0),
        records.LockLost("order:42", "somebody else has it"),
        records.FleetLost("", "no answer in 0.2 s"),
        records.FleetBack("", 12.0),
        records.FleetIgnored("billing", "an answer"),
    ]
    events.publish(told)
    assert value(registry, "holdfast_lock_wait_seconds_sum") == pytest.approx(0.3)
    assert value(registry, "holdfast_lock_overruns_total") == 1
    assert value(registry, "holdfast_lock_overrun_seconds_total") == 3.0
    assert value(registry, "holdfast_lock_losses_total") == 1
    assert value(registry, "holdfast_fleet_losses_total") == 1
    assert value(registry, "holdfast_fleet_away_seconds_total") == 12.0
    assert value(registry, "holdfast_fleet_ignored_total") == 1
    written = prometheus_client.generate_latest(registry)
    assert b"order" not in written
    assert b"user@" not in written


def test_a_policy_that_lives_only_in_a_function_that_it_decorates_is_shown(registry):
    @Policy("anonymous", bulkhead=Bulkhead(7))
    def f():
        return 1

    gc.collect()
    f()
    assert value(registry, "holdfast_bulkhead_limit", policy="anonymous") == 7


def test_a_policy_that_is_gone_has_no_gauges(registry):
    policy = Policy("short-lived", bulkhead=Bulkhead(7))
    assert value(registry, "holdfast_bulkhead_limit", policy="short-lived") == 7
    del policy
    assert value(registry, "holdfast_bulkhead_limit", policy="short-lived") is None


def test_policies_of_one_name_are_shown_as_one(registry):
    kept = [Policy("twin", bulkhead=Bulkhead(3), breaker=Breaker()) for _ in range(2)]
    kept[0].breaker.force_open()
    assert value(registry, "holdfast_bulkhead_limit", policy="twin") == 6
    assert value(registry, "holdfast_breaker_state", policy="twin", state="forced-open") == 1
    assert value(registry, "holdfast_breaker_state", policy="twin", state="closed") == 1
    assert value(registry, "holdfast_breaker_state", policy="twin", state="open") == 0


def test_labels_are_bounded_whatever_names_and_errors_come():
    registry = CollectorRegistry()
    kept = [Policy(f"host-{number}", retry=instant(), bulkhead=Bulkhead(1)) for number in range(50)]
    stop = prometheus.install(registry, max_policies=3, policies=kept)  # others may live in this process
    for number, policy in enumerate(kept):
        quietly(policy, type(f"Error{number}", (ConnectionError,), {})(f"secret {number}"), "ok")
    calls = series(registry, "holdfast_calls_total")
    assert len(calls) == 4
    assert calls[("policy", metrics.OVERFLOW),] == 47
    assert len(series(registry, "holdfast_bulkhead_limit")) == 4
    assert value(registry, "holdfast_bulkhead_limit", policy=metrics.OVERFLOW) == 47
    assert b"secret" not in prometheus_client.generate_latest(registry)
    stop()


def test_a_long_name_is_cut(registry):
    Policy("x" * 10_000).call(int)
    ((_, label),) = next(iter(series(registry, "holdfast_calls_total")))
    assert len(label) == 120


def test_a_name_that_cannot_be_encoded_does_not_fail_the_scrape(registry):
    Policy("billing\ud800").call(int)
    assert b'holdfast_calls_total{policy="billing\\\\ud800"} 1.0' in prometheus_client.generate_latest(registry)


def test_only_the_chosen_policies_are_shown():
    registry = CollectorRegistry()
    billing, other = (Policy(name, bulkhead=Bulkhead(1)) for name in ("billing", "other"))
    stop = prometheus.install(registry, policies=[billing])
    billing.call(int)
    other.call(int)
    assert series(registry, "holdfast_calls_total") == {(("policy", "billing"),): 1}
    assert series(registry, "holdfast_bulkhead_limit") == {(("policy", "billing"),): 1}
    stop()


def test_installing_twice_counts_once_and_undoing_takes_everything_off():
    registry = CollectorRegistry()
    before = list(events.listeners)
    stop = prometheus.install(registry)
    again = prometheus.install(registry)
    Policy("billing").call(int)
    assert value(registry, "holdfast_calls_total", policy="billing") == 1
    again()
    again()
    stop()
    assert list(registry.collect()) == []
    assert events.listeners == before
    stop = prometheus.install(registry)
    assert value(registry, "holdfast_calls_total", policy="billing") is None
    stop()


def test_a_late_undo_of_an_earlier_installation_leaves_the_new_one():
    registry = CollectorRegistry()
    earlier = prometheus.install(registry)
    earlier()
    stop = prometheus.install(registry)
    earlier()
    Policy("billing").call(int)
    assert value(registry, "holdfast_calls_total", policy="billing") == 1
    stop()


def test_two_registries_have_their_own():
    one, two = CollectorRegistry(), CollectorRegistry()
    stop_one, stop_two = prometheus.install(one), prometheus.install(two)
    stop_one()
    Policy("billing").call(int)
    assert value(two, "holdfast_calls_total", policy="billing") == 1
    stop_two()


def test_a_name_that_is_taken_leaves_nothing_half_installed():
    registry = CollectorRegistry()
    before = list(events.listeners)
    Counter("holdfast_fallbacks", "the user's own", registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        prometheus.install(registry)
    assert [family.name for family in registry.collect()] == ["holdfast_fallbacks"]
    assert events.listeners == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_policies": 0}, ValueError, "max_policies must be a whole number >= 1, got 0"),
        ({"policies": ["billing"]}, TypeError, "policies must be policies, got 'billing'"),
        ({"buckets": ()}, ValueError, "buckets must be rising numbers"),
        ({"buckets": (1, 1)}, ValueError, "buckets must be rising numbers"),
        ({"buckets": (-1, 1)}, ValueError, "buckets must be rising numbers"),
        ({"buckets": (float("nan"), 1)}, ValueError, "buckets must be rising numbers"),
    ],
)
def test_wrong_arguments_name_themselves(arguments, error, message):
    registry = CollectorRegistry()
    with pytest.raises(error, match=message):
        prometheus.install(registry, **arguments)
    assert list(registry.collect()) == []


def test_other_policies_on_the_same_registry_are_refused():
    registry = CollectorRegistry()
    stop = prometheus.install(registry)
    with pytest.raises(ValueError, match="other policies"):
        prometheus.install(registry, policies=[])
    stop()


def test_reading_while_policies_come_and_go_in_threads(registry):
    done = threading.Event()

    def churn():
        while not done.is_set():
            Policy("brief", bulkhead=Bulkhead(1), breaker=Breaker()).call(int)

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            list(registry.collect())
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_names_follow_the_conventions():
    every = [*metrics.EVENTS, *metrics.GAUGES, *metrics.POOL_GAUGES, *metrics.POOL_COUNTERS, metrics.WORKERS_WAIT]
    assert len({metric.prometheus_name for metric in every}) == len(every)
    for metric in every:
        assert metric.name.startswith("holdfast.")
        assert metric.name == metric.name.lower()
        assert metric.unit in {"s", "1"} or (metric.unit[0], metric.unit[-1]) == ("{", "}")
        assert metric.help.endswith(".")


def test_without_the_package_the_error_says_what_to_install():
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "try:\n    import holdfast.observe.prometheus\n"
        "except ImportError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "holdfast.observe.prometheus needs the extra: pip install 'holdfast[prometheus]'"


def test_pools_of_workers_are_shown_under_their_names():
    from holdfast.servers.workers import Workers

    pool = Workers("test-observe", places=4)
    registry = CollectorRegistry()
    stop = prometheus.install(registry, pools=["test-observe"])
    requests = value(registry, "holdfast_workers_requests_total", pool="test-observe") or 0
    began = pool.begin(waited=0.03)
    assert value(registry, "holdfast_workers_busy", pool="test-observe") == 1
    assert value(registry, "holdfast_workers_idle", pool="test-observe") == 3
    pool.end(began)
    assert value(registry, "holdfast_workers_busy", pool="test-observe") == 0
    assert value(registry, "holdfast_workers_requests_total", pool="test-observe") == requests + 1
    assert value(registry, "holdfast_workers_wait_seconds_count", pool="test-observe") == requests + 1
    assert series(registry, "holdfast_workers_live").keys() == {(("pool", "test-observe"),)}
    stop()
