"""redis-py behind policies, blocking and in asyncio.

    redis = holdfast.clients.redis.from_url("redis://...", policy=carts)
    redis.get("cart:42")

The clients are redis-py's own, made by `from_url` and `async_from_url`, over connections of ours. `Sentinel` and `AsyncSentinel` make those
of a master that may change, `cluster_from_url` and `async_cluster_from_url` those of a cluster.

1. The ambient deadline bounds every command: name look-up, connecting, TLS, login, waiting for a connection of the pool, the answer. Cut
   off, the connection is closed, so that no answer is ever taken for that of another command.
2. redis-py's own retries are off: the policy's retry is the only one. Done again is what had not been sent, what the server refused to
   begin (it is loading, or a replica), and what does no harm twice: reads, and writes that set a value. See `commands`.
3. A connection whose server has vanished is noticed after `dead_after` seconds: idle (keepalive), with data in flight (TCP_USER_TIMEOUT),
   and while it waits for an answer. A blocking command waits for as long as it was told to, and the server is asked meanwhile, on a second
   connection, whether it is there.

Errors are redis-py's as well as ours: `except redis.TimeoutError` catches DeadlineExceeded, `except redis.ConnectionError` a refusal.
"""

from __future__ import annotations

try:
    import redis as _redis
except ImportError as error:
    raise ImportError("holdfast.clients.redis needs the extra: pip install 'holdfast[redis]'") from error
else:
    del _redis

from importlib import import_module
from typing import TYPE_CHECKING

from holdfast.clients.redis.async_client import AsyncRedis, async_from_url
from holdfast.clients.redis.client import Redis, from_url
from holdfast.clients.redis.errors import BreakerOpen, BulkheadFull, DeadlineExceeded, RateLimited

if TYPE_CHECKING:
    from holdfast.clients.redis.async_cluster import AsyncRedisCluster, async_cluster_from_url
    from holdfast.clients.redis.async_sentinel import AsyncSentinel
    from holdfast.clients.redis.cluster import RedisCluster, cluster_from_url
    from holdfast.clients.redis.sentinel import Sentinel

__all__ = [
    "AsyncRedis",
    "AsyncRedisCluster",
    "AsyncSentinel",
    "BreakerOpen",
    "BulkheadFull",
    "DeadlineExceeded",
    "RateLimited",
    "Redis",
    "RedisCluster",
    "Sentinel",
    "async_cluster_from_url",
    "async_from_url",
    "cluster_from_url",
    "from_url",
]

_HOMES = {
    "AsyncRedisCluster": "async_cluster",
    "AsyncSentinel": "async_sentinel",
    "RedisCluster": "cluster",
    "Sentinel": "sentinel",
    "async_cluster_from_url": "async_cluster",
    "cluster_from_url": "cluster",
}


def __getattr__(name: str) -> object:
    """What most do not need, loaded when it is used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
