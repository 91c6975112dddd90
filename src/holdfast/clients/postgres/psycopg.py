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
   the deadline, and never refused: a rollback has 50 ms, also when the deadline has passed.

Errors are psycopg's as well as ours: `except psycopg.OperationalError` catches DeadlineExceeded, and refusals too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self, TypeVar

import psycopg
from psycopg import capabilities
from psycopg.abc import PQGen, PQGenConn
from psycopg.rows import Row

from holdfast.clients.postgres.connecting import Connecting
from holdfast.clients.postgres.liveness import Liveness
from holdfast.clients.postgres.psycopg_async import AsyncConnection
from holdfast.clients.postgres.psycopg_errors import KINDS, BreakerOpen, BulkheadFull, DeadlineExceeded, RateLimited
from holdfast.clients.postgres.psycopg_session import CANCEL_WITHIN, DEFAULTS, INTERVAL, Session, Settings
from holdfast.clients.postgres.rollback import closed_unless_ended, time_to_roll_back
from holdfast.clients.postgres.waiting import ServerGone, bounded, run
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.net import STREAM, getaddrinfo
from holdfast.policy import Policy
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

        with KINDS.translated():
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
        made = run(bounded(gen, None, ambient.get(), liveness, interval=INTERVAL))
        yield from ()
        return made

    @property
    def session(self) -> Session:
        """What we know of it."""
        if self._session is None:  # it is being made
            return Session(self.pgconn, DEFAULTS)
        return self._session

    def wait(self, gen: PQGen[T], interval: float = INTERVAL, timeout: float | None = None) -> T:
        """See psycopg: every operation of the connection comes through here."""
        session = self.session
        with KINDS.translated():
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
        with self.session.winding_up(), time_to_roll_back():
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
            with suppress(DeadlineExceeded), session.winding_up(), time_to_roll_back():
                if block.__exit__(type(error), error, error.__traceback__):
                    return
            raise
        else:
            with session.winding_up(), closed_unless_ended(self):
                block.__exit__(None, None, None)
        finally:
            session.timer.unsure()
            session.ended()
