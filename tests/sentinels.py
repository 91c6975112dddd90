"""A master of Redis, its replica, and the Sentinels that watch them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import redis

from holdfast.replay.parts.redis import RedisServer, redis_server
from watching import soon


@contextmanager
def watched_master(name: str, *, down_after: float, failover: float) -> Iterator[tuple[RedisServer, RedisServer, list[RedisServer]]]:
    """Master, replica and three Sentinels, who know each other and both servers.

    Args:
        name: what the Sentinels call the master.
        down_after: seconds of silence after which a server counts as down.
        failover: seconds that a failover may take.
    """
    with ExitStack() as running:
        master = running.enter_context(redis_server(config=["repl-diskless-sync-delay 0"]))
        replica = running.enter_context(redis_server(config=[f"replicaof 127.0.0.1 {master.port}", "repl-diskless-sync-delay 0"]))
        rules = [
            f"sentinel monitor {name} 127.0.0.1 {master.port} 2",
            f"sentinel down-after-milliseconds {name} {down_after * 1000:.0f}",
            f"sentinel failover-timeout {name} {failover * 1000:.0f}",
        ]
        sentinels = [running.enter_context(redis_server(sentinel=True, config=rules)) for _ in range(3)]
        asked = [running.enter_context(redis.Redis(port=sentinel.port)) for sentinel in sentinels]
        assert soon(lambda: all(_knows_all(sentinel, name) for sentinel in asked), within=20.0)
        with redis.Redis(port=replica.port) as client:
            assert soon(lambda: client.info("replication")["master_link_status"] == "up", within=20.0)
        yield master, replica, sentinels


def _knows_all(sentinel: redis.Redis, name: str) -> bool:
    try:
        state = sentinel.sentinel_masters()[name]
    except redis.RedisError:
        return False
    return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)
