"""Transactions of SQLAlchemy, see `sql_sessions`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from sqlalchemy import event, exc, text

from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded
from holdfast.locks import Guarded
from holdfast.servers.idempotency.finishing import to_the_end
from holdfast.servers.idempotency.sql_sessions import Rows, unavailable
from holdfast.servers.idempotency.sql_words import Values
from holdfast.servers.overseer import oversee
from holdfast.servers.rollback import adiscard_alchemy, discard_alchemy

# Drivers that know libpq's `connect_timeout`; the least that it takes are 2 seconds.
_LIBPQ = {"psycopg", "psycopg2"}
_LEAST_CONNECT_TIMEOUT = 2


def _connect_in_time(_dialect: object, _record: object, _args: object, parameters: dict[str, Any]) -> None:
    limit = ambient.get()
    if limit is not None:
        left = max(_LEAST_CONNECT_TIMEOUT, math.ceil(limit.remaining(clock.now())))
        parameters.setdefault("connect_timeout", left)


class _Engine(Guarded):
    def __init__(self, engine: Any) -> None:
        super().__init__()
        sync = getattr(engine, "sync_engine", engine)
        if engine.dialect.driver in _LIBPQ:
            event.listen(sync, "do_connect", _connect_in_time)
        levels = (engine.get_execution_options().get("isolation_level"), getattr(engine.dialect, "_on_connect_isolation_level", None))
        if "AUTOCOMMIT" in levels:
            raise ValueError("SQLStore.database must not be in AUTOCOMMIT: effects and record would be committed apart")
        self._engine = engine

    def _after_fork(self) -> None:
        # Two processes on one connection would read each other's answers. The parent goes on with those that it has.
        getattr(self._engine, "sync_engine", self._engine).dispose(close=False)

    def is_duplicate(self, error: BaseException) -> bool:
        return isinstance(error, exc.IntegrityError)

    def is_locked(self, error: BaseException) -> bool:
        return isinstance(error, exc.OperationalError) and "database is locked" in str(error)

    def translated(self, error: BaseException) -> BaseException:
        lost = isinstance(error, (exc.OperationalError, exc.InterfaceError, exc.TimeoutError))
        return unavailable(error) if lost and not isinstance(error, DeadlineExceeded) else error

    def _guard(self, connection: Any) -> Callable[[], None]:
        """Refuse a commit that is not the store's, and return what lets its own through."""
        own = False

        def refuse(_: object) -> None:
            if not own:
                raise RuntimeError("this transaction is committed with its record, by the store; use begin_nested() or a Session inside")

        def let() -> None:
            nonlocal own
            own = True

        event.listen(connection, "commit", refuse)
        return let


class EngineSource(_Engine):
    """`Source` of an `Engine`."""

    def begin(self) -> _EngineSession:
        """See `Source`."""
        connection = None
        try:
            connection = self._engine.connect()
            return _EngineSession(connection, connection.begin(), self._guard(connection))
        except BaseException as error:
            if connection is not None:
                discard_alchemy(connection)
            raise self.translated(error) from error


class _EngineSession:
    def __init__(self, connection: Any, transaction: Any, let: Callable[[], None]) -> None:
        self.connection = connection
        self._transaction = transaction
        self._let = let
        self._overseen = oversee(connection.connection.driver_connection)

    def under_ambient(self) -> None:
        self._overseen.under_ambient()

    def execute(self, words: str, values: Values) -> Rows:
        self._overseen.under_ambient()
        result = self.connection.execute(text(words), dict(values))
        return [tuple(row) for row in result] if result.returns_rows else []

    def commit(self) -> None:
        self._let()
        self._overseen.under_ambient()
        try:
            self._transaction.commit()
        except BaseException:
            discard_alchemy(self.connection)
            raise
        finally:
            self._overseen.end()
        self.connection.close()

    def roll_back(self) -> None:
        self._overseen.under_ambient()
        try:
            if self._overseen.cut:
                discard_alchemy(self.connection)
            elif not self.connection.closed:
                self._transaction.rollback()
        except BaseException:
            discard_alchemy(self.connection)
        finally:
            self._overseen.end()
        self.connection.close()


class AsyncEngineSource(_Engine):
    """`AsyncSource` of an `AsyncEngine`."""

    async def begin(self) -> _AsyncEngineSession:
        """See `Source`."""
        connection = self._engine.connect()
        try:
            await connection.start()
            transaction = connection.begin()
            await transaction.start()
            return _AsyncEngineSession(connection, transaction, self._guard(connection.sync_connection))
        except BaseException as error:
            await to_the_end(adiscard_alchemy(connection))
            raise self.translated(error) from error


class _AsyncEngineSession:
    def __init__(self, connection: Any, transaction: Any, let: Callable[[], None]) -> None:
        self.connection = connection
        self._transaction = transaction
        self._let = let
        self._overseen = oversee(connection.sync_connection.connection.driver_connection)

    def under_ambient(self) -> None:
        self._overseen.under_ambient()

    async def execute(self, words: str, values: Values) -> Rows:
        self._overseen.under_ambient()
        result = await self.connection.execute(text(words), dict(values))
        return [tuple(row) for row in result] if result.returns_rows else []

    async def commit(self) -> None:
        self._let()
        self._overseen.under_ambient()
        try:
            await self._transaction.commit()
        except BaseException:
            await adiscard_alchemy(self.connection)
            raise
        finally:
            self._overseen.end()
        await self.connection.close()

    async def roll_back(self) -> None:
        self._overseen.under_ambient()
        try:
            if self._overseen.cut:
                await adiscard_alchemy(self.connection)
            elif not self.connection.closed:
                await self._transaction.rollback()
        except BaseException:
            await adiscard_alchemy(self.connection)
        finally:
            self._overseen.end()
        await self.connection.close()
