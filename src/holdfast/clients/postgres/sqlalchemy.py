"""SQLAlchemy's engines behind policies, over psycopg and asyncpg.

    engine = holdfast.clients.postgres.sqlalchemy.create_engine("postgresql://...", policy=orders)
    with engine.begin() as connection:
        connection.execute(text("update ..."))

The engine is SQLAlchemy's own, and makes the connections of this package: what `psycopg` and `asyncpg` here say about deadlines, silence
and policies holds for each of its statements, those of an ORM session too.

1. Waiting for a connection of the pool is bounded by the deadline as well as by `pool_timeout`.
2. A connection that ended while it lay in the pool is replaced before it is handed out; seeing that costs no round trip.
3. A connection that was cut off is closed and not returned to the pool. The others stay, unless the server is gone.

Errors are SQLAlchemy's as well as ours: `except sqlalchemy.exc.OperationalError` catches DeadlineExceeded, and refusals too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.clients.postgres.sqlalchemy_errors import BreakerOpen, BulkheadFull, DeadlineExceeded, RateLimited, ours

import sqlalchemy  # isort: skip  (after our module, whose error says what is missing)
from sqlalchemy import event, exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, QueuePool
from sqlalchemy.util import queue

from holdfast import errors
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.policy import Policy
from holdfast.validation import Seconds

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine, ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["BreakerOpen", "BulkheadFull", "DeadlineExceeded", "RateLimited", "create_async_engine", "create_engine"]


def create_engine(
    url: str | sqlalchemy.URL,
    *,
    policy: Policy | None = None,
    dead_after: Seconds = 5.0,
    statement_timeout: Seconds | None = None,
    server_timer: bool = True,
    **options: Any,
) -> Engine:
    """An engine over psycopg 3.

    Args:
        url: `postgresql://` or `postgresql+psycopg://`.
        policy: what guards connecting and every statement.
        dead_after: seconds after which a vanished server is noticed.
        statement_timeout: seconds that a statement may take, beside the deadline.
        server_timer: whether the server's `statement_timeout` follows the deadline; see `holdfast.clients.postgres.Connection.connect`.
        options: of `sqlalchemy.create_engine`.

    Raises:
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """
    from holdfast.clients.postgres import psycopg
    from holdfast.clients.postgres.psycopg_session import Settings

    Settings(
        policy, dead_after, statement_timeout, server_timer
    )  # what is wrong with them is said here, not when the first connection is made
    engine = sqlalchemy.create_engine(_url(url, {"postgresql": "postgresql+psycopg"}, "psycopg"), **{"poolclass": _Pool, **options})
    make = partial(psycopg.connect, policy=policy, dead_after=dead_after, statement_timeout=statement_timeout, server_timer=server_timer)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: list[Any], params: dict[str, Any]) -> psycopg.Connection[Any]:
        return make(*args, **params)

    _watch(engine)
    return engine


def create_async_engine(
    url: str | sqlalchemy.URL,
    *,
    policy: Policy | None = None,
    dead_after: Seconds = 5.0,
    statement_timeout: Seconds | None = None,
    server_timer: bool = True,
    **options: Any,
) -> AsyncEngine:
    """An engine for asyncio, over psycopg 3 or asyncpg.

    Args:
        url: `postgresql+psycopg://` or `postgresql+asyncpg://`; `postgresql://` is psycopg.
        policy: what guards connecting and every statement.
        dead_after: seconds after which a vanished server is noticed.
        statement_timeout: seconds that a statement may take, beside the deadline.
        server_timer: whether the server's `statement_timeout` follows the deadline; see `holdfast.clients.postgres.Connection.connect`.
        options: of `sqlalchemy.ext.asyncio.create_async_engine`.

    Raises:
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """
    import sqlalchemy.ext.asyncio

    from holdfast.clients.postgres.psycopg_session import Settings

    Settings(policy, dead_after, statement_timeout, server_timer)
    made = _url(url, {"postgresql": "postgresql+psycopg"}, "psycopg", "asyncpg")
    creator: Callable[..., Awaitable[Any]]
    if made.get_driver_name() == "asyncpg":
        from holdfast.clients.postgres.asyncpg import connect as connect_asyncpg

        creator = connect_asyncpg
    else:
        from holdfast.clients.postgres.psycopg import aconnect as connect_psycopg

        creator = connect_psycopg
    engine = sqlalchemy.ext.asyncio.create_async_engine(made, **{"poolclass": _AsyncPool, **options})
    make = partial(creator, policy=policy, dead_after=dead_after, statement_timeout=statement_timeout, server_timer=server_timer)

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect(_dialect: object, _record: object, _args: list[Any], params: dict[str, Any]) -> None:
        params.setdefault("async_creator_fn", make)

    _watch(engine.sync_engine)
    return engine


def _url(url: str | sqlalchemy.URL, defaults: dict[str, str], *drivers: str) -> sqlalchemy.URL:
    made = sqlalchemy.make_url(url)
    made = made.set(drivername=defaults.get(made.drivername, made.drivername))
    if made.drivername not in {f"postgresql+{driver}" for driver in drivers}:
        raise ValueError(f"url must be one of postgresql+{', postgresql+'.join(drivers)}, got {made.drivername!r}")
    return made


def _watch(engine: Engine) -> None:
    @event.listens_for(engine, "handle_error")
    def translate(context: ExceptionContext) -> BaseException | None:
        raised = ours(context.original_exception)
        if raised is not None:
            # One statement that took too long says nothing about the other connections of the pool.
            context.invalidate_pool_on_disconnect = False
        if isinstance(raised, errors.DeadlineExceeded) and context.connection is not None and not context.connection.invalidated:
            driver = context.connection.connection.driver_connection
            context.is_disconnect = driver is None or not driver.session.is_well
        return raised

    @event.listens_for(engine, "checkout")
    def replace_ended(_connection: object, record: Any, _proxy: object) -> None:
        if not record.driver_connection.session.is_well:
            raise exc.DisconnectionError("the connection ended while it lay in the pool")


def _get(self: Any, get: Any, block: bool, timeout: float | None) -> Any:
    """An entry of a pool's queue, within the deadline."""
    limit = ambient.get()
    if not block or limit is None:
        return get(self, block, timeout)
    left = limit.remaining(clock.now())
    try:
        return get(self, block, left if timeout is None else min(timeout, left))
    except queue.Empty:
        now = clock.now()
        if now >= limit.at:
            raised = ours(limit.exceeded(now, started=False))
            raise raised or limit.exceeded(now) from None
        raise


class _Queue(queue.Queue[Any]):
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return _get(self, queue.Queue.get, block, timeout)


class _AsyncQueue(queue.AsyncAdaptedQueue[Any]):
    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        return _get(self, queue.AsyncAdaptedQueue.get, block, timeout)


class _Pool(QueuePool):
    _queue_class = _Queue


class _AsyncPool(AsyncAdaptedQueuePool):
    _queue_class = _AsyncQueue
