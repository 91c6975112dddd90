"""psycopg_pool's pools of our connections.

    with holdfast.clients.postgres.create_pool("postgresql://...", policy=orders, max_size=10) as pool, pool.connection() as connection:
        connection.execute("select ...")

1. Waiting for a connection ends at the ambient deadline, or at the pool's own `timeout` if that is sooner.
2. A connection that has ended while it lay in the pool is not handed out: that is seen without asking the server, and another is taken.
3. Connecting is done by the pool's workers, each time within `dead_after`, and by the policy's retry.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

try:
    import psycopg_pool
except ImportError as error:
    raise ImportError("holdfast.clients.postgres.create_pool needs psycopg_pool: pip install 'holdfast[postgres]' psycopg-pool") from error

from holdfast.clients.postgres.psycopg import AsyncConnection, Connection
from holdfast.clients.postgres.psycopg_errors import KINDS
from holdfast.clients.postgres.psycopg_session import Settings
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.policy import Policy
from holdfast.validation import Seconds


def create_pool(
    conninfo: str = "",
    *,
    policy: Policy | None = None,
    dead_after: Seconds = 5.0,
    statement_timeout: Seconds | None = None,
    server_timer: bool = True,
    kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> ConnectionPool:
    """A pool that is open, and connects in the background; close it when it is not needed any more.

    Args:
        conninfo: a URL or libpq's keywords.
        policy: what guards connecting and every statement.
        dead_after: seconds after which a vanished server is noticed; it bounds connecting too.
        statement_timeout: seconds that a statement may take, beside the deadline.
        server_timer: whether the server's `statement_timeout` follows the deadline; see `Connection.connect`.
        kwargs: further arguments of each connection.
        options: of `psycopg_pool.ConnectionPool`.

    Raises:
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """
    every = _arguments(policy, dead_after, statement_timeout, server_timer, kwargs)
    return ConnectionPool(conninfo, kwargs=every, **{"connection_class": Connection, "open": True, **options})


async def acreate_pool(
    conninfo: str = "",
    *,
    policy: Policy | None = None,
    dead_after: Seconds = 5.0,
    statement_timeout: Seconds | None = None,
    server_timer: bool = True,
    kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncConnectionPool:
    """The same for asyncio; `options` are those of `psycopg_pool.AsyncConnectionPool`."""
    every = _arguments(policy, dead_after, statement_timeout, server_timer, kwargs)
    begin = options.pop("open", True)
    made = AsyncConnectionPool(conninfo, kwargs=every, **{"connection_class": AsyncConnection, "open": False, **options})
    if begin:
        await made.open()
    return made


class ConnectionPool(psycopg_pool.ConnectionPool[Connection[Any]]):
    """psycopg_pool's pool, bounded. Make one with `create_pool`."""

    def getconn(self, timeout: float | None = None) -> Connection[Any]:
        """See psycopg_pool.

        Raises:
            DeadlineExceeded: the ambient deadline has passed.
            psycopg_pool.PoolTimeout: the pool's own timeout has.
        """
        own = clock.now() + (self.timeout if timeout is None else timeout)
        while True:
            with _until(own) as seconds:
                taken = super().getconn(seconds)
            if taken.session.is_well:
                return taken
            self.putconn(taken)  # which puts another in its place


class AsyncConnectionPool(psycopg_pool.AsyncConnectionPool[AsyncConnection[Any]]):
    """psycopg_pool's pool for asyncio, bounded. Make one with `acreate_pool`."""

    async def getconn(self, timeout: float | None = None) -> AsyncConnection[Any]:
        """See `ConnectionPool.getconn`."""
        own = clock.now() + (self.timeout if timeout is None else timeout)
        while True:
            with _until(own) as seconds:
                taken = await super().getconn(seconds)
            if taken.session.is_well:
                return taken
            await self.putconn(taken)

    async def putconn(self, conn: AsyncConnection[Any]) -> None:
        """See psycopg_pool, which loses the connection where whoever gives it back is cancelled just then."""
        giving = asyncio.ensure_future(super().putconn(conn))
        try:
            await asyncio.shield(giving)
        except asyncio.CancelledError:
            await asyncio.wait({giving})
            raise


def _arguments(
    policy: Policy | None, dead_after: Seconds, statement_timeout: Seconds | None, server_timer: bool, more: dict[str, Any] | None
) -> dict[str, Any]:
    Settings(policy, dead_after, statement_timeout, server_timer)  # what is wrong with them is said here, not by a worker
    ours = {"policy": policy, "dead_after": dead_after, "statement_timeout": statement_timeout, "server_timer": server_timer}
    return {**(more or {}), **ours}


@contextmanager
def _until(own: float) -> Iterator[float]:
    """The seconds that a wait for a connection has; the pool's timeout is the deadline's where that was the sooner."""
    limit = ambient.get()
    now = clock.now()
    end = math.inf if limit is None else limit.at
    if limit is not None and now >= end:
        raise KINDS.exceeded(limit.exceeded(now, started=False))
    try:
        yield min(own, end) - now
    except psycopg_pool.PoolTimeout as error:
        now = clock.now()
        if limit is None or now < end:
            raise
        raise KINDS.exceeded(limit.exceeded(now, started=False)) from error
