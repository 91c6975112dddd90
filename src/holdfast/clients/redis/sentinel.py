"""Clients of a server that Sentinels know: when another has become master, the next attempt goes there.

    sentinel = holdfast.clients.redis.Sentinel([("s1", 26379), ("s2", 26379), ("s3", 26379)], policy=carts)
    redis = sentinel.master_for("mymaster")

Each Sentinel, and each replica, that is asked has its share of the time, so one that says nothing does not take all of it. When the master
does not answer, its idle connections are closed: whoever connects anew asks the Sentinels who it is.
"""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import redis
import redis.sentinel
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, SlaveNotFoundError

from holdfast.clients.redis.client import Redis
from holdfast.clients.redis.connections import Connection, TLSConnection
from holdfast.clients.redis.settings import DEFAULTS, Settings, pool_options
from holdfast.clients.redis.turns import first_answer
from holdfast.policy import Policy
from holdfast.validation import Seconds

_Base: Any = object  # one of redis-py's managed connections comes behind it


class Sentinel(redis.sentinel.Sentinel):
    """redis-py's Sentinel, whose clients are behind a policy.

    Args:
        sentinels: host and port of each.
        policy: what guards every command of the clients; None for deadlines only.
        dead_after: seconds, > 0, after which a vanished server is noticed; see `from_url`.
        repeatable: names of commands that may be done again although they may have run.
        min_other_sentinels: how many others a Sentinel must know so that its word counts.
        sentinel_kwargs: options of the connections to the Sentinels, such as their password.
        options: of the connections to the servers, as for `redis.Redis`.

    Raises:
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """

    def __init__(
        self,
        sentinels: Iterable[tuple[str, int]],
        *,
        policy: Policy | None = None,
        dead_after: Seconds = 5.0,
        repeatable: Collection[str] = (),
        min_other_sentinels: int = 0,
        sentinel_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._rules = (policy, dead_after, repeatable)
        self._dead_after = Settings(*self._rules).dead_after
        super().__init__([], min_other_sentinels, {}, **options)
        self.sentinels = [self._to_sentinel(*address, sentinel_kwargs or {}) for address in sentinels]
        self._client_options({})  # what is wrong with them is said here

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """See redis-py; raises MasterNotFoundError, a `redis.ConnectionError`, where no Sentinel knows it."""

        def ask(sentinel: Any) -> tuple[str, int]:
            state = sentinel.sentinel_masters().get(service_name)
            if not state or not self.check_master_state(state, service_name):
                raise MasterNotFoundError(f"no master found for {service_name!r}")
            self._put_first(sentinel)
            return state["ip"], state["port"]

        return first_answer(ask, self.sentinels, self._dead_after)

    def discover_slaves(self, service_name: str) -> list[tuple[str, int]]:
        """See redis-py; none where no Sentinel knows one."""

        def ask(sentinel: Any) -> list[tuple[str, int]]:
            found: list[tuple[str, int]] = self.filter_slaves(sentinel.sentinel_slaves(service_name))
            if not found:
                raise SlaveNotFoundError(f"no replica found for {service_name!r}")
            self._put_first(sentinel)
            return found

        try:
            return first_answer(ask, self.sentinels, self._dead_after)
        except (SlaveNotFoundError, exceptions.ResponseError):
            return []

    def master_for(self, service_name: str, **options: Any) -> Redis:  # type: ignore[override]  # the classes are ours
        """A client of whichever server is the master. `options` are those of its connections."""
        return self._made(service_name, options, is_master=True)

    def slave_for(self, service_name: str, **options: Any) -> Redis:  # type: ignore[override]  # see there
        """A client of the replicas, in turn, and of the master where there is none."""
        return self._made(service_name, options, is_master=False)

    def replica_for(self, service_name: str, **options: Any) -> Redis:  # type: ignore[override]  # see there
        """The same as `slave_for`."""
        return self.slave_for(service_name, **options)

    def _made(self, service_name: str, options: dict[str, Any], *, is_master: bool) -> Redis:
        every = self._client_options(options)
        kind = ManagedTLSConnection if every.pop("ssl", False) else ManagedConnection
        pool = redis.sentinel.SentinelConnectionPool(service_name, self, connection_class=kind, is_master=is_master, **every)
        made = Redis(connection_pool=pool)
        made.auto_close_connection_pool = True
        made.settings = Settings(*self._rules, in_doubt=lambda: pool.disconnect(inuse_connections=False))
        return made

    def _client_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        given = {**self.connection_kwargs, **options}
        return {**pool_options({}, given, self._dead_after, Retry(NoBackoff(), 0)), "dead_after": self._dead_after}

    def _to_sentinel(self, host: str, port: int, options: Mapping[str, Any]) -> Redis:
        every = pool_options({"host": host, "port": port}, options, self._dead_after, Retry(NoBackoff(), 0))
        kind = TLSConnection if every.pop("ssl", False) else Connection
        made = Redis(connection_pool=redis.ConnectionPool(connection_class=kind, dead_after=self._dead_after, **every))
        made.auto_close_connection_pool = True
        made.settings = DEFAULTS
        return made

    def _put_first(self, sentinel: Any) -> None:
        self.sentinels = [sentinel, *(each for each in self.sentinels if each is not sentinel)]


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
