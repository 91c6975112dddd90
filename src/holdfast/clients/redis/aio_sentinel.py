"""Clients for asyncio of a server that Sentinels know; what `sentinel` says holds here too."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Any

import redis.asyncio
import redis.asyncio.sentinel
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SlaveNotFoundError
from redis.backoff import NoBackoff

from holdfast.clients.redis.aio import AsyncRedis
from holdfast.clients.redis.aio_connections import AsyncConnection, AsyncTLSConnection
from holdfast.clients.redis.settings import DEFAULTS, Settings, pool_options
from holdfast.clients.redis.turns import afirst_answer
from holdfast.policy import Policy
from holdfast.validation import Seconds

_Base: Any = object  # one of redis-py's managed connections comes behind it


class AsyncSentinel(redis.asyncio.sentinel.Sentinel):
    """redis-py's Sentinel for asyncio, whose clients are behind a policy; arguments and errors are those of `Sentinel`."""

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

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """See `Sentinel.discover_master`."""

        async def ask(sentinel: Any) -> tuple[str, int]:
            state = (await sentinel.sentinel_masters()).get(service_name)
            if not state or not self.check_master_state(state, service_name):
                raise MasterNotFoundError(f"no master found for {service_name!r}")
            self._put_first(sentinel)
            return state["ip"], state["port"]

        return await afirst_answer(ask, self.sentinels, self._dead_after)

    async def discover_slaves(self, service_name: str) -> list[tuple[str, int]]:
        """See `Sentinel.discover_slaves`."""

        async def ask(sentinel: Any) -> list[tuple[str, int]]:
            found: list[Any] = [*self.filter_slaves(await sentinel.sentinel_slaves(service_name))]
            if not found:
                raise SlaveNotFoundError(f"no replica found for {service_name!r}")
            self._put_first(sentinel)
            return found

        try:
            return await afirst_answer(ask, self.sentinels, self._dead_after)
        except (SlaveNotFoundError, exceptions.ResponseError):
            return []

    def master_for(self, service_name: str, **options: Any) -> AsyncRedis:  # type: ignore[override]  # the classes are ours
        """A client of whichever server is the master. `options` are those of its connections."""
        return self._made(service_name, options, is_master=True)

    def slave_for(self, service_name: str, **options: Any) -> AsyncRedis:  # type: ignore[override]  # see there
        """A client of the replicas, in turn, and of the master where there is none."""
        return self._made(service_name, options, is_master=False)

    def replica_for(self, service_name: str, **options: Any) -> AsyncRedis:  # type: ignore[override]  # see there
        """The same as `slave_for`."""
        return self.slave_for(service_name, **options)

    def _made(self, service_name: str, options: dict[str, Any], *, is_master: bool) -> AsyncRedis:
        every = self._client_options(options)
        kind = AsyncManagedTLSConnection if every.pop("ssl", False) else AsyncManagedConnection
        pool: Any = _Pool(service_name, self, connection_class=kind, is_master=is_master, **every)
        made = AsyncRedis(connection_pool=pool)
        made.auto_close_connection_pool = True
        made.settings = Settings(*self._rules, in_doubt=pool.close_idle)
        return made

    def _client_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        given = {**self.connection_kwargs, **options}
        return {**pool_options({}, given, self._dead_after, Retry(NoBackoff(), 0)), "dead_after": self._dead_after}

    def _to_sentinel(self, host: str, port: int, options: Mapping[str, Any]) -> AsyncRedis:
        every = pool_options({"host": host, "port": port}, options, self._dead_after, Retry(NoBackoff(), 0))
        kind: Any = AsyncTLSConnection if every.pop("ssl", False) else AsyncConnection
        pool: Any = redis.asyncio.ConnectionPool(connection_class=kind, dead_after=self._dead_after, **every)
        made = AsyncRedis(connection_pool=pool)
        made.auto_close_connection_pool = True
        made.settings = DEFAULTS
        return made

    def _put_first(self, sentinel: Any) -> None:
        self.sentinels = [sentinel, *(each for each in self.sentinels if each is not sentinel)]


class _Pool(redis.asyncio.sentinel.SentinelConnectionPool):
    """redis-py's pool of such connections."""

    _available_connections: list[Any]

    def close_idle(self) -> None:
        """Close what lies in it; each is connected anew when it is taken."""
        for connection in self._available_connections:
            connection._close()


class _Managed(_Base):  # type: ignore[misc]  # see there
    """A connection to whichever server the Sentinels name."""

    async def _connect_retry(self) -> None:
        pool = self.connection_pool
        if self._reader is None:
            servers = [await pool.get_master_address()] if pool.is_master else [each async for each in _all_of(pool.rotate_slaves())]
            await afirst_answer(self._connect_or_end, servers, self._dead_after)

    async def _connect_or_end(self, address: tuple[str, int]) -> None:
        try:
            await self.connect_to(address)
        except BaseException:
            await self.disconnect(nowait=True)
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py; what a master that has become a replica refuses to begin is told as that."""
        try:
            return await super().read_response(*args, **options)
        except exceptions.ConnectionError as error:
            if isinstance(error.__context__, exceptions.ReadOnlyError):
                raise error.__context__ from None
            raise


class AsyncManagedConnection(_Managed, AsyncConnection, redis.asyncio.sentinel.SentinelManagedConnection):
    """redis-py's connection for asyncio that asks the Sentinels, bounded."""


class AsyncManagedTLSConnection(_Managed, AsyncTLSConnection, redis.asyncio.sentinel.SentinelManagedSSLConnection):
    """The same over TLS."""


async def _all_of(servers: AsyncIterator[tuple[str, int]]) -> AsyncIterator[tuple[str, int]]:
    # redis-py's own ends with an error where none of them could be connected to.
    with suppress(SlaveNotFoundError):
        async for each in servers:
            yield each
