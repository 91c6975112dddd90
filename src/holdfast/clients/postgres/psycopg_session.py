"""What a psycopg connection of ours knows beside psycopg's own: its policy, its server's timer, and where its server is."""

from __future__ import annotations

import math
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.pq.abc import PGconn

from holdfast import errors
from holdfast.clients.operation import Guarding
from holdfast.clients.postgres.addresses import place_of
from holdfast.clients.postgres.liveness import Liveness, Place
from holdfast.clients.postgres.psycopg_errors import KINDS, judge
from holdfast.clients.postgres.server_timer import ServerTimer, margin
from holdfast.clients.postgres.waiting import Bounded, ServerGone, bounded
from holdfast.deadlines import Deadline
from holdfast.drivers import clock
from holdfast.policy import Policy
from holdfast.validation import Seconds, positive_seconds

T = TypeVar("T")


class Setting(NamedTuple):
    """A `statement_timeout` to be set: the SQL, its seconds, and whether it is for this transaction."""

    command: bytes
    seconds: float
    in_transaction: bool


# psycopg's own: how often, in seconds, an operation that waits for nothing in particular looks around.
INTERVAL = 0.1

# Seconds for asking the server to stop a statement that was left.
CANCEL_WITHIN = 0.05

# In these there is something to set: no statement runs, and the transaction is not lost.
_CALM = (TransactionStatus.IDLE, TransactionStatus.INTRANS)


class Settings:
    """How connections are made and watched.

    Args:
        policy: what guards them; None for deadlines only.
        dead_after: seconds after which a vanished server is noticed.
        statement_timeout: seconds that a statement may take, beside the deadline; None for the server's own.
        server_timer: whether the server's `statement_timeout` follows the deadline. False behind a pooler that hands one server connection
            to several clients between transactions, where a session's settings would be another's.

    Raises:
        ValueError, TypeError: one of them is out of its range, or not of its kind.
    """

    __slots__ = ("dead_after", "follow", "guarding", "most")

    def __init__(self, policy: Policy | None, dead_after: Seconds, statement_timeout: Seconds | None, server_timer: bool) -> None:
        self.guarding = Guarding(policy, "postgres", judge)
        self.dead_after = positive_seconds("dead_after", dead_after)
        self.most = math.inf if statement_timeout is None else positive_seconds("statement_timeout", statement_timeout)
        self.follow = server_timer


DEFAULTS = Settings(None, 5.0, None, True)


class Session:
    """One connection."""

    __slots__ = ("_ends", "_pgconn", "_place", "refuses", "settings", "timer")

    def __init__(self, pgconn: PGconn, settings: Settings) -> None:
        self._pgconn = pgconn
        self._place: Place | None = None
        self._ends = 0.0  # when the server ends the running statement by itself
        self.settings = settings
        self.timer = ServerTimer(settings.most)
        self.refuses = True  # False while a transaction is wound up

    @property
    def status(self) -> TransactionStatus:
        """Of psycopg: idle, active, in a transaction, in a failed one."""
        return TransactionStatus(self._pgconn.transaction_status)

    @property
    def is_well(self) -> bool:
        """Whether the connection has not ended, as far as is known here: what the server has said goodbye to is seen, what it has
        silently forgotten is not. It costs no round trip.
        """
        try:
            while self._pgconn.status == ConnStatus.OK and self.status != TransactionStatus.ACTIVE and _readable(self._pgconn.socket):
                self._pgconn.consume_input()
        except psycopg.OperationalError:
            return False
        return self._pgconn.status == ConnStatus.OK

    def asks_policy(self, gen: PQGen[Any]) -> bool:
        """Whether this operation is one for the policy: not the end of a transaction, the rest of a stream, or listening for
        notifications, which has no end.
        """
        return self.refuses and self.status != TransactionStatus.ACTIVE and getattr(gen, "__name__", "") != "notifies"

    def refuse_late(self, limit: Deadline | None) -> None:
        """Raise DeadlineExceeded where it has passed before anything was sent: that harms no connection."""
        now = clock.now()
        if limit is not None and now >= limit.at:
            raise limit.exceeded(now, started=False)

    def setting(self, limit: Deadline | None) -> Setting | None:
        """What to tell the server before a statement; None where there is nothing to tell."""
        status = self.status
        if not self.settings.follow or status not in _CALM or not self.refuses:
            return None
        left = min(math.inf if limit is None else limit.at - clock.now(), self.settings.most)
        in_transaction = status == TransactionStatus.INTRANS
        seconds = self.timer.wanted(left)
        return None if seconds is None else Setting(self.timer.command(seconds, in_transaction).encode(), seconds, in_transaction)

    def was_set(self, setting: Setting) -> None:
        """The server has done it."""
        self.timer.done(setting.seconds, setting.in_transaction)

    def watched(self, gen: PQGen[T], limit: Deadline | None, interval: float, timeout: float | None = None) -> Bounded[T]:
        """The operation, bounded by the deadline and by the server's silence."""
        now = clock.now()
        if self._place is None:
            self._place = place_of(self._pgconn.socket)
        liveness = Liveness(self._place, self.settings.dead_after, now)
        until = math.inf if timeout is None else now + timeout
        return bounded(gen, self._pgconn.socket, limit, liveness, interval=interval, until=until)

    def raise_if_deadline(self, error: psycopg.errors.QueryCanceled, limit: Deadline | None) -> None:
        """Raise DeadlineExceeded where that is why the server cancelled the statement; the connection is well, then."""
        now = clock.now()
        if limit is None or now < limit.at - 3 * margin(limit.budget):
            return
        raised = KINDS.exceeded(limit.exceeded(max(now, limit.at)))
        raised.add_note(f"the server ended the statement: {error}".rstrip())
        raise raised from error

    def leaves_doubt(self, error: BaseException) -> bool:
        """Whether the connection cannot be used after this error: cut off, interrupted, or with nobody at the other end."""
        return not isinstance(error, Exception) or isinstance(error, (errors.DeadlineExceeded, ServerGone))

    @contextmanager
    def winding_up(self) -> Iterator[None]:
        """The end of a transaction: it is not refused, and not worth a setting at the server."""
        before, self.refuses = self.refuses, False
        try:
            yield
        finally:
            self.refuses = before

    def begins(self, *, harmless: bool = False) -> None:
        """A statement is sent now. One that is `harmless` needs no cancelling."""
        self._ends = clock.now() + (0.0 if harmless else self.timer.current)

    @property
    def runs_on(self) -> bool:
        """Whether a statement that is left now would run on at the server for longer than it takes to cancel it."""
        return self.status == TransactionStatus.ACTIVE and self._ends > clock.now() + CANCEL_WITHIN

    def ended(self) -> None:
        """An operation has ended, and maybe its transaction."""
        if self.status == TransactionStatus.IDLE:
            self.timer.ended()


def _readable(fileno: int) -> bool:
    poller = select.poll()
    poller.register(fileno, select.POLLIN)
    return bool(poller.poll(0))
