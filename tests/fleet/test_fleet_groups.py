"""Sentinels and clusters: real ones, and the master dies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import fleet_hosts as do
import pytest
import redis as library
from fleet_hosts import hosts, until

from holdfast.replay.parts.process import free_port
from holdfast.replay.parts.redis import RedisServer, redis_server
from sentinels import watched_master

pytestmark = pytest.mark.realtime

RULE = {"min_calls": 10, "failure_rate": 0.5, "window": 30, "open_for": 0.5, "probe_share": 1.0, "probes_to_close": 2}


def client(node: RedisServer) -> library.Redis:
    return library.Redis(port=node.port)


@contextlib.contextmanager
def guarded() -> Iterator[tuple[RedisServer, RedisServer, str]]:
    """A master, its replica, three Sentinels; and the URL."""
    with watched_master("main", down_after=0.4, failover=2.0) as (master, replica, sentinels):
        places = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        yield master, replica, f"redis+sentinel://{places}/main/0"


def test_behind_sentinels_the_fleet_follows_the_master_and_forgets_no_order() -> None:
    with guarded() as (master, replica, url), hosts(2, url, breaker=RULE) as fleet:
        fleet[0].do(do.force, "force_open")
        until(lambda: all(host.do(do.state) == "forced-open" for host in fleet))
        master.kill()
        until(lambda: client(replica).info("replication")["role"] == "master", 30, "a new master")
        until(lambda: all(host.do(do.told, "FleetBack") for host in fleet), 20, "back")
        assert all(host.do(do.state) == "forced-open" for host in fleet)
        fleet[1].do(do.force, "reset")
        until(lambda: all(host.do(do.state) == "closed" for host in fleet))
        assert client(replica).hget("{holdfast:billing}:breaker", "force") == b"none"
        for host in fleet:
            kinds = [type(event).__name__ for event in host.do(do.told) if type(event).__name__.startswith("Fleet")]
            assert kinds == ["FleetLost", "FleetBack"]


@contextlib.contextmanager
def cluster(nodes: int = 3) -> Iterator[tuple[list[RedisServer], str]]:
    """Masters that share the slots; and the URL."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(nodes):
            config = ["cluster-enabled yes", f"cluster-port {free_port()}", "cluster-node-timeout 1000", "cluster-require-full-coverage no"]
            made.append(stack.enter_context(redis_server(config=config)))
        first, each = made[0], 16384 // nodes
        for index, node in enumerate(made):
            last = 16383 if index == nodes - 1 else (index + 1) * each - 1
            client(node).execute_command("CLUSTER ADDSLOTSRANGE", index * each, last)
            client(node).execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
            if node is not first:
                bus = client(first).config_get("cluster-port")["cluster-port"]
                client(node).execute_command("CLUSTER MEET", "127.0.0.1", first.port, bus)
        for node in made:
            asked = client(node)
            until(lambda asked=asked: asked.execute_command("CLUSTER INFO")["cluster_state"] == "ok", 30, "the cluster stands")
            until(lambda asked=asked: len(asked.execute_command("CLUSTER NODES")) == nodes, 30)
        yield made, "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in made)


def test_in_a_cluster_the_keys_of_a_policy_are_together_and_pushes_reach_everybody() -> None:
    with cluster() as (nodes, url), hosts(3, url, breaker=RULE, budget={}) as fleet:
        for host in fleet:
            host.do(do.set_failing, True)
            host.do(do.calls, 8, 0.01)
        until(lambda: all(host.do(do.state) in {"open", "half-open"} for host in fleet))
        owners = [node for node in nodes if client(node).dbsize()]
        assert len(owners) == 1
        for host in fleet:
            host.do(do.set_failing, False)
            host.do(do.pump)
        until(lambda: all(host.do(do.state) == "closed" for host in fleet), 20)
        fleet[0].do(do.force, "force_open")
        until(lambda: all(host.do(do.state) == "forced-open" for host in fleet))
        # The node with the policy's keys is gone for good: everybody goes on alone.
        owners[0].kill()
        until(lambda: all(host.do(do.told, "FleetLost") for host in fleet), 20)
        assert {outcome for host in fleet for outcome in host.do(do.stop)} <= {"ok", "failed", "refused"}
        owners[0].restart()
        until(lambda: all(host.do(do.told, "FleetBack") for host in fleet), 30, "back")
        assert all(host.do(do.state) == "forced-open" for host in fleet)


def test_the_command_finds_policies_on_all_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    from holdfast.cli import main

    with cluster() as (_, url):
        names = [f"policy{number}" for number in range(12)]
        assert main(["fleet", "force-open", *names, "--url", url]) == 0
        capsys.readouterr()
        assert main(["fleet", "status", "--url", url]) == 0
        assert sorted(line.split()[0] for line in capsys.readouterr().out.splitlines()) == sorted(names)
