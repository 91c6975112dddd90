"""Locks in PostgreSQL (14 or later): advisory locks, each on a connection of its own.

The lock is the session's, and `idle_session_timeout` is its time to live: a holder that says nothing for that long is disconnected by
the server, which frees the lock. The server queues those who wait, first come, first served. Tokens come from a sequence,
`holdfast_lock_token`, made when it is first needed; it grows across crashes and restarts, and goes back where a backup is restored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from holdfast.clients.postgres.psycopg import AsyncConnection, Connection
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded, LockTaken, StoreUnavailable
from holdfast.mutex.store import as_unavailable
from holdfast.mutex.whole import whole
from holdfast.scope import deadline

# Seconds for one question to the server, beside the wait for the lock.
_WITHIN = 1.0
_MAKE_SEQUENCE = "CREATE SEQUENCE IF NOT EXISTS holdfast_lock_token"
_TOKEN = "SELECT nextval('holdfast_lock_token')"  # noqa: S105  (a fencing token is no secret)


def from_url(url: str) -> PostgresStore:
    """A store in the database of this URL. What is wrong with it is said now, and without quoting it: it has a password in it."""
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        conninfo_to_dict(plain)
    except psycopg.ProgrammingError:
        raise ValueError(
            "lock.store must be a URL like postgresql://user:password@host:5432/name, special characters of a password as %XX"
        ) from None
    return PostgresStore(plain)


class PostgresStore:
    """See `Store`."""

    def __init__(self, url: str) -> None:
        self._options: dict[str, Any] = {"conninfo": url, "autocommit": True, "dead_after": _WITHIN, "server_timer": False}

    def take(self, name: str, ttl: float, wait: float) -> PostgresGrant:
        """See `Store.take`."""
        with _asking(_WITHIN + wait):
            connection: Any = Connection.connect(**self._options)
            try:
                connection.execute(_settings(ttl, wait))
                _refuse_taken(name, wait, connection.execute(*_taking(name, wait)).fetchone())
                grant = PostgresGrant(connection)
                try:
                    grant.token = connection.execute(_TOKEN).fetchone()[0]
                except psycopg.errors.UndefinedTable:
                    with suppress(psycopg.errors.UniqueViolation):  # another makes it just now
                        connection.execute(_MAKE_SEQUENCE)
                    grant.asked = clock.now()
                    grant.token = connection.execute(_TOKEN).fetchone()[0]
            except psycopg.errors.LockNotAvailable as error:
                connection.close()
                raise LockTaken(name) from error
            except BaseException:
                connection.close()
                raise
        return grant

    async def atake(self, name: str, ttl: float, wait: float) -> PostgresGrant:
        """See `Store.take`."""
        with _asking(_WITHIN + wait):
            connection: Any = await AsyncConnection.connect(**self._options)
            try:
                await connection.execute(_settings(ttl, wait))
                _refuse_taken(name, wait, await (await connection.execute(*_taking(name, wait))).fetchone())
                grant = PostgresGrant(connection)
                try:
                    grant.token = (await (await connection.execute(_TOKEN)).fetchone())[0]
                except psycopg.errors.UndefinedTable:
                    with suppress(psycopg.errors.UniqueViolation):
                        await connection.execute(_MAKE_SEQUENCE)
                    grant.asked = clock.now()
                    grant.token = (await (await connection.execute(_TOKEN)).fetchone())[0]
            except psycopg.errors.LockNotAvailable as error:
                await connection.close()
                raise LockTaken(name) from error
            except BaseException:
                await connection.close()
                raise
        return grant


class PostgresGrant:
    """See `Grant`: the connection that has the lock."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.token = 0
        self.asked = clock.now()

    def renew(self, ttl: float) -> bool:
        """See `Grant.renew`."""
        try:
            with _asking(_WITHIN):
                self._connection.execute(_idle(ttl))
        except StoreUnavailable:
            if self._connection.closed:  # the lock went with it
                return False
            raise
        return True

    async def arenew(self, ttl: float) -> bool:
        """See `Grant.renew`."""
        try:
            with _asking(_WITHIN):
                await self._connection.execute(_idle(ttl))
        except StoreUnavailable:
            if self._connection.closed:
                return False
            raise
        return True

    def release(self) -> bool:
        """See `Grant.release`."""
        try:
            with _asking(_WITHIN):
                self._connection.execute("SELECT pg_advisory_unlock_all()")
        except StoreUnavailable:
            return False  # the connection is lost, and the lock with it
        else:
            return True
        finally:
            self._connection.close()

    async def arelease(self) -> bool:
        """See `Grant.release`."""
        return await whole(self._arelease())

    async def _arelease(self) -> bool:
        try:
            with _asking(_WITHIN):
                await self._connection.execute("SELECT pg_advisory_unlock_all()")
        except StoreUnavailable:
            return False
        else:
            return True
        finally:
            await self._connection.close()


def _settings(ttl: float, wait: float) -> str:
    return f"{_idle(ttl)}; SET lock_timeout = {max(1, int(wait * 1000))}"


def _idle(ttl: float) -> str:
    return f"SET idle_session_timeout = {max(1, int(ttl * 1000))}"


def _taking(name: str, wait: float) -> tuple[str, tuple[int]]:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    return ("SELECT pg_advisory_lock(%s)" if wait > 0 else "SELECT pg_try_advisory_lock(%s)"), (key,)


def _refuse_taken(name: str, wait: float, row: tuple[Any, ...]) -> None:
    if wait <= 0 and not row[0]:
        raise LockTaken(name)


@contextmanager
def _asking(seconds: float) -> Iterator[None]:
    outer = ambient.get()
    try:
        with deadline(seconds):  # every wait of these connections asks it, the async ones too
            yield
    except (DeadlineExceeded, psycopg.Error, OSError) as error:
        raise as_unavailable(error, outer) from error
