"""One budget for all processes: their retries together are the share of their calls together, and one floor."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import fleet_hosts as do
import pytest
from fleet_hosts import Host, hosts, until

from holdfast.replay.parts.redis import redis_server

pytestmark = pytest.mark.realtime


def storm(fleet: list[Host], each: int, pause: float = 0.0) -> tuple[int, int]:
    """Every call fails and would be retried twice; calls and retries."""
    before = sum(host.do(do.attempts) for host in fleet)
    for host in fleet:
        host.do(do.set_failing, True)
        host.send(do.calls, each, pause)
    for host in fleet:
        host.answer(120)
    made = sum(host.do(do.attempts) for host in fleet) - before
    return each * len(fleet), made - each * len(fleet)


def within(found: float, wanted: float, share: float = 0.05) -> bool:
    return abs(found - wanted) <= share * wanted


@pytest.mark.parametrize("pause", [0.0, 0.001], ids=["as fast as it goes", "a thousand a second each"])
def test_retries_are_the_share_and_one_floor_for_the_whole_fleet(pause: float) -> None:
    with redis_server() as redis, hosts(8, redis.url, budget={"ratio": 0.1, "min_per_second": 1.0, "window": 60}) as fleet:
        calls, retries = storm(fleet, int(os.environ.get("HOLDFAST_FLEET_CALLS", "20000")) // 8, pause)
        assert within(retries, 0.1 * calls + 60), f"{retries} retries of {calls} calls"


def test_the_floor_is_one_for_all_and_whoever_fails_may_have_it() -> None:
    with redis_server() as redis, hosts(4, redis.url, budget={"ratio": 0.0, "min_per_second": 1.0, "window": 40}) as fleet:
        _, retries = storm(fleet[:1], 200, 0.005)
        assert 30 <= retries <= 40
        _, more = storm(fleet, 50, 0.005)
        assert retries + more <= 40


def test_one_process_with_all_the_failures_spends_what_the_others_earned() -> None:
    with redis_server() as redis, hosts(4, redis.url, budget={"ratio": 0.1, "min_per_second": 0.0, "window": 60}) as fleet:
        for host in fleet[1:]:
            host.do(do.calls, 1000)
        until(lambda: fleet[0].do(do.snapshot)["policies"]["billing"]["requests"] == 3000)
        calls, retries = storm(fleet[:1], 500, 0.002)
        assert retries > 0.2 * calls, "more than it earned itself"
        assert retries <= 0.1 * (3000 + 500)


def test_a_first_failure_after_a_quiet_time_is_retried_at_once() -> None:
    with redis_server() as redis, hosts(4, redis.url, budget={"ratio": 0.1, "min_per_second": 1.0, "window": 10}) as fleet:
        for host in fleet:
            host.do(do.calls, 3)
        time.sleep(0.3)
        for host in fleet:
            assert host.do(fail_once) == "ok"


def fail_once(world: Any) -> str:
    world.failing = True
    ask = world.dependency

    def once() -> str:
        try:
            return ask()
        finally:
            world.failing = False

    return str(world.policy.call(once))


def test_a_process_that_dies_takes_its_lease_along_and_only_for_a_window() -> None:
    with redis_server() as redis, hosts(2, redis.url, budget={"ratio": 0.0, "min_per_second": 5.0, "window": 2}) as (dies, lives):
        dies.do(do.calls, 50)
        time.sleep(0.2)
        os.kill(dies.process.pid, signal.SIGKILL)
        time.sleep(2.3)
        began = time.monotonic()
        _, retries = storm([lives], 60, 0.005)
        assert 9 <= retries <= 5.0 * (2 + time.monotonic() - began) + 1


def test_cut_off_each_process_has_its_part_of_the_floor() -> None:
    with redis_server() as redis, hosts(4, redis.url, budget={"ratio": 0.1, "min_per_second": 1.0, "window": 40}) as fleet:
        for host in fleet:
            host.do(do.calls, 10)
        # Each is to know of how many it has a part.
        until(lambda: all(host.do(do.snapshot)["policies"]["billing"]["processes"] == 4 for host in fleet))
        redis.kill()
        for host in fleet:
            host.do(do.calls, 1)
        until(lambda: all(host.do(do.told, "FleetLost") for host in fleet))
        _, retries = storm(fleet, 100)
        assert retries <= 0.1 * 4 * 111 + 40
        assert retries >= 0.9 * (0.1 * 400 + 36)
        redis.restart()
        until(lambda: all(host.do(do.told, "FleetBack") for host in fleet))
        _, more = storm(fleet, 100, 0.002)
        assert retries + more <= 1.05 * (0.1 * 4 * 211 + 40)


def test_a_budget_that_policies_share_is_one_member_of_the_fleet() -> None:
    with redis_server() as redis, hosts(1, redis.url, budget={"ratio": 0.1, "min_per_second": 1.0, "window": 10}) as (one,):
        assert one.do(two_policies) == ["billing", "read"]


def two_policies(_: Any) -> list[str]:
    from holdfast import Budget, Policy, Retry, fleet

    budget = Budget(ratio=0.5)
    kept = [Policy(name, retry=Retry(budget=budget)) for name in ("read", "write")]
    until(lambda: "read" in fleet.snapshot()["policies"])
    assert kept[0].call(int) == kept[1].call(int) == 0
    until(lambda: fleet.snapshot()["policies"]["read"]["requests"] == 2)
    return sorted(fleet.snapshot()["policies"])
