"""Open transactions of SQLAlchemy and psycopg, blocking and async, behind one face each.

1. A session ends once, by `commit` or `roll_back`, and its connection goes back to where it came from.
2. One that could not be ended in order, or was cut off in the middle of a statement, is closed and not given back: nobody else is to
   find its transaction, or an answer that was meant for it.
3. The handler works in the transaction and cannot end it: a commit in the middle would part the effects from their record.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable
from typing import Any, Protocol

from holdfast.errors import DeadlineExceeded, StoreUnavailable
from holdfast.servers.idempotency.finishing import to_the_end
from holdfast.servers.idempotency.sql_words import Values
from holdfast.servers.rollback import adiscard, adiscard_alchemy, discard, discard_alchemy

Rows = list[tuple[object, ...]]


class Session(Protocol):
    """An open transaction."""

    connection: object

    def execute(self, text: str, values: Values) -> Rows:
        """One statement; the rows that it returns."""
        ...

    def commit(self) -> None:
        """End it so."""
        ...

    def roll_back(self) -> None:
        """End it so; raises nothing, and does nothing where it has ended."""
        ...


class AsyncSession(Protocol):
    """The same for async code."""

    connection: object

    async def execute(self, text: str, values: Values) -> Rows:
        """See `Session`."""
        ...

    async def commit(self) -> None:
        """See `Session`."""
        ...

    async def roll_back(self) -> None:
        """See `Session`."""
        ...


class Errors(Protocol):
    """What the errors of a library mean."""

    def is_duplicate(self, error: BaseException) -> bool:
        """Whether the key is there already."""
        ...

    def is_locked(self, error: BaseException) -> bool:
        """Whether another transaction had the lock for too long."""
        ...

    def translated(self, error: BaseException) -> BaseException:
        """`StoreUnavailable` where the database could not be used, else the error itself."""
        ...


class Source(Errors, Protocol):
    """Where transactions are begun."""

    def begin(self) -> Session:
        """Begin one."""
        ...


class AsyncSource(Errors, Protocol):
    """The same for async code."""

    async def begin(self) -> AsyncSession:
        """Begin one."""
        ...


def sources(database: Any) -> tuple[str, Source | None, AsyncSource | None]:
    """The kind of a database, and where its transactions are begun: by blocking code, by async code.

    Raises:
        TypeError: it is nothing that is known here.
    """
    kind = type(database).__module__.partition(".")[0]
    if kind == "sqlalchemy" and hasattr(database, "sync_engine"):
        return database.dialect.name, None, _AlchemyAsync(database)
    if kind == "sqlalchemy" and hasattr(database, "begin"):
        return database.dialect.name, _Alchemy(database), None
    if isinstance(database, str):
        psycopg = _psycopg()
        from holdfast.clients.postgres import aconnect, connect

        if "+" in database.partition("://")[0]:
            raise TypeError("SQLStore.database: a URL with a driver is SQLAlchemy's; give sqlalchemy.create_engine(url)")
        return (
            "postgresql",
            _Psycopg(psycopg, lambda: connect(database), _close),
            _PsycopgAsync(psycopg, lambda: aconnect(database), _aclose),
        )
    if callable(getattr(database, "getconn", None)) and callable(getattr(database, "putconn", None)):
        if inspect.iscoroutinefunction(database.getconn):
            return "postgresql", None, _PsycopgAsync(_psycopg(), database.getconn, database.putconn)
        return "postgresql", _Psycopg(_psycopg(), database.getconn, database.putconn), None
    if inspect.iscoroutinefunction(database):
        return "postgresql", None, _PsycopgAsync(_psycopg(), database, _aclose)
    if callable(database):
        return "postgresql", _Psycopg(_psycopg(), database, _close), None
    raise TypeError(f"SQLStore.database must be an engine, a pool, a URL or a function that connects, got {type(database).__qualname__}")


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ImportError("SQLStore over psycopg needs the extra: pip install 'holdfast[postgres]'") from error
    return psycopg


def _close(connection: Any) -> None:
    connection.close()


async def _aclose(connection: Any) -> None:
    await connection.close()


def _unavailable(error: BaseException) -> StoreUnavailable:
    # Only its class: messages of drivers may have connection strings in them.
    return StoreUnavailable(f"the database of the idempotency store cannot be used: {type(error).__name__}")


# SQLAlchemy.


class _AlchemyErrors:
    def __init__(self, engine: Any) -> None:
        from sqlalchemy import event, exc, text

        levels = (engine.get_execution_options().get("isolation_level"), getattr(engine.dialect, "_on_connect_isolation_level", None))
        if "AUTOCOMMIT" in levels:
            raise ValueError("SQLStore.database must not be in AUTOCOMMIT: effects and record would be committed apart")
        self._engine = engine
        self._exc = exc
        self._listen = event.listen
        self._text = text

    def is_duplicate(self, error: BaseException) -> bool:
        return isinstance(error, self._exc.IntegrityError)

    def is_locked(self, error: BaseException) -> bool:
        return isinstance(error, self._exc.OperationalError) and "database is locked" in str(error)

    def translated(self, error: BaseException) -> BaseException:
        lost = isinstance(error, (self._exc.OperationalError, self._exc.InterfaceError, self._exc.TimeoutError))
        return _unavailable(error) if lost and not isinstance(error, DeadlineExceeded) else error

    def _guard(self, connection: Any) -> Callable[[], None]:
        """Refuse a commit that is not the store's, and return what lets its own through."""
        own = False

        def refuse(_: object) -> None:
            if not own:
                raise RuntimeError("this transaction is committed with its record, by the store; use begin_nested() or a Session inside")

        def let() -> None:
            nonlocal own
            own = True

        self._listen(connection, "commit", refuse)
        return let


class _Alchemy(_AlchemyErrors):
    def begin(self) -> _AlchemySession:
        connection = None
        try:
            connection = self._engine.connect()
            return _AlchemySession(self._text, connection, connection.begin(), self._guard(connection))
        except BaseException as error:
            if connection is not None:
                discard_alchemy(connection)
            raise self.translated(error) from error


class _AlchemySession:
    def __init__(self, text: Any, connection: Any, transaction: Any, let: Callable[[], None]) -> None:
        self.connection = connection
        self._text = text
        self._transaction = transaction
        self._let = let

    def execute(self, text: str, values: Values) -> Rows:
        result = self.connection.execute(self._text(text), dict(values))
        return [tuple(row) for row in result] if result.returns_rows else []

    def commit(self) -> None:
        self._let()
        try:
            self._transaction.commit()
        except BaseException:
            discard_alchemy(self.connection)
            raise
        self.connection.close()

    def roll_back(self) -> None:
        if self.connection.closed:
            return
        try:
            self._transaction.rollback()
        except BaseException:
            discard_alchemy(self.connection)
        else:
            self.connection.close()


class _AlchemyAsync(_AlchemyErrors):
    async def begin(self) -> _AlchemyAsyncSession:
        connection = self._engine.connect()
        try:
            await connection.start()
            transaction = connection.begin()
            await transaction.start()
            return _AlchemyAsyncSession(self._text, connection, transaction, self._guard(connection.sync_connection))
        except BaseException as error:
            await to_the_end(adiscard_alchemy(connection))
            raise self.translated(error) from error


class _AlchemyAsyncSession:
    def __init__(self, text: Any, connection: Any, transaction: Any, let: Callable[[], None]) -> None:
        self.connection = connection
        self._text = text
        self._transaction = transaction
        self._let = let

    async def execute(self, text: str, values: Values) -> Rows:
        result = await self.connection.execute(self._text(text), dict(values))
        return [tuple(row) for row in result] if result.returns_rows else []

    async def commit(self) -> None:
        self._let()
        try:
            await self._transaction.commit()
        except BaseException:
            await adiscard_alchemy(self.connection)
            raise
        await self.connection.close()

    async def roll_back(self) -> None:
        if self.connection.closed:
            return
        try:
            await self._transaction.rollback()
        except BaseException:
            await adiscard_alchemy(self.connection)
        else:
            await self.connection.close()


# psycopg.


class _PsycopgErrors:
    def __init__(self, psycopg: Any, take: Callable[[], Any], give: Callable[[Any], Any]) -> None:
        self._psycopg = psycopg
        self._take = take
        self._give = give

    def is_duplicate(self, error: BaseException) -> bool:
        return isinstance(error, self._psycopg.errors.UniqueViolation)

    def is_locked(self, error: BaseException) -> bool:  # noqa: ARG002  (SQLite's)
        return False

    def translated(self, error: BaseException) -> BaseException:
        lost = isinstance(error, self._psycopg.OperationalError) and not isinstance(error, DeadlineExceeded)
        return _unavailable(error) if lost or type(error).__name__ in {"PoolTimeout", "PoolClosed", "TooManyRequests"} else error


def _pyformat(text: str) -> str:
    # The statements are ours: in them a colon before a word is a parameter, and there are no percent signs.
    return re.sub(r":(\w+)", r"%(\1)s", text)


class _Psycopg(_PsycopgErrors):
    def begin(self) -> _PsycopgSession:
        try:
            connection = self._take()
        except BaseException as error:
            raise self.translated(error) from error
        if inspect.iscoroutine(connection):
            connection.close()
            raise TypeError("SQLStore.database is a plain function that returned a coroutine; give an `async def`")
        session = _PsycopgSession(connection, self._give)
        try:
            session.enter()
        except BaseException as error:
            session.roll_back()
            raise self.translated(error) from error
        return session


class _PsycopgSession:
    def __init__(self, connection: Any, give: Callable[[Any], Any]) -> None:
        self.connection = connection
        self._give = give
        self._transaction: Any = None
        self._ended = False

    def enter(self) -> None:
        # A block of psycopg's: inside, `transaction()` is a savepoint, and `commit()` is an error.
        self._transaction = self.connection.transaction()
        self._transaction.__enter__()

    def execute(self, text: str, values: Values) -> Rows:
        cursor = self.connection.execute(_pyformat(text), values)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description is not None else []

    def commit(self) -> None:
        self._transaction.__exit__(None, None, None)
        self._done()

    def roll_back(self) -> None:
        if self._ended:
            return
        try:
            if self._transaction is not None:
                _RolledBack.through(self._transaction)
            if self.connection.info.transaction_status.name != "IDLE":
                discard(self.connection)
        except BaseException:
            discard(self.connection)
        self._done()

    def _done(self) -> None:
        self._ended = True
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


class _PsycopgAsync(_PsycopgErrors):
    async def begin(self) -> _PsycopgAsyncSession:
        try:
            connection = await self._take()
        except BaseException as error:
            raise self.translated(error) from error
        session = _PsycopgAsyncSession(connection, self._give)
        try:
            await session.enter()
        except BaseException as error:
            await to_the_end(session.roll_back())
            raise self.translated(error) from error
        return session


class _PsycopgAsyncSession:
    def __init__(self, connection: Any, give: Callable[[Any], Any]) -> None:
        self.connection = connection
        self._give = give
        self._transaction: Any = None
        self._ended = False

    async def enter(self) -> None:
        self._transaction = self.connection.transaction()
        await self._transaction.__aenter__()

    async def execute(self, text: str, values: Values) -> Rows:
        cursor = await self.connection.execute(_pyformat(text), values)
        return [tuple(row) for row in await cursor.fetchall()] if cursor.description is not None else []

    async def commit(self) -> None:
        await self._transaction.__aexit__(None, None, None)
        await self._done()

    async def roll_back(self) -> None:
        if self._ended:
            return
        try:
            if self._transaction is not None:
                await _RolledBack.athrough(self._transaction)
            if self.connection.info.transaction_status.name != "IDLE":
                await adiscard(self.connection)
        except BaseException:
            await adiscard(self.connection)
        await self._done()

    async def _done(self) -> None:
        self._ended = True
        with contextlib.suppress(Exception):
            await self._give(self.connection)
