"""Clients for asyncio of a server that Sentinels know; what `sentinel` says holds here too."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import redis.asyncio
import redis.asyncio.sentinel
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SlaveNotFoundError

from holdfast.clients.redis.async_client import AsyncRedis
from holdfast.clients.redis.async_connections import AsyncConnection, AsyncTLSConnection
from holdfast.clients.redis.discovery import Discovery
from holdfast.clients.redis.settings import DEFAULTS, Settings
from holdfast.clients.redis.turns import afirst_answer

_Base: Any = object  # one of redis-py's managed connections comes behind it


class AsyncSentinel(Discovery[AsyncRedis], redis.asyncio.sentinel.Sentinel):  # type: ignore[misc]  # its clients are ours
    """redis-py's Sentinel for asyncio, whose clients are behind a policy; see `Discovery` for the arguments."""

    _library: ClassVar[Any] = redis.asyncio.sentinel
    _retry = Retry

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """See `Sentinel.discover_master`."""

        async def ask(sentinel: AsyncRedis) -> tuple[str, int]:
            return self._master(service_name, sentinel, await sentinel.sentinel_masters())

        return await afirst_answer(ask, self.sentinels, self._dead_after)

    async def discover_slaves(self, service_name: str) -> list[tuple[str, int]]:
        """See `Sentinel.discover_slaves`."""

        async def ask(sentinel: AsyncRedis) -> list[tuple[str, int]]:
            return self._replicas(service_name, sentinel, await sentinel.sentinel_slaves(service_name))

        try:
            return await afirst_answer(ask, self.sentinels, self._dead_after)
        except (SlaveNotFoundError, exceptions.ResponseError):
            return []

    def _made(self, service_name: str, options: dict[str, Any], *, is_master: bool) -> AsyncRedis:
        kind = AsyncManagedTLSConnection if options.pop("ssl", False) else AsyncManagedConnection
        pool: Any = _Pool(service_name, self, connection_class=kind, is_master=is_master, **options)
        made = AsyncRedis(connection_pool=pool)
        made.auto_close_connection_pool = True
        made.settings = Settings(*self._rules, in_doubt=pool.close_idle)
        return made

    def _to_sentinel(self, host: str, port: int, options: Mapping[str, Any]) -> AsyncRedis:
        every = self._bounded({"host": host, "port": port}, options)
        kind: Any = AsyncTLSConnection if every.pop("ssl", False) else AsyncConnection
        pool: Any = redis.asyncio.ConnectionPool(connection_class=kind, **every)
        made = AsyncRedis(connection_pool=pool)
        made.auto_close_connection_pool = True
        made.settings = DEFAULTS
        return made


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
