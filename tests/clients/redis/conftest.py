"""Several servers at once: a cluster, and a master with a replica and Sentinels."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
import redis as redis_py

from holdfast.replay.parts.process import free_port
from holdfast.replay.parts.redis import RedisServer, redis_server
from sentinels import watched_master

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
    with watched_master("shop", down_after=0.7, failover=3.0) as servers:
        yield servers
