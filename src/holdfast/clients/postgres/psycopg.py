"""psycopg 3 behind policies.

    with holdfast.clients.postgres.connect("postgresql://...", policy=orders) as connection:
        connection.execute("select ...")

`Connection` and `AsyncConnection` are psycopg's, and go wherever those do (`connection_class=` of psycopg's pools).

1. The ambient deadline bounds whatever waits: name look-up, connecting, TLS, login, statements, COPY, commit. Cut off, the connection is
   closed: what was on its way cannot be told from the next answer.
2. `statement_timeout` follows the deadline (see `server_timer`), so the server ends a statement by itself and the connection lives on. One
   that it would not end in time is cancelled, in at most `CANCEL_WITHIN` seconds.
3. A connection whose server has vanished is noticed after `dead_after` seconds: idle (keepalive), with data in flight (TCP_USER_TIMEOUT),
   and while it waits for an answer (see `liveness`).
4. Connecting passes the policy with its retry; each statement passes it without, since it may have run. Commit and rollback are bounded by
   the deadline, and never refused: a rollback has `ROLLBACK_WITHIN` seconds, also when the deadline has passed.

Errors are psycopg's as well as ours: `except psycopg.OperationalError` catches DeadlineExceeded, and refusals too.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Self, TypeVar

import psycopg
from psycopg import capabilities
from psycopg.abc import PQGen, PQGenConn
from psycopg.rows import Row

from holdfast.clients.postgres.connecting import Connecting
from holdfast.clients.postgres.liveness import Liveness
from holdfast.clients.postgres.psycopg_errors import BreakerOpen, BulkheadFull, DeadlineExceeded, RateLimited, translated
from holdfast.clients.postgres.psycopg_session import CANCEL_WITHIN, DEFAULTS, Session, Settings
from holdfast.clients.postgres.waiting import ServerGone, arun, bounded, run
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.drivers.backends import backend
from holdfast.net import STREAM, agetaddrinfo, getaddrinfo
from holdfast.policy import Policy
from holdfast.scope import DeadlineBlock, Shield, deadline, remaining, shield
from holdfast.validation import Seconds

__all__ = [
    "AsyncConnection",
    "BreakerOpen",
    "BulkheadFull",
    "Connection",
    "DeadlineExceeded",
    "RateLimited",
    "ServerGone",
    "aconnect",
    "connect",
]

T = TypeVar("T")

# Seconds for a rollback whose deadline has passed, or nearly so. After them the connection is closed, and the server rolls back by itself.
ROLLBACK_WITHIN = 0.05

# psycopg's own: how often an operation that waits for nothing in particular looks around.
_INTERVAL = 0.1


def connect(conninfo: str = "", **options: Any) -> Connection[Any]:
    """Connect by blocking; see `Connection.connect`."""
    return Connection.connect(conninfo, **options)


async def aconnect(conninfo: str = "", **options: Any) -> AsyncConnection[Any]:
    """Connect in asyncio; see `AsyncConnection.connect`."""
    return await AsyncConnection.connect(conninfo, **options)


class Connection(psycopg.Connection[Row]):
    """psycopg's connection, bounded. Make one with `connect`."""

    _session: Session | None = None

    @classmethod
    def connect(  # type: ignore[override]  # the same and more, all by name
        cls,
        conninfo: str = "",
        *,
        policy: Policy | None = None,
        dead_after: Seconds = 5.0,
        statement_timeout: Seconds | None = None,
        server_timer: bool = True,
        **options: Any,
    ) -> Self:
        """Connect, as often as the policy's retry says.

        Args:
            conninfo: a URL or libpq's keywords.
            policy: what guards connecting and every statement; None for deadlines only.
            dead_after: seconds, > 0, after which a vanished server is noticed; it bounds connecting too, unless there is a
                `connect_timeout`.
            statement_timeout: seconds that a statement may take, beside the deadline; None for what the server has.
            server_timer: whether the server's `statement_timeout` follows the deadline. False behind a pooler that hands one server
                connection to several clients (PgBouncer's transaction pooling).
            options: of `psycopg.Connection.connect`, and libpq's parameters.

        Raises:
            DeadlineExceeded: the time ran out.
            psycopg.OperationalError: no server could be reached, or it refused.
            BreakerOpen: the policy refused.
            ValueError, TypeError: an argument is out of its range, or not of its kind.
        """
        settings = Settings(policy, dead_after, statement_timeout, server_timer)

        with translated():
            return settings.guarding.repeatedly(cls._attempt, settings, conninfo, options)

    @classmethod
    def _attempt(cls, settings: Settings, conninfo: str, options: dict[str, Any]) -> Self:
        connecting = Connecting(settings, conninfo, options)
        with connecting.within(connecting.limit):
            answers = {name: getaddrinfo(*name, type=STREAM) for name in connecting.names}
        failure: psycopg.OperationalError | None = None
        for limit, keywords in connecting.attempts(answers):
            try:
                with connecting.within(limit):
                    made = super().connect(**keywords)
            except psycopg.OperationalError as error:
                failure = error
            else:
                made._session = Session(made.pgconn, settings)
                return made
        raise failure or psycopg.OperationalError("no address to connect to")

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        # psycopg's own waiting knows nothing of the deadline: so this waits by itself, and hands over what is ready.
        liveness = Liveness(None, DEFAULTS.dead_after, clock.now())
        gen: PQGenConn[Self] = super()._connect_gen(conninfo)
        made = run(bounded(gen, None, ambient.get(), liveness, interval=_INTERVAL))
        yield from ()
        return made

    @property
    def session(self) -> Session:
        """What we know of it."""
        if self._session is None:  # it is being made
            return Session(self.pgconn, DEFAULTS)
        return self._session

    def wait(self, gen: PQGen[T], interval: float = _INTERVAL, timeout: float | None = None) -> T:
        """See psycopg: every operation of the connection comes through here."""
        session = self.session
        with translated():
            if session.asks_policy(gen):
                return session.settings.guarding.once(self._wait, gen, interval, timeout)
            return self._wait(gen, interval, timeout)

    def _wait(self, gen: PQGen[T], interval: float, timeout: float | None) -> T:
        session, limit = self.session, ambient.get()
        session.refuse_late(limit)
        try:
            setting = session.setting(limit)
            if setting is not None:
                session.begins(harmless=True)
                run(session.watched(self._exec_command(setting.command), limit, interval))
                session.was_set(setting)
            session.begins()
            return run(session.watched(gen, limit, interval, timeout))
        except psycopg.errors.QueryCanceled as error:
            session.raise_if_deadline(error, limit)
            raise
        except BaseException as error:
            if session.leaves_doubt(error):
                self._discard()
            raise
        finally:
            session.ended()

    def _discard(self) -> None:
        """End a connection in doubt; what runs at the server is cancelled, if it would run on."""
        if self.session.runs_on and capabilities.has_cancel_safe():
            with suppress(Exception):
                self.cancel_safe(timeout=CANCEL_WITHIN)
        self.pgconn.finish()

    def commit(self) -> None:
        """See psycopg."""
        with self.session.winding_up():
            super().commit()

    def rollback(self) -> None:
        """See psycopg. When it does not come to its end, the connection is closed, and the server rolls back by itself."""
        with self.session.winding_up(), _time_to_roll_back():
            super().rollback()

    @contextmanager
    def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> Iterator[psycopg.Transaction]:
        """See psycopg."""
        session = self.session
        block = super().transaction(savepoint_name, force_rollback)
        transaction = block.__enter__()
        try:
            yield transaction
        except BaseException as error:
            with suppress(DeadlineExceeded), session.winding_up(), _time_to_roll_back():
                if block.__exit__(type(error), error, error.__traceback__):
                    return
            raise
        else:
            with session.winding_up(), _closed_unless_ended(self):
                block.__exit__(None, None, None)
        finally:
            session.timer.unsure()
            session.ended()


class AsyncConnection(psycopg.AsyncConnection[Row]):
    """psycopg's connection for asyncio, bounded. Make one with `aconnect`."""

    _session: Session | None = None

    @classmethod
    async def connect(  # type: ignore[override]  # the same and more, all by name
        cls,
        conninfo: str = "",
        *,
        policy: Policy | None = None,
        dead_after: Seconds = 5.0,
        statement_timeout: Seconds | None = None,
        server_timer: bool = True,
        **options: Any,
    ) -> Self:
        """Connect, as often as the policy's retry says. Arguments and errors are those of `Connection.connect`."""
        settings = Settings(policy, dead_after, statement_timeout, server_timer)

        with translated():
            return await settings.guarding.arepeatedly(cls._attempt, settings, conninfo, options)

    @classmethod
    async def _attempt(cls, settings: Settings, conninfo: str, options: dict[str, Any]) -> Self:
        connecting = Connecting(settings, conninfo, options)
        with connecting.within(connecting.limit), backend().cutoff(connecting.limit, clock.current.get()):
            answers = {name: await agetaddrinfo(*name, type=STREAM) for name in connecting.names}
        failure: psycopg.OperationalError | None = None
        for limit, keywords in connecting.attempts(answers):
            try:
                with connecting.within(limit), backend().cutoff(limit, clock.current.get()):
                    made = await super().connect(**keywords)
            except psycopg.OperationalError as error:
                failure = error
            else:
                made._session = Session(made.pgconn, settings)
                return made
        raise failure or psycopg.OperationalError("no address to connect to")

    @property
    def session(self) -> Session:
        """What we know of it."""
        if self._session is None:  # it is being made
            return Session(self.pgconn, DEFAULTS)
        return self._session

    async def wait(self, gen: PQGen[T], interval: float = _INTERVAL, timeout: float | None = None) -> T:
        """See psycopg: every operation of the connection comes through here."""
        session = self.session
        with translated():
            if session.asks_policy(gen):
                return await session.settings.guarding.aonce(self._wait, gen, interval, timeout)
            return await self._wait(gen, interval, timeout)

    async def _wait(self, gen: PQGen[T], interval: float, timeout: float | None) -> T:
        session, limit = self.session, ambient.get()
        session.refuse_late(limit)
        try:
            setting = session.setting(limit)
            if setting is not None:
                session.begins(harmless=True)
                await arun(session.watched(self._exec_command(setting.command), limit, interval))
                session.was_set(setting)
            session.begins()
            return await arun(session.watched(gen, limit, interval, timeout))
        except psycopg.errors.QueryCanceled as error:
            session.raise_if_deadline(error, limit)
            raise
        except BaseException as error:
            if session.leaves_doubt(error):
                await self._discard()
            raise
        finally:
            session.ended()

    async def _discard(self) -> None:
        """End a connection in doubt; what runs at the server is cancelled, if it would run on."""
        try:
            if self.session.runs_on and capabilities.has_cancel_safe():
                with suppress(Exception):
                    async with shield(CANCEL_WITHIN):
                        await self.cancel_safe(timeout=CANCEL_WITHIN)
        finally:
            self.pgconn.finish()

    async def commit(self) -> None:
        """See psycopg."""
        with self.session.winding_up():
            await super().commit()

    async def rollback(self) -> None:
        """See psycopg. When it does not come to its end, the connection is closed, and the server rolls back by itself."""
        with self.session.winding_up():
            async with _time_to_roll_back():
                await super().rollback()

    @asynccontextmanager
    async def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> AsyncIterator[psycopg.AsyncTransaction]:
        """See psycopg."""
        session = self.session
        block = super().transaction(savepoint_name, force_rollback)
        transaction = await block.__aenter__()
        try:
            yield transaction
        except BaseException as error:
            with suppress(DeadlineExceeded), session.winding_up():
                async with _time_to_roll_back():
                    if await block.__aexit__(type(error), error, error.__traceback__):
                        return
            raise
        else:
            with session.winding_up(), _closed_unless_ended(self):
                await block.__aexit__(None, None, None)
        finally:
            session.timer.unsure()
            session.ended()


def _time_to_roll_back() -> Shield | DeadlineBlock:
    """Room for a rollback, where the deadline leaves none."""
    return shield(ROLLBACK_WITHIN) if remaining() < ROLLBACK_WITHIN else deadline(math.inf)


@contextmanager
def _closed_unless_ended(connection: Connection[Any] | AsyncConnection[Any]) -> Iterator[None]:
    """A transaction whose commit was cut off before it began is still open, though its block is over."""
    try:
        yield
    except DeadlineExceeded:
        connection.pgconn.finish()
        raise
