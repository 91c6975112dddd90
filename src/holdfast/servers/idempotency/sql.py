"""Answers in the database of the work itself, written in its transaction: effect and record are committed together, or neither is."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from holdfast.drivers import clock
from holdfast.scope import remaining
from holdfast.servers.idempotency.asking import Asking
from holdfast.servers.idempotency.finishing import to_the_end
from holdfast.servers.idempotency.sql_words import Exchange, Words
from holdfast.servers.idempotency.store import Held, Running
from holdfast.validation import Seconds, count, positive_seconds

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy
    from sqlalchemy.ext.asyncio import AsyncEngine

    from holdfast.servers.idempotency.sql_sessions import AsyncSession, AsyncSource, Session, Source

R = TypeVar("R")


class Pool(Protocol):
    """A pool of connections, as psycopg_pool has them, blocking or async."""

    def getconn(self) -> object:
        """Take a connection."""
        ...

    def putconn(self, conn: Any, /) -> object:
        """Give it back."""
        ...


Connect: TypeAlias = "Callable[[], psycopg.Connection[Any]] | Callable[[], Awaitable[psycopg.AsyncConnection[Any]]]"
Database: TypeAlias = "str | sqlalchemy.Engine | AsyncEngine | Pool | Connect"

# Seconds between two clean-ups of a process, and how many records one takes: few enough to be no load, and together more than come in.
_PURGE_EVERY = 10.0
_PURGE = 500


class SQLStore:
    """Answers in PostgreSQL or SQLite, in the transaction of the work.

    The part begins a transaction before the handler runs, the handler works in it (`holdfast.servers.idempotency.connection`), and the
    part commits it with the record of the answer, before the answer is sent. A worker that is killed in between leaves neither. So the
    effect happens exactly once, as far as it is in this database.

    Requests without a key have such a transaction as well, only without a record. An answer of 400 or more rolls the work back (see
    `Idempotency(commits=...)`); after one of 500 or more, and after an exception, nothing is kept, and the request may be run again.

    Args:
        database: where the work is: an `Engine` or `AsyncEngine` of SQLAlchemy, a pool of psycopg_pool, a URL or connection string of
            PostgreSQL (a connection of `holdfast.clients.postgres` is made per request), or a function, plain or `async def`, that makes
            a psycopg connection; of psycopg's own, with a `connect_timeout`, since nothing else ends its wait in a thread.
        table: its name; `schema` has the statements that make it.
        create: make the table at first use where it is missing.
        timeout: seconds that a database may take to answer before the handler runs; one that does not is `StoreUnavailable` (503), and
            nothing runs. After three times in a row it is not waited for any more, until it is back (see `asking`). A SQLite that
            is locked is waited for as its driver says.

    Raises:
        TypeError: `database` is nothing of that.
        ValueError: the name of the table is none, the database is of another kind, or `timeout` is not above 0.
        ImportError: psycopg is missing where it is needed.
    """

    transactional = True

    def __init__(self, database: Database, *, table: str = "holdfast_idempotency", create: bool = True, timeout: Seconds = 5.0) -> None:
        from holdfast.servers.idempotency.sql_sources import sources

        dialect, self._source, self._async_source = sources(database)
        self._words = Words(table, dialect)
        seconds = positive_seconds("SQLStore.timeout", timeout)
        self._asking = Asking("idempotency-sql", None if dialect == "sqlite" else seconds)
        self._created = not create
        self._purged = clock.now()

    @property
    def only_blocking(self) -> bool:
        """Whether `database` is for blocking code alone."""
        return self._async_source is None

    @property
    def only_async(self) -> bool:
        """Whether `database` is for async code alone."""
        return self._source is None

    @property
    def schema(self) -> str:
        """The statements that make the table, for migrations."""
        return ";\n".join(self._words.schema) + ";\n"

    # Blocking.

    def claim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> SQLClaim | Held:  # noqa: ARG002  (the transaction is it)
        """See `Store.claim`."""
        with self._asking.guarded():
            return self._claim(self._blocking(), key, fingerprint, ttl)

    def _claim(self, source: Source, key: str | None, fingerprint: str, ttl: float) -> SQLClaim | Held:
        session: Session | None = None
        end = clock.now() + remaining()
        try:
            with self._asking.in_time():
                if not self._created:
                    self._transact(source, self._words.create())
                    self._created = True
                session = source.begin()
                _drive(session, self._words.begin(end - clock.now()))
                held = None if key is None else _drive(session, self._words.claim(key, fingerprint))
            session.under_ambient()
        except BaseException as error:
            if session is not None:
                session.roll_back()
            if source.is_locked(error):
                return Running("", 0.0)
            raise source.translated(error) from error
        if held is not None:
            session.roll_back()
            return held
        return SQLClaim(self, source, session, key, fingerprint, ttl)

    def purge(self, limit: int = 10_000) -> int:
        """Delete records whose time is over. The store does so by itself while it is used; this is for those that want it sooner.

        Returns:
            How many; fewer than `limit` when none is left.
        """
        return self._transact(self._blocking(), self._words.purge(count("SQLStore.purge.limit", limit)))

    def _blocking(self) -> Source:
        if self._source is None:
            raise TypeError("this SQLStore was made for async code: give it an Engine, a ConnectionPool or a URL for blocking code")
        return self._source

    def _transact(self, source: Source, exchange: Exchange[R]) -> R:
        session = source.begin()
        try:
            result = _drive(session, exchange)
        except BaseException as error:
            session.roll_back()
            raise source.translated(error) from error
        session.commit()
        return result

    def _purge_is_due(self) -> bool:
        now = clock.now()
        due = now - self._purged >= _PURGE_EVERY
        if due:
            self._purged = now
        return due

    # Async: the same with awaits.

    async def aclaim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> AsyncSQLClaim | Held:  # noqa: ARG002
        """See `Store.claim`."""
        async with self._asking.aguarded():
            return await self._aclaim(self._awaited(), key, fingerprint, ttl)

    async def _aclaim(self, source: AsyncSource, key: str | None, fingerprint: str, ttl: float) -> AsyncSQLClaim | Held:
        session: AsyncSession | None = None
        end = clock.now() + remaining()
        try:
            async with self._asking.ain_time():
                if not self._created:
                    await self._atransact(source, self._words.create())
                    self._created = True
                session = await source.begin()
                await _adrive(session, self._words.begin(end - clock.now()))
                held = None if key is None else await _adrive(session, self._words.claim(key, fingerprint))
            session.under_ambient()
        except BaseException as error:
            if session is not None:
                await to_the_end(session.roll_back())
            if source.is_locked(error):
                return Running("", 0.0)
            raise source.translated(error) from error
        if held is not None:
            await session.roll_back()
            return held
        return AsyncSQLClaim(self, source, session, key, fingerprint, ttl)

    async def apurge(self, limit: int = 10_000) -> int:
        """See `purge`."""
        return await self._atransact(self._awaited(), self._words.purge(count("SQLStore.apurge.limit", limit)))

    def _awaited(self) -> AsyncSource:
        if self._async_source is None:
            raise TypeError("this SQLStore was made for blocking code: give it an AsyncEngine, an async pool or a URL for async code")
        return self._async_source

    async def _atransact(self, source: AsyncSource, exchange: Exchange[R]) -> R:
        session = await source.begin()
        try:
            result = await _adrive(session, exchange)
        except BaseException as error:
            await to_the_end(session.roll_back())
            raise source.translated(error) from error
        await session.commit()
        return result


def _drive(session: Session, exchange: Exchange[R]) -> R:
    rows: list[tuple[object, ...]] = []
    started = False
    while True:
        try:
            text, values = exchange.send(rows) if started else next(exchange)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
        started = True
        rows = session.execute(text, values)


async def _adrive(session: AsyncSession, exchange: Exchange[R]) -> R:
    rows: list[tuple[object, ...]] = []
    started = False
    while True:
        try:
            text, values = exchange.send(rows) if started else next(exchange)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # StopIteration is not generic
        started = True
        rows = await session.execute(text, values)


class SQLClaim:
    """A transaction in which the work runs. `connection` is of the class that `database` makes."""

    lease = None

    def __init__(self, store: SQLStore, source: Source, session: Session, key: str | None, fingerprint: str, ttl: float) -> None:
        self._store = store
        self._source = source
        self._session = session
        self._key = key
        self._fingerprint = fingerprint
        self._ttl = ttl

    @property
    def connection(self) -> object:
        """See `Claim.connection`."""
        return self._session.connection

    def keep(self, answer: bytes, *, effects: bool = True) -> bool:
        """See `Claim.keep`."""
        if self._key is None:
            self._commit() if effects else self._session.roll_back()
            return True
        try:
            _drive(self._session, self._store._words.keep(self._key, self._fingerprint, answer, self._ttl, effects))
        except BaseException as error:
            self._session.roll_back()
            if self._source.is_duplicate(error):
                return False
            raise
        self._commit()
        if self._store._purge_is_due():
            with contextlib.suppress(Exception):  # the next one will
                self._store.purge(_PURGE)
        return True

    def _commit(self) -> None:
        try:
            self._session.commit()
        except BaseException:
            self._session.roll_back()
            raise

    def free(self) -> None:
        """See `Claim.free`."""
        self._session.roll_back()

    def abandon(self) -> None:
        """See `Claim.abandon`."""
        self._session.roll_back()


class AsyncSQLClaim:
    """`SQLClaim` for async code."""

    lease = None

    def __init__(self, store: SQLStore, source: AsyncSource, session: AsyncSession, key: str | None, fingerprint: str, ttl: float) -> None:
        self._store = store
        self._source = source
        self._session = session
        self._key = key
        self._fingerprint = fingerprint
        self._ttl = ttl

    @property
    def connection(self) -> object:
        """See `Claim.connection`."""
        return self._session.connection

    async def akeep(self, answer: bytes, *, effects: bool = True) -> bool:
        """See `Claim.keep`."""
        if self._key is None:
            await (self._commit() if effects else self._session.roll_back())
            return True
        try:
            await _adrive(self._session, self._store._words.keep(self._key, self._fingerprint, answer, self._ttl, effects))
        except BaseException as error:
            await self._session.roll_back()
            if self._source.is_duplicate(error):
                return False
            raise
        await self._commit()
        if self._store._purge_is_due():
            with contextlib.suppress(Exception):  # the next one will
                await self._store.apurge(_PURGE)
        return True

    async def _commit(self) -> None:
        try:
            await self._session.commit()
        except BaseException:
            await self._session.roll_back()
            raise

    async def afree(self) -> None:
        """See `Claim.free`."""
        await self._session.roll_back()

    async def aabandon(self) -> None:
        """See `Claim.abandon`."""
        await self._session.roll_back()
