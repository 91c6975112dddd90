"""psycopg's connection for asyncio; what `psycopg` in this package says holds here too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeVar

import psycopg
from psycopg import capabilities
from psycopg.abc import PQGen
from psycopg.rows import Row

from holdfast.clients.postgres.connecting import Connecting
from holdfast.clients.postgres.psycopg_errors import KINDS, DeadlineExceeded
from holdfast.clients.postgres.psycopg_session import CANCEL_WITHIN, DEFAULTS, INTERVAL, Session, Settings
from holdfast.clients.postgres.rollback import closed_unless_ended, time_to_roll_back
from holdfast.clients.postgres.waiting import arun
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.drivers.backends import backend
from holdfast.net import STREAM, agetaddrinfo
from holdfast.policy import Policy
from holdfast.scope import shield
from holdfast.validation import Seconds

T = TypeVar("T")


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

        with KINDS.translated():
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

    async def wait(self, gen: PQGen[T], interval: float = INTERVAL, timeout: float | None = None) -> T:
        """See psycopg: every operation of the connection comes through here."""
        session = self.session
        with KINDS.translated():
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
            async with time_to_roll_back():
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
                async with time_to_roll_back():
                    if await block.__aexit__(type(error), error, error.__traceback__):
                        return
            raise
        else:
            with session.winding_up(), closed_unless_ended(self):
                await block.__aexit__(None, None, None)
        finally:
            session.timer.unsure()
            session.ended()
