"""Clients of a server that Sentinels know: when another has become master, the next attempt goes there.

    sentinel = holdfast.clients.redis.Sentinel([("s1", 26379), ("s2", 26379), ("s3", 26379)], policy=carts)
    redis = sentinel.master_for("mymaster")

Each Sentinel, and each replica, that is asked has its share of the time, so one that says nothing does not take all of it. When the master
does not answer, its idle connections are closed: whoever connects anew asks the Sentinels who it is.
"""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import redis
import redis.sentinel
from redis import exceptions
from redis.retry import Retry
from redis.sentinel import SlaveNotFoundError

from holdfast.clients.redis.client import Redis
from holdfast.clients.redis.connections import Connection, TLSConnection
from holdfast.clients.redis.discovery import Discovery
from holdfast.clients.redis.settings import DEFAULTS, Settings
from holdfast.clients.redis.turns import first_answer

_Base: Any = object  # one of redis-py's managed connections comes behind it


class Sentinel(Discovery[Redis], redis.sentinel.Sentinel):  # type: ignore[misc]  # its clients are ours
    """redis-py's Sentinel, whose clients are behind a policy; see `Discovery` for the arguments."""

    _library: ClassVar[Any] = redis.sentinel
    _retry = Retry

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """See redis-py; raises MasterNotFoundError, a `redis.ConnectionError`, where no Sentinel knows it."""

        def ask(sentinel: Redis) -> tuple[str, int]:
            return self._master(service_name, sentinel, sentinel.sentinel_masters())

        return first_answer(ask, self.sentinels, self._dead_after)

    def discover_slaves(self, service_name: str) -> list[tuple[str, int]]:
        """See redis-py; none where no Sentinel knows one."""

        def ask(sentinel: Redis) -> list[tuple[str, int]]:
            return self._replicas(service_name, sentinel, sentinel.sentinel_slaves(service_name))

        try:
            return first_answer(ask, self.sentinels, self._dead_after)
        except (SlaveNotFoundError, exceptions.ResponseError):
            return []

    def _made(self, service_name: str, options: dict[str, Any], *, is_master: bool) -> Redis:
        kind = ManagedTLSConnection if options.pop("ssl", False) else ManagedConnection
        pool = redis.sentinel.SentinelConnectionPool(service_name, self, connection_class=kind, is_master=is_master, **options)
        made = Redis(connection_pool=pool)
        made.auto_close_connection_pool = True
        made.settings = Settings(*self._rules, in_doubt=lambda: pool.disconnect(inuse_connections=False))
        return made

    def _to_sentinel(self, host: str, port: int, options: Mapping[str, Any]) -> Redis:
        every = self._bounded({"host": host, "port": port}, options)
        kind = TLSConnection if every.pop("ssl", False) else Connection
        made = Redis(connection_pool=redis.ConnectionPool(connection_class=kind, **every))
        made.auto_close_connection_pool = True
        made.settings = DEFAULTS
        return made


class _Managed(_Base):  # type: ignore[misc]  # see there
    """A connection to whichever server the Sentinels name."""

    def _connect_retry(self) -> None:
        pool = self.connection_pool
        if self._sock is None:
            servers = (pool.get_master_address(),) if pool.is_master else _all_of(pool.rotate_slaves())
            first_answer(self._connect_or_end, servers, self._dead_after)

    def _connect_or_end(self, address: tuple[str, int]) -> None:
        try:
            self.connect_to(address)
        except BaseException:
            self.disconnect()
            raise

    def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py; what a master that has become a replica refuses to begin is told as that."""
        try:
            return super().read_response(*args, **options)
        except exceptions.ConnectionError as error:
            if isinstance(error.__context__, exceptions.ReadOnlyError):
                raise error.__context__ from None
            raise


class ManagedConnection(_Managed, Connection, redis.sentinel.SentinelManagedConnection):
    """redis-py's connection that asks the Sentinels, bounded."""


class ManagedTLSConnection(_Managed, TLSConnection, redis.sentinel.SentinelManagedSSLConnection):
    """The same over TLS."""


def _all_of(servers: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    # redis-py's own ends with an error where none of them could be connected to.
    with suppress(SlaveNotFoundError):
        yield from servers
