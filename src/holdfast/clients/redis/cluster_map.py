"""What both clients of a cluster do with its map: which node is asked for it, how often, for how long, and what its errors are."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import redis.asyncio.cluster
import redis.cluster
from redis import exceptions

from holdfast.clients.redis.settings import pool_options
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.scope import remaining

if not hasattr(redis.asyncio.cluster, "ClusterPubSub"):
    raise ImportError("holdfast.clients.redis needs a later redis-py for clusters: pip install 'redis>=8'")

N = TypeVar("N", bound="redis.cluster.ClusterNode | redis.asyncio.cluster.ClusterNode")

# How often an attempt lets itself be sent on. A cluster that is well does it once, or twice while slots move.
REDIRECTIONS = 5

# Seconds between two looks at a map that is in doubt: many commands that fail at once must not make it worse.
EVERY = 0.1


def cluster_options(
    parsed: Mapping[str, Any], options: Mapping[str, Any], dead_after: float, class_for: Callable[[type | None], Any]
) -> tuple[tuple[str, int], dict[str, Any]]:
    """The node that a URL names, and the arguments of redis-py's client of a cluster.

    Raises:
        ValueError: there is no such cluster, or an option is this package's business.
    """
    usual = class_for(parsed.get("connection_class"))
    # As a class of its own, since redis-py hands on only the options that it knows.
    kind = type(usual.__name__, (usual,), {"dead_after": dead_after})
    arguments = {**pool_options(parsed, options, dead_after, None), "connection_class": kind}
    del arguments["retry"]
    if arguments.pop("db", 0) or "path" in arguments:
        raise ValueError("url must name a host of a cluster, whose only database is 0")
    return (arguments.pop("host", "localhost"), arguments.pop("port", 6379)), arguments


def in_order(nodes: Iterable[N], suspect: str) -> list[N]:
    """By chance, so that not every client asks the same node; the one that did not answer comes last."""
    every = [*nodes]
    random.shuffle(every)
    return sorted(every, key=lambda node: node.name == suspect)


def half(most: float) -> float:
    """Seconds: half of what is left of the ambient deadline, at most `most`."""
    return min(most, remaining() / 2)


def raise_if_over(error: Exception) -> None:
    """Raise DeadlineExceeded where the ambient deadline has passed."""
    limit, now = ambient.get(), clock.now()
    if limit is not None and now >= limit.at:
        raise limit.exceeded(now) from error


@contextmanager
def map_errors() -> Iterator[None]:
    """Around asking for the map: raise what redis-py has made a message of."""
    try:
        yield
    except exceptions.RedisClusterException as error:
        if isinstance(error.__cause__, exceptions.RedisError):
            raise error.__cause__ from None
        if error.__cause__ is None and "slots" in str(error):
            raise exceptions.ClusterDownError(str(error)) from error
        raise
