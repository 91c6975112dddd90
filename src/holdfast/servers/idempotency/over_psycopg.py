"""Transactions of psycopg, see `sql_sessions`."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable
from typing import Any, cast

import psycopg

from holdfast.errors import DeadlineExceeded
from holdfast.locks import Guarded
from holdfast.scope import remaining
from holdfast.servers.idempotency.finishing import to_the_end
from holdfast.servers.idempotency.sql_sessions import Rows, unavailable
from holdfast.servers.idempotency.sql_words import Values
from holdfast.servers.overseer import oversee
from holdfast.servers.rollback import adiscard, discard


class _Connections(Guarded):
    """Where connections come from.

    Args:
        take, give: of one connection.
        pool: that they belong to; None where each is made for one transaction.
    """

    def __init__(self, take: Callable[[], Any], give: Callable[[Any], Any], pool: Any = None) -> None:
        super().__init__()
        self._take = take
        self._give = give
        self._pool = pool

    def _after_fork(self) -> None:
        # Two processes on one connection would read each other's answers, and the pool's threads are not here.
        if getattr(self._pool, "closed", True) is False:
            self._take = _refuse

    def is_duplicate(self, error: BaseException) -> bool:
        return isinstance(error, psycopg.errors.UniqueViolation)

    def is_locked(self, error: BaseException) -> bool:  # noqa: ARG002  (SQLite's)
        return False

    def translated(self, error: BaseException) -> BaseException:
        lost = isinstance(error, psycopg.OperationalError) and not isinstance(error, DeadlineExceeded)
        return unavailable(error) if lost or type(error).__name__ in {"PoolTimeout", "PoolClosed", "TooManyRequests"} else error


def _refuse() -> Any:
    raise RuntimeError("SQLStore.database is a pool that was open when this process was forked; open it in the worker, or give a URL")


def taking_from(pool: Any) -> Callable[[], Any]:
    """How to take from a pool: those of psycopg_pool wait for half a minute, unless they are told that nobody waits so long."""
    if "timeout" not in inspect.signature(pool.getconn).parameters:
        return cast("Callable[[], Any]", pool.getconn)
    return lambda: pool.getconn(timeout=min(remaining(), pool.timeout))


def _pyformat(text: str) -> str:
    # The statements are ours: in them a colon before a word is a parameter, and there are no percent signs.
    return re.sub(r":(\w+)", r"%(\1)s", text)


class ConnectionSource(_Connections):
    """`Source` of connections: how to take one, and how to give it back."""

    def begin(self) -> _ConnectionSession:
        """See `Source`."""
        try:
            connection = self._take()
        except BaseException as error:
            raise self.translated(error) from error
        if inspect.iscoroutine(connection):
            connection.close()
            raise TypeError("SQLStore.database is a plain function that returned a coroutine; give an `async def`")
        session = _ConnectionSession(connection, self._give)
        try:
            session.enter()
        except BaseException as error:
            session.roll_back()
            raise self.translated(error) from error
        return session


class _ConnectionSession:
    def __init__(self, connection: Any, give: Callable[[Any], Any]) -> None:
        self.connection = connection
        self._give = give
        self._transaction: Any = None
        self._ended = False
        self._overseen = oversee(connection)

    def enter(self) -> None:
        # A block of psycopg's: inside, `transaction()` is a savepoint, and `commit()` is an error.
        self._transaction = self.connection.transaction()
        self._transaction.__enter__()

    def under_ambient(self) -> None:
        self._overseen.under_ambient()

    def execute(self, words: str, values: Values) -> Rows:
        self._overseen.under_ambient()
        cursor = self.connection.execute(_pyformat(words), values)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description is not None else []

    def commit(self) -> None:
        self._overseen.under_ambient()
        self._transaction.__exit__(None, None, None)
        self._done()

    def roll_back(self) -> None:
        if self._ended:
            return
        self._overseen.under_ambient()
        try:
            if self._transaction is not None and not self._overseen.cut:
                _RolledBack.through(self._transaction)
            if self._overseen.cut or self.connection.info.transaction_status.name != "IDLE":
                discard(self.connection)
        except BaseException:
            discard(self.connection)
        self._done()

    def _done(self) -> None:
        self._ended = True
        self._overseen.end()
        with contextlib.suppress(Exception):
            self._give(self.connection)


class _RolledBack(Exception):
    """No error: it is how a block of psycopg is told to roll back."""

    @classmethod
    def through(cls, transaction: Any) -> None:
        error = cls()
        transaction.__exit__(cls, error, None)

    @classmethod
    async def athrough(cls, transaction: Any) -> None:
        error = cls()
        await transaction.__aexit__(cls, error, None)


class AsyncConnectionSource(_Connections):
    """`AsyncSource` of async connections: how to take one, and how to give it back."""

    async def begin(self) -> _AsyncConnectionSession:
        """See `Source`."""
        try:
            connection = await self._take()
        except BaseException as error:
            raise self.translated(error) from error
        session = _AsyncConnectionSession(connection, self._give)
        try:
            await session.enter()
        except BaseException as error:
            await to_the_end(session.roll_back())
            raise self.translated(error) from error
        return session


class _AsyncConnectionSession:
    def __init__(self, connection: Any, give: Callable[[Any], Any]) -> None:
        self.connection = connection
        self._give = give
        self._transaction: Any = None
        self._ended = False
        self._overseen = oversee(connection)

    async def enter(self) -> None:
        self._transaction = self.connection.transaction()
        await self._transaction.__aenter__()

    def under_ambient(self) -> None:
        self._overseen.under_ambient()

    async def execute(self, words: str, values: Values) -> Rows:
        self._overseen.under_ambient()
        cursor = await self.connection.execute(_pyformat(words), values)
        return [tuple(row) for row in await cursor.fetchall()] if cursor.description is not None else []

    async def commit(self) -> None:
        self._overseen.under_ambient()
        await self._transaction.__aexit__(None, None, None)
        await self._done()

    async def roll_back(self) -> None:
        if self._ended:
            return
        self._overseen.under_ambient()
        try:
            if self._transaction is not None and not self._overseen.cut:
                await _RolledBack.athrough(self._transaction)
            if self._overseen.cut or self.connection.info.transaction_status.name != "IDLE":
                await adiscard(self.connection)
        except BaseException:
            await adiscard(self.connection)
        await self._done()

    async def _done(self) -> None:
        self._ended = True
        self._overseen.end()
        with contextlib.suppress(Exception):
            await self._give(self.connection)


def close(connection: Any) -> None:
    """What is done with a connection that was made for one transaction."""
    connection.close()


async def aclose(connection: Any) -> None:
    """See `close`."""
    await connection.close()
