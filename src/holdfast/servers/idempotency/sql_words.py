"""What a `SQLStore` says to its database, and what the answers mean. Pure: each exchange is a generator of statements.

One transaction holds the work's effects and the record of the answer. The primary key is the promise: of two transactions that did the
same work, the second cannot commit. The lock only tells a duplicate early that it would be that second one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from holdfast.servers.idempotency.finishing import ENDING
from holdfast.servers.idempotency.keys import digest
from holdfast.servers.idempotency.store import Held, Record, Running

R = TypeVar("R")

Values: TypeAlias = Mapping[str, object]
Rows: TypeAlias = Sequence[Sequence[object]]
Exchange: TypeAlias = Generator[tuple[str, Values], Rows, R]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,54}(\.[A-Za-z_][A-Za-z0-9_]{0,54})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Dialect:
    now: str  # the database's own clock: those of the workers' hosts differ
    blob: str
    exists: str
    skip_locked: str
    lock: str | None  # try to lock a number for this transaction
    wait: str | None  # the same, and wait for it
    notice: str = ""  # let the server see by itself that nobody waits for this transaction any more
    bound: str = ""  # and let it end what runs, and the transaction where nothing runs, after these times


# PostgreSQL looks for its client only when it has something to say, unless told otherwise (14 and newer, where its system can tell).
_NOTICE = """
SELECT CASE WHEN current_setting('client_connection_check_interval', true) = '0' AND position('linux' in version()) > 0
THEN set_config('client_connection_check_interval', '1000', true) END"""

# A `statement_timeout` that is shorter stays: the user's own, or one that follows the deadline.
_BOUND = """,
CASE WHEN CAST(current_setting('statement_timeout') AS interval) NOT BETWEEN interval '1 ms' AND CAST(CAST(:statement AS text) AS interval)
THEN set_config('statement_timeout', CAST(:statement AS text), true) END,
set_config('idle_in_transaction_session_timeout', CAST(:idle AS text), true)"""

_DIALECTS = {
    "postgresql": _Dialect(
        now="extract(epoch from clock_timestamp())",
        blob="bytea",
        exists="SELECT to_regclass(:name)",
        skip_locked=" FOR UPDATE SKIP LOCKED",
        lock="SELECT pg_try_advisory_xact_lock(:number)",
        wait="SELECT pg_advisory_xact_lock(:number)",
        notice=_NOTICE,
        bound=_NOTICE + _BOUND,
    ),
    # A database of SQLite has one writer at a time, so its own lock is the lock; whoever does not get it in time is told so.
    "sqlite": _Dialect(
        now="((julianday('now') - 2440587.5) * 86400.0)",
        blob="blob",
        exists="SELECT (SELECT name FROM sqlite_master WHERE type = 'table' AND name = :name)",
        skip_locked="",
        lock=None,
        wait=None,
    ),
}


class Words:
    """The statements for one table of one kind of database.

    Raises:
        ValueError: the name is none, or the kind is another.
    """

    def __init__(self, table: str, dialect: str) -> None:
        if not _NAME.fullmatch(table):
            raise ValueError(f"SQLStore.table must be a name, or schema.name, of letters, digits and underscores, got {table!r}")
        if dialect not in _DIALECTS:
            raise ValueError(f"SQLStore needs one of {', '.join(_DIALECTS)}, got {dialect!r}")
        self._table = table
        words = self._dialect = _DIALECTS[dialect]
        # The name was checked above, everything else is a parameter.
        self._find = f"SELECT fingerprint, answer FROM {table} WHERE key = :key"  # noqa: S608  (see above)
        self._forget = f"DELETE FROM {table} WHERE key = :key AND expires_at <= {words.now}"  # noqa: S608  (see above)
        fields = "key, fingerprint, answer, expires_at"
        self._insert = f"INSERT INTO {table} ({fields}) VALUES (:key, :fingerprint, :answer, {words.now} + :ttl)"  # noqa: S608  (see above)
        expired = f"SELECT key FROM {table} WHERE expires_at <= {words.now}"  # noqa: S608  (see above)
        self._find_expired = f"{expired} ORDER BY expires_at LIMIT :most{words.skip_locked}"

    @property
    def schema(self) -> tuple[str, str]:
        """What makes the table and its index where they are missing."""
        index = f"{self._table.rpartition('.')[2]}_expires_at"
        columns = (
            f"key text PRIMARY KEY, fingerprint text NOT NULL, answer {self._dialect.blob} NOT NULL, expires_at double precision NOT NULL"
        )
        return (
            f"CREATE TABLE IF NOT EXISTS {self._table} ({columns})",
            f"CREATE INDEX IF NOT EXISTS {index} ON {self._table} (expires_at)",
        )

    def create(self) -> Exchange[None]:
        """Make the table where it is missing; who may not make tables can use one that is there."""
        if (yield self._dialect.exists, {"name": self._table})[0][0] is not None:
            return
        if self._dialect.wait:
            yield self._dialect.wait, {"number": self._number("create")}
        for statement in self.schema:
            yield statement, {}

    def begin(self, left: float) -> Exchange[None]:
        """Have the server end a transaction whose worker was killed, stopped or cut off from it.

        Args:
            left: seconds until the request's deadline; math.inf without one.
        """
        words = self._dialect
        if left == math.inf:
            if words.notice:
                yield words.notice, {}
        elif words.bound:
            times = {"statement": left, "idle": left + ENDING}
            yield words.bound, {name: f"{max(1, math.ceil(1000 * seconds))}ms" for name, seconds in times.items()}

    def claim(self, key: str, fingerprint: str) -> Exchange[Held | None]:
        """Lock a key and look for its record; None: it is ours."""
        if self._dialect.lock:
            locked = yield self._dialect.lock, {"number": self._number(key)}
            if not locked[0][0]:
                return Running("", 0.0)
        # The first statement is one that writes: by it SQLite takes its lock.
        yield self._forget, {"key": key}
        found = yield self._find, {"key": key}
        if found:
            theirs, answer = found[0]
            return Record(str(theirs), bytes(answer)) if isinstance(answer, (bytes, memoryview)) else Record(fingerprint, b"")
        yield "SAVEPOINT holdfast_work", {}
        return None

    def keep(self, key: str, fingerprint: str, answer: bytes, ttl: float, effects: bool) -> Exchange[None]:
        """Write the record beside the effects, or in their place."""
        if not effects:
            yield "ROLLBACK TO SAVEPOINT holdfast_work", {}
        yield self._insert, {"key": key, "fingerprint": fingerprint, "answer": answer, "ttl": ttl}

    def purge(self, limit: int) -> Exchange[int]:
        """Delete records whose time is over, those first that are over longest."""
        found = yield self._find_expired, {"most": limit}
        for row in found:
            yield self._forget, {"key": str(row[0])}
        return len(found)

    def _number(self, key: str) -> int:
        # The database knows locks by 64 bits. Two keys that share them are told to wait for each other, no more.
        return int.from_bytes(bytes.fromhex(digest(self._table, key)[:16]), "big", signed=True)
