"""asyncpg behind policies.

    connection = await holdfast.clients.postgres.asyncpg.connect("postgresql://...", policy=orders)
    pool = await holdfast.clients.postgres.asyncpg.create_pool("postgresql://...", policy=orders)

The connections are asyncpg's; what `psycopg` in this package says about deadlines, `statement_timeout`, silence and policies holds for them
too. Cut off, a connection is terminated, and no pool hands it out again. Errors: DeadlineExceeded is a TimeoutError, as asyncpg's own are.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

try:
    import asyncpg  # type: ignore[import-untyped]  # it has no types
except ImportError as error:
    raise ImportError("holdfast.clients.postgres.asyncpg needs asyncpg: pip install asyncpg") from error

from holdfast import errors
from holdfast.clients.operation import Guarding, is_untrusted
from holdfast.clients.postgres.asyncpg_loop import Connecting, forget
from holdfast.clients.postgres.codes import judge_code
from holdfast.clients.postgres.server_timer import ServerTimer, margin
from holdfast.deadlines import Deadline, ambient, restore
from holdfast.drivers import clock
from holdfast.drivers.backends import backend
from holdfast.outcome import FAILURE, IGNORED, Verdict
from holdfast.policy import Policy
from holdfast.scope import remaining, shield
from holdfast.validation import Seconds, positive_seconds

R = TypeVar("R")

# What waits for the server, of asyncpg's protocol.
_WAITING = frozenset(
    ("prepare", "query", "execute", "bind_execute", "bind_execute_many", "bind", "copy_in", "copy_out", "close_statement", "close_portal")
)
# Seconds for a rollback whose deadline has passed, as for psycopg.
_ROLLBACK_WITHIN = 0.05
# "Message Formats" of PostgreSQL's documentation: a server answers it before any login.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class ServerGone(asyncpg.PostgresConnectionError):  # type: ignore[misc]  # asyncpg has no types
    """The server has said nothing for `dead_after` seconds, on a new connection neither."""


async def connect(
    dsn: str | None = None,
    *,
    policy: Policy | None = None,
    dead_after: Seconds = 5.0,
    statement_timeout: Seconds | None = None,
    server_timer: bool = True,
    **options: Any,
) -> Connection:
    """Connect, as often as the policy's retry says.

    Args:
        dsn: a URL.
        policy: what guards connecting and every statement; None for deadlines only.
        dead_after: seconds, > 0, after which a vanished server is noticed; it bounds connecting too, unless there is a `timeout`.
        statement_timeout: seconds that a statement may take, beside the deadline; None for what the server has.
        server_timer: whether the server's `statement_timeout` follows the deadline; False behind PgBouncer's transaction pooling.
        options: of `asyncpg.connect`.

    Raises:
        DeadlineExceeded: the time ran out.
        OSError, asyncpg.PostgresError: no server could be reached, or it refused.
        BreakerOpen: the policy refused.
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """
    guarding = Guarding(policy, "postgres", judge)
    dead = positive_seconds("dead_after", dead_after)
    most = math.inf if statement_timeout is None else positive_seconds("statement_timeout", statement_timeout)

    async def attempt() -> Connection:
        given: dict[str, Any] = {"timeout": dead, **options, "dsn": dsn, "connection_class": Connection, "loop": Connecting(dead)}
        with backend().cutoff(ambient.get(), clock.current.get()):
            made: Connection = await asyncpg.connect(**given)
        made._begin(guarding, dead, most, server_timer)
        return made

    return await guarding.arepeatedly(attempt)


async def create_pool(
    dsn: str | None = None,
    *,
    policy: Policy | None = None,
    dead_after: Seconds = 5.0,
    statement_timeout: Seconds | None = None,
    server_timer: bool = True,
    **options: Any,
) -> asyncpg.Pool:
    """asyncpg's pool of these connections. `options` are those of `asyncpg.create_pool`; the rest is as for `connect`."""  # noqa: D403  (its name)

    async def make(*args: Any, **keywords: Any) -> Connection:
        given = {name: value for name, value in keywords.items() if name not in {"connection_class", "loop", "record_class"}}
        rules: dict[str, Any] = {"policy": policy, "dead_after": dead_after, "statement_timeout": statement_timeout}
        return await connect(*args, **{**rules, **given}, server_timer=server_timer)

    return await asyncpg.create_pool(dsn, connection_class=Connection, connect=make, **options)


def judge(error: Exception) -> tuple[Verdict, bool]:
    """How an error counts for the server, and whether doing the same again is worth it."""
    code = getattr(error, "sqlstate", None)
    if code:
        return judge_code(code)
    if isinstance(error, OSError):
        return FAILURE, not is_untrusted(error)
    return IGNORED, False


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """asyncpg's connection, bounded. Make one with `connect`."""

    __slots__ = ("_dead_after", "_follow", "_guarding", "_place", "_timer")

    def __init__(self, protocol: Any, *args: Any, **options: Any) -> None:
        super().__init__(protocol, *args, **options)
        self._begin(Guarding(None, "postgres", judge), 5.0, math.inf, True)
        self._protocol = _Protocol(protocol, self)  # type: ignore[misc]  # asyncpg's slot

    def _begin(self, guarding: Guarding, dead_after: float, most: float, follow: bool) -> None:
        self._guarding = guarding
        self._dead_after = dead_after
        self._follow = follow
        self._timer = ServerTimer(most)
        self._loop = asyncio.get_running_loop()  # type: ignore[misc]  # asyncpg's slot: not what stood in its place while it connected
        self._place = self._transport.get_extra_info("peername")

    @property
    def session(self) -> Connection:
        """Itself: engines ask it whether it `is_well`, as they ask psycopg's."""
        return self

    @property
    def is_well(self) -> bool:
        """Whether the connection has not ended, as far as is known here."""
        return not self.is_closed()

    async def _guarded(self, inner: Any, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        words = args[0].split(None, 2)[:2] if name == "query" and isinstance(args[0], str) else []
        verb = words[0].rstrip(";").upper() if words else ""

        def operation() -> Awaitable[Any]:
            return self._bounded(inner, verb, lambda: getattr(inner, name)(*args, **options))

        if verb == "ROLLBACK" and remaining() < _ROLLBACK_WITHIN:
            async with shield(_ROLLBACK_WITHIN):
                return await operation()
        if verb in {"ROLLBACK", "COMMIT", "RELEASE"} or name.startswith("close"):
            return await operation()
        return await self._guarding.aonce(operation)

    async def _bounded(self, inner: Any, verb: str, fn: Callable[[], Awaitable[R]]) -> R:
        limit = ambient.get()
        if limit is not None and clock.now() >= limit.at:
            raise limit.exceeded(clock.now(), started=False)
        try:
            with backend().cutoff(limit, clock.current.get()):
                if verb not in {"ROLLBACK", "COMMIT"}:
                    await self._tell_server(inner, limit)
                return await self._watched(fn())
        except asyncpg.QueryCanceledError as error:
            now = clock.now()
            if limit is None or now < limit.at - 3 * margin(limit.budget):
                raise
            raise limit.exceeded(max(now, limit.at)) from error
        except (errors.DeadlineExceeded, ServerGone, asyncio.CancelledError):
            self.terminate()  # what was on its way cannot be told from the next answer
            raise
        finally:
            if not self.is_closed() and not self.is_in_transaction():
                self._timer.ended()
            elif verb == "ROLLBACK":
                self._timer.unsure()

    async def _tell_server(self, inner: Any, limit: Deadline | None) -> None:
        if not self._follow:
            return
        left = min(math.inf if limit is None else limit.at - clock.now(), self._timer.most)
        seconds = self._timer.wanted(left)
        if seconds is not None:
            inside = self.is_in_transaction()
            with suppress(asyncpg.InFailedSQLTransactionError):
                await self._watched(inner.query(self._timer.command(seconds, inside), None))
                self._timer.done(seconds, inside)

    async def _watched(self, working: Awaitable[R]) -> R:
        """Wait for the server, and ask it on a second connection whether it is there while it says nothing."""
        task = asyncio.ensure_future(working)
        try:
            while not (await asyncio.wait({task}, timeout=self._dead_after / 2))[0]:
                await self._ask(self._dead_after / 2)
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                self.terminate()
                task.add_done_callback(forget)

    async def _ask(self, within: float) -> None:
        writer: asyncio.StreamWriter | None = None
        token = ambient.set(None)
        try:
            async with asyncio.timeout(within):
                where = self._place
                opening = asyncio.open_unix_connection(where) if isinstance(where, str) else asyncio.open_connection(*where[:2])
                reader, writer = await opening
                writer.write(_SSL_REQUEST)
                answered = await reader.read(1)
        except OSError as error:  # TimeoutError is one
            raise ServerGone("the server does not answer, on a new connection neither") from error
        finally:
            restore(token)
            if writer is not None:
                writer.transport.abort()
        if not answered:
            raise ServerGone("the server does not answer, on a new connection neither")


class _Protocol:
    """asyncpg's protocol, each of whose waits is bounded: statements, prepared ones, cursors and COPY all come through it."""

    __slots__ = ("_connection", "_inner")

    def __init__(self, inner: Any, connection: Connection) -> None:
        self._inner = inner
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in _WAITING:
            return found

        def bounded(*args: Any, **options: Any) -> Awaitable[Any]:
            return self._connection._guarded(self._inner, name, args, options)

        return bounded
