"""One breaker for all processes: opened by the fleet, probed by the fleet, closed by the fleet, forced from anywhere."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import fleet_hosts as do
import pytest
from fleet_hosts import Host, hosts, until

from holdfast.replay.parts.redis import redis_server
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

# 40 calls of the fleet open it; no process alone makes as many.
RULE = {"min_calls": 40, "failure_rate": 0.5, "window": 30, "open_for": 1.0, "open_for_max": 8.0, "probe_share": 1.0, "probes_to_close": 3}


def all_are(fleet: list[Host], state: str) -> bool:
    return all(host.do(do.state) == state for host in fleet)


def fail_together(fleet: list[Host], each: int = 12) -> None:
    for host in fleet:
        host.do(do.set_failing, True)
    for host in fleet:
        host.send(do.calls, each, 0.01)
    for host in fleet:
        host.answer()


def test_the_totals_of_the_fleet_open_it_for_all_though_no_process_saw_enough() -> None:
    with redis_server() as redis, hosts(4, redis.url, breaker=RULE) as fleet:
        fail_together(fleet)
        until(lambda: all_are(fleet, "open"), what="open everywhere")
        event = fleet[0].do(do.told, "BreakerChanged")[0]
        assert (event.old, event.new, event.reason) == ("closed", "open", "too many of the fleet's calls failed")
        assert fleet[0].do(do.calls, 3) == {"refused": 3}


def test_one_bad_host_opens_only_its_own_however_much_it_calls() -> None:
    with redis_server() as redis, hosts(4, redis.url, breaker=RULE) as fleet:
        bad, *good = fleet
        bad.do(do.set_failing, True)
        for host in good:
            host.do(do.calls, 10)
        bad.do(do.calls, 39, 0.005)  # more than half of all calls, and just below its own rule
        time.sleep(0.4)
        assert all_are(fleet, "closed")
        bad.do(do.calls, 5)
        assert bad.do(do.state) == "open"
        time.sleep(0.4)
        assert all_are(good, "closed")
        assert good[0].do(do.calls, 10) == {"ok": 10}


def test_of_two_processes_one_alone_is_no_quorum() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker=RULE) as (bad, good):
        good.do(do.calls, 5)
        bad.do(do.set_failing, True)
        bad.do(do.calls, 38, 0.005)
        time.sleep(0.3)
        assert (bad.do(do.state), good.do(do.state)) == ("closed", "closed")


def test_a_process_that_starts_while_the_breaker_is_open_refuses_from_its_first_round_on() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker={**RULE, "open_for": 8}) as fleet:
        fail_together(fleet, 25)
        until(lambda: all_are(fleet, "open"))
        with hosts(1, redis.url, breaker=RULE) as (late,):
            until(lambda: late.do(do.state) == "open")


def test_failures_in_a_row_in_most_processes_open_it_for_the_others() -> None:
    rule = {"failure_rate": None, "consecutive": 3, "open_for": 5.0}
    with redis_server() as redis, hosts(3, redis.url, breaker=rule) as fleet:
        for host in fleet:
            host.do(do.calls, 1)
        for host in fleet[:2]:
            host.do(do.set_failing, True)
            host.do(do.calls, 3)
        until(lambda: all_are(fleet, "open"))
        assert fleet[2].do(do.told, "BreakerChanged")[0].reason == "failures in a row in most of the fleet's processes"


def test_the_fleet_probes_closes_and_tells_everybody() -> None:
    with redis_server() as redis, hosts(3, redis.url, breaker=RULE) as fleet:
        fail_together(fleet, 16)
        until(lambda: all_are(fleet, "open"))
        for host in fleet:
            host.do(do.set_failing, False)
            host.do(do.pump)
        until(lambda: all_are(fleet, "closed"), what="closed everywhere")
        for host in fleet:
            assert not [outcome for outcome in host.do(do.stop) if outcome.startswith("raised")]
        assert {host.do(do.told, "BreakerChanged")[-1].reason for host in fleet} == {"the fleet's probes succeeded"}


def test_failed_probes_open_it_again_for_longer() -> None:
    with redis_server() as redis, hosts(3, redis.url, breaker={**RULE, "open_for": 0.4}) as fleet:
        fail_together(fleet, 16)
        until(lambda: all_are(fleet, "open"))
        for host in fleet:
            host.do(do.pump)
        until(lambda: max(pauses(fleet[0])) >= 0.6, 20, "open for longer")
        for host in fleet:
            host.do(do.stop)
        assert pauses(fleet[0])[0] == pytest.approx(0.4)
        assert sum(host.do(do.attempts) for host in fleet) < 3 * 16 + 60, "an open breaker lets only probes pass"


def pauses(host: Host) -> list[float]:
    return [event.pause for event in host.do(do.told, "BreakerChanged") if event.new == "open"]


def test_a_host_whose_probes_fail_does_not_keep_it_open_for_the_others() -> None:
    rule = {**RULE, "open_for": 0.3, "open_for_max": 0.6}
    with redis_server() as redis, hosts(3, redis.url, breaker=rule) as fleet:
        _bad, *good = fleet
        fail_together(fleet, 16)
        until(lambda: all_are(fleet, "open"))
        for host in good:
            host.do(do.set_failing, False)
        for host in fleet:
            host.do(do.pump)
        until(lambda: all_are(good, "closed"), 20, "closed for the good ones")
        for host in fleet:
            host.do(do.stop)


@pytest.mark.parametrize("max_probes", [1, 3])
def test_never_more_probes_run_in_the_fleet_than_allowed(max_probes: int) -> None:
    """Eight processes with fifty threads each, all of them probing something that takes its time."""
    rule = {**RULE, "open_for": 0.5, "max_probes": max_probes, "probes_to_close": 12}
    with redis_server() as redis, hosts(8, redis.url, breaker=rule, lease=10.0) as fleet:
        fail_together(fleet, 8)
        until(lambda: all_are(fleet, "open") or all_are(fleet, "half-open"))
        for host in fleet:
            host.do(do.set_failing, False, 0.02)
            host.do(count_probes)
            host.do(do.pump, 50, 0.05)
        until(lambda: any(host.do(do.state) == "closed" for host in fleet), 40, "closed")
        found = [host.do(do.most_running) for host in fleet]
        for host in fleet:
            host.do(do.stop)
    assert 0 < max(found) <= max_probes


def count_probes(world: Any) -> None:
    """From now on, only calls that begin while it is half-open are counted: the others of the fleet may know already that it is closed."""
    world.most = 0

    def probed() -> str:
        probe = world.policy.breaker.state == "half-open"
        with world.running.get_lock():
            world.running.value += probe
            world.most = max(world.most, probe and world.running.value)
        time.sleep(world.takes)
        with world.running.get_lock():
            world.running.value -= probe
        return "ok"

    world.dependency = probed


def test_a_prober_that_is_killed_wedges_nothing() -> None:
    rule = {**RULE, "open_for": 0.4, "max_probes": 1, "probes_to_close": 1}
    with redis_server() as redis, hosts(2, redis.url, breaker=rule, lease=1.0) as (prober, other):
        fail_together([prober, other], 25)
        until(lambda: prober.do(do.state) == other.do(do.state) == "open")
        prober.do(do.set_failing, False, 60.0)
        prober.do(do.pump, 2, 0.01)
        until(lambda: prober.do(probes) == 1, what="a probe that hangs")
        other.do(do.set_failing, False)
        other.do(do.pump, 2, 0.01)
        time.sleep(1.5)
        assert other.do(do.state) == "half-open", "the lease of a process that lives is renewed"
        os.kill(prober.process.pid, signal.SIGKILL)
        watch = Stopwatch(other.process.pid)
        until(lambda: other.do(do.state) == "closed")
        assert watch.took < 1.0 + 0.5
        other.do(do.stop)


def probes(world: Any) -> int:
    return int(world.policy.breaker.snapshot()["probes"])


def test_any_process_forces_it_for_all_and_any_other_resets_it() -> None:
    with redis_server() as redis, hosts(3, redis.url, breaker=RULE) as fleet:
        fleet[0].do(do.force, "force_open")
        until(lambda: all_are(fleet, "forced-open"))
        fleet[1].do(do.force, "force_closed")
        until(lambda: all_are(fleet, "forced-closed"))
        fail_together(fleet, 20)
        time.sleep(0.2)
        assert all_are(fleet, "forced-closed")
        fleet[2].do(do.force, "reset")
        until(lambda: all_are(fleet, "closed"))


def test_a_forced_state_outlives_a_flush_and_the_process_that_forced_it() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker=RULE) as fleet:
        fleet[0].do(do.force, "force_open")
        until(lambda: all_are(fleet, "forced-open"))
        fleet[0].end()
        client(redis).flushall()
        with hosts(1, redis.url, breaker=RULE) as (newcomer,):  # it knows nothing, and must not make the others forget
            until(lambda: newcomer.do(do.state) == "forced-open", what="the newcomer hears of it")
            assert fleet[1].do(do.state) == "forced-open"


def test_what_was_forced_before_connecting_is_told_and_a_local_policy_stays_local() -> None:
    with redis_server() as redis, hosts(1, redis.url, breaker=RULE) as (one,):
        with hosts(1, redis.url, breaker=RULE, options={"shared": False}) as (local,):
            local.do(do.force, "force_open")
            time.sleep(0.4)
            assert one.do(do.state) == "closed"
            one.do(do.force, "force_closed")
            time.sleep(0.4)
            assert local.do(do.state) == "forced-open"


def test_who_leaves_keeps_the_state_and_goes_on_alone() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker=RULE) as fleet:
        fleet[0].do(do.force, "force_open")
        until(lambda: all_are(fleet, "forced-open"))
        fleet[1].do(do.disconnect)
        fleet[0].do(do.force, "reset")
        time.sleep(0.3)
        assert fleet[1].do(do.state) == "forced-open"
        fleet[1].do(do.force, "reset")
        assert fleet[1].do(do.calls, 3) == {"ok": 3}


def client(redis: Any) -> Any:
    import redis as library

    return library.Redis.from_url(redis.url)
