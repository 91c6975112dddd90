"""Several servers at once: a cluster, and a master with a replica and Sentinels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import redis as redis_py

from holdfast.replay.parts.process import free_port
from holdfast.replay.parts.redis import RedisServer, redis_server

_NODE = ("cluster-enabled yes", "cluster-node-timeout 700", "repl-diskless-sync-delay 0")


def until(holds: Callable[[], bool]) -> None:
    """Wait until it is so."""
    give_up = time.monotonic() + 20.0
    while time.monotonic() < give_up:
        with contextlib.suppress(redis_py.RedisError):
            if holds():
                return
        time.sleep(0.05)
    raise AssertionError("it did not come to be in 20 s")


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[RedisServer]]:
    """Three masters, and a replica of the first."""
    with contextlib.ExitStack() as running:
        buses = [free_port() for _ in range(4)]
        nodes = [running.enter_context(redis_server(config=[f"cluster-port {bus}", *_NODE])) for bus in buses]
        clients = [redis_py.Redis(port=node.port) for node in nodes]
        for client in clients[1:]:
            client.execute_command("CLUSTER MEET", "127.0.0.1", nodes[0].port, buses[0])
        share = 16384 // 3 + 1
        for number, client in enumerate(clients[:3]):
            client.execute_command("CLUSTER ADDSLOTSRANGE", number * share, min(16383, (number + 1) * share - 1))
        first = clients[0].execute_command("CLUSTER MYID")
        until(lambda: bool(clients[3].execute_command("CLUSTER REPLICATE", first)))
        until(lambda: clients[3].info("replication")["master_link_status"] == "up")
        until(lambda: all(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok" for client in clients))
        for client in clients:
            client.close()
        yield nodes


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[RedisServer, RedisServer, list[RedisServer]]]:
    """A master, its replica and three Sentinels."""
    with contextlib.ExitStack() as running:
        master = running.enter_context(redis_server(config=["repl-diskless-sync-delay 0"]))
        replica = running.enter_context(redis_server(config=[f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0"]))
        rules = [
            f"sentinel monitor shop 127.0.0.1 {master.port} 2",
            "sentinel down-after-milliseconds shop 700",
            "sentinel failover-timeout shop 3000",
        ]
        sentinels = [running.enter_context(redis_server(sentinel=True, config=rules)) for _ in range(3)]
        for sentinel in sentinels:
            with redis_py.Redis(port=sentinel.port) as client:
                until(partial(_knows_all, client))
        with redis_py.Redis(port=replica.port) as client:
            until(lambda: client.info("replication")["master_link_status"] == "up")
        yield master, replica, sentinels


def _knows_all(sentinel: redis_py.Redis) -> bool:
    state = sentinel.sentinel_masters()["shop"]
    return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)
