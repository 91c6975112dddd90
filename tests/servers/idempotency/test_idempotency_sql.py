"""The store that commits effect and answer together, on PostgreSQL through every library, and on SQLite."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from idempotency_apps import Response, ask_asgi, ask_wsgi
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.orm import Session

from holdfast import deadline
from holdfast.errors import DeadlineExceeded, StoreUnavailable
from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from holdfast.servers import Idempotency, SQLStore
from holdfast.servers.idempotency import connection
from holdfast.servers.idempotency.store import Record, Running

ORDERS = "CREATE TABLE IF NOT EXISTS orders (what text NOT NULL)"
OPEN = "xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
INSERT = "INSERT INTO orders (what) VALUES ('tea')"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


class Shop:
    """An application that writes an order through the request's connection, and its database, looked at from outside."""

    def __init__(self, kind: str, library: str, store: SQLStore, rows: Callable[[str], list[Any]]) -> None:
        self.kind = kind
        self.library = library
        self.store = store
        self.rows = rows
        self.part = Idempotency(store)
        self.reply: Callable[[], Any] = lambda: 201
        self.ran = 0

    def insert(self, on: Any = None) -> Any:
        """Write an order; for async libraries to be awaited."""
        if self.library == "psycopg":
            return connection(psycopg.AsyncConnection if self.kind == "asgi" else psycopg.Connection).execute(INSERT)
        if self.kind == "asgi" and self.library == "asyncpg":
            return connection(AsyncConnection).execute(sqlalchemy.text(INSERT))
        return connection(sqlalchemy.Connection).execute(sqlalchemy.text(INSERT))

    def wsgi(self, environ: Any, start_response: Any) -> Any:
        self.ran += 1
        self.insert()
        status = self.reply()
        start_response(f"{status} Said", [("Content-Type", "text/plain")])
        return [b"done"]

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        self.ran += 1
        inserting = self.insert()
        if hasattr(inserting, "__await__"):
            await inserting
        status = self.reply()
        if hasattr(status, "__await__"):
            status = await status
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    def ask(self, key: str | None = "k", body: bytes = b"") -> Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        if self.kind == "wsgi":
            return ask_wsgi(self.part.wsgi(self.wsgi), "POST", "/", headers, body)
        return asyncio.run(self._ask_asgi(headers, body))

    async def _ask_asgi(self, headers: dict[str, str], body: bytes) -> Response:
        return await ask_asgi(self.part.asgi(self.asgi), "POST", "/", headers, body)

    def held_while_claimed(self, key: str, ttl: float) -> Any:
        """What a second claim of a key gets while the first holds it, which then keeps an answer; or what the first gets."""
        if self.store.only_async:
            return asyncio.run(self._aheld_while_claimed(key, ttl))
        claim = self.store.claim(key, "f", lease=1, ttl=ttl)
        if not hasattr(claim, "keep"):
            return claim
        held = self.store.claim(key, "f", lease=1, ttl=ttl)
        assert claim.keep(b"answer")
        return held

    async def _aheld_while_claimed(self, key: str, ttl: float) -> Any:
        claim = await self.store.aclaim(key, "f", lease=1, ttl=ttl)
        if not hasattr(claim, "akeep"):
            return claim
        held = await self.store.aclaim(key, "f", lease=1, ttl=ttl)
        assert await claim.akeep(b"answer")
        return held

    def purge(self, limit: int) -> int:
        return asyncio.run(self.store.apurge(limit)) if self.store.only_async else self.store.purge(limit)

    @property
    def orders(self) -> int:
        return int(self.rows("SELECT count(*) FROM orders")[0][0])

    @property
    def records(self) -> int:
        return int(self.rows("SELECT count(*) FROM holdfast_idempotency")[0][0])


def _postgres_rows(server: PostgresServer) -> Callable[[str], list[Any]]:
    def rows(statement: str) -> list[Any]:
        with psycopg.connect(server.url, autocommit=True) as looking:
            cursor = looking.execute(statement)  # type: ignore[arg-type]  # literals of ours
            return cursor.fetchall() if cursor.description else []

    return rows


WAYS = ["wsgi-sqlalchemy", "wsgi-psycopg", "asgi-asyncpg", "asgi-psycopg", "asgi-sqlalchemy", "wsgi-sqlite", "asgi-sqlite"]


@pytest.fixture(params=WAYS)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    kind, _, library = str(request.param).partition("-")
    if library == "sqlite":
        engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/shop.db", connect_args={"timeout": 0.2})
        with engine.begin() as setting_up:
            setting_up.execute(sqlalchemy.text(ORDERS))

        def rows(statement: str) -> list[Any]:
            with engine.connect() as looking:
                return [tuple(row) for row in looking.execute(sqlalchemy.text(statement))]

        yield Shop(kind, "sqlalchemy", SQLStore(engine), rows)
        engine.dispose()
        return
    server: PostgresServer = request.getfixturevalue("server")
    rows = _postgres_rows(server)
    rows("DROP TABLE IF EXISTS orders, holdfast_idempotency")
    rows(ORDERS)
    if library == "psycopg":
        yield Shop(kind, library, SQLStore(server.url), rows)
    elif library == "asyncpg":
        from sqlalchemy.pool import NullPool

        # Each request of these tests has an event loop of its own, which a connection does not outlive.
        engine_async = create_async_engine(server.url.replace("://", "+asyncpg://"), poolclass=NullPool)
        yield Shop(kind, library, SQLStore(engine_async), rows)
    else:
        engine = sqlalchemy.create_engine(server.url.replace("://", "+psycopg://"))
        yield Shop(kind, library, SQLStore(engine), rows)
        engine.dispose()
    assert rows(f"SELECT count(*) FROM pg_stat_activity WHERE {OPEN}") == [(0,)]


def test_effect_and_answer_are_committed_together_and_once(shop: Shop) -> None:
    first, second = shop.ask(), shop.ask()
    assert (first.status, second.status) == (201, 201)
    assert second.header("idempotent-replayed") == "true"
    assert (shop.ran, shop.orders, shop.records) == (1, 1, 1)


def test_a_request_without_a_key_has_a_transaction_too(shop: Shop) -> None:
    assert shop.ask(None).status == 201
    assert (shop.orders, shop.records) == (1, 0)
    shop.reply = lambda: 404
    assert shop.ask(None).status == 404
    assert shop.orders == 1


def test_an_exception_leaves_neither_and_the_request_may_be_run_again(shop: Shop) -> None:
    def fail() -> int:
        raise KeyError("half-way")

    shop.reply = fail
    with pytest.raises(KeyError):
        shop.ask()
    assert shop.orders == 0
    shop.reply = lambda: 201
    assert shop.ask().status == 201
    assert (shop.ran, shop.orders, shop.records) == (2, 1, 1)


def test_a_server_error_leaves_neither(shop: Shop) -> None:
    """Frameworks turn exceptions into answers; what was done before must not be committed for that."""
    shop.reply = lambda: 500
    assert [shop.ask().status, shop.ask().status] == [500, 500]
    assert (shop.ran, shop.orders, shop.records) == (2, 0, 0)


def test_a_client_error_is_kept_and_its_effects_are_not(shop: Shop) -> None:
    shop.reply = lambda: 422
    assert [shop.ask().status, shop.ask().status] == [422, 422]
    assert (shop.ran, shop.orders, shop.records) == (1, 0, 1)


def test_which_effects_are_committed_is_the_users_to_say(shop: Shop) -> None:
    shop.part = Idempotency(shop.store, commits=lambda status: status < 500)
    shop.reply = lambda: 402
    assert [shop.ask().status, shop.ask().status] == [402, 402]
    assert (shop.ran, shop.orders, shop.records) == (1, 1, 1)


def test_the_handler_cannot_part_the_effects_from_their_record(shop: Shop) -> None:
    """A commit of its own would; it is refused, and everything rolled back."""

    def commit() -> Any:
        return connection(object).commit() or 201  # type: ignore[attr-defined]  # of whichever library

    shop.reply = commit
    with pytest.raises((RuntimeError, psycopg.ProgrammingError)):
        shop.ask()
    assert shop.orders == 0


def test_another_request_under_the_same_key_is_refused(shop: Shop) -> None:
    shop.ask(body=b"a")
    assert shop.ask(body=b"b").status == 422
    assert shop.orders == 1


def test_connections_go_back_where_they_came_from(shop: Shop) -> None:
    """More requests than any pool has places, of every kind."""
    statuses = [201, 404, 500]
    for number in range(24):
        shop.reply = lambda number=number: statuses[number % 3]  # type: ignore[misc]
        shop.ask(f"k{number}")
        shop.ask(f"k{number}")
    assert shop.orders == 8


def test_a_claim_says_who_has_the_key(shop: Shop) -> None:
    assert shop.held_while_claimed("a" * 64, ttl=100) == Running("", 0.0)
    assert shop.held_while_claimed("a" * 64, ttl=100) == Record("f", b"answer")


def test_answers_are_forgotten_after_their_time_and_cleaned_up(shop: Shop) -> None:
    for number in range(3):
        shop.held_while_claimed(f"{number:064}", ttl=0.01)
    shop.held_while_claimed(f"{9:064}", ttl=100)
    threading.Event().wait(0.05)
    assert isinstance(shop.held_while_claimed(f"{0:064}", ttl=0.01), Running), "its key was free again"
    threading.Event().wait(0.05)
    assert [shop.purge(2), shop.purge(2)] == [2, 1]
    assert shop.records == 1


def test_two_that_did_the_same_work_cannot_both_commit(server: PostgresServer) -> None:
    """The primary key is the promise, and holds where the lock that spares the work does not: in two stores, or behind another's lock."""
    rows = _postgres_rows(server)
    rows("DROP TABLE IF EXISTS orders, holdfast_idempotency, other")
    rows(ORDERS)
    store = SQLStore(server.url)
    one = store.claim("b" * 64, "f", lease=1, ttl=100)
    with psycopg.connect(server.url) as other:
        other.execute("INSERT INTO holdfast_idempotency VALUES (%s, 'f', 'theirs', extract(epoch from now()) + 100)", ("b" * 64,))
    one.connection.execute(INSERT)  # type: ignore[union-attr]
    assert one.keep(b"mine") is False  # type: ignore[union-attr]
    assert rows("SELECT count(*) FROM orders") == [(0,)]
    assert store.claim("b" * 64, "f", lease=1, ttl=100) == Record("f", b"theirs")


def test_a_session_of_the_orm_works_inside(server: PostgresServer) -> None:
    """Its commit is a savepoint's."""
    rows = _postgres_rows(server)
    rows("DROP TABLE IF EXISTS orders, holdfast_idempotency")
    rows(ORDERS)
    engine = sqlalchemy.create_engine(server.url.replace("://", "+psycopg://"))

    def app(environ: Any, start_response: Any) -> Any:
        with Session(bind=connection(sqlalchemy.Connection), join_transaction_mode="create_savepoint") as session:
            session.execute(sqlalchemy.text(INSERT))
            session.commit()
        if environ["PATH_INFO"] == "/late":
            raise KeyError("after the session's commit")
        start_response("201 Made", [("Content-Type", "text/plain")])
        return [b"x"]

    part = Idempotency(SQLStore(engine)).wsgi(app)
    with pytest.raises(KeyError):
        ask_wsgi(part, "POST", "/late", {"Idempotency-Key": "a"}, b"")
    assert rows("SELECT count(*) FROM orders") == [(0,)]
    assert ask_wsgi(part, "POST", "/", {"Idempotency-Key": "b"}, b"").status == 201
    assert rows("SELECT count(*) FROM orders") == [(1,)]
    engine.dispose()


def test_a_database_that_is_not_there_is_503_and_nothing_runs() -> None:
    part = Idempotency(SQLStore("postgresql://postgres:secret@127.0.0.1:1/postgres")).wsgi(lambda environ, start: pytest.fail("it ran"))
    response = ask_wsgi(part, "POST", "/", {"Idempotency-Key": "k"}, b"")
    assert (response.status, response.code, response.header("retry-after")) == (503, "idempotency-store-unavailable", "1")
    with pytest.raises(StoreUnavailable) as unavailable:
        SQLStore("postgresql://postgres:secret@127.0.0.1:1/postgres").claim("k", "f", lease=1, ttl=1)
    assert "secret" not in str(unavailable.value)


def test_the_connection_is_there_for_requests_alone() -> None:
    with pytest.raises(LookupError, match="no transaction here"):
        connection(psycopg.Connection)


def test_work_that_ends_after_its_deadline_is_rolled_back(shop: Shop) -> None:
    """Its caller is told that it was too late, so nothing may have happened."""
    shop.ask("first")
    shop.reply = lambda: time.sleep(0.65) or 201
    with pytest.raises(DeadlineExceeded), deadline(0.6):
        shop.ask()
    assert (shop.ran, shop.orders, shop.records) == (2, 1, 1)


def test_what_a_request_leaves_running_does_not_find_its_connection(shop: Shop) -> None:
    """It may be another request's by then."""
    left: list[contextvars.Context] = []

    def reply() -> int:
        left.append(contextvars.copy_context())
        return 201

    shop.reply = reply
    shop.ask()
    with pytest.raises(LookupError):
        left[0].run(connection, object)


def test_an_engine_that_commits_each_statement_is_refused() -> None:
    """Nothing could be rolled back in it."""
    for engine in (
        sqlalchemy.create_engine("sqlite://", isolation_level="AUTOCOMMIT"),
        sqlalchemy.create_engine("sqlite://").execution_options(isolation_level="AUTOCOMMIT"),
    ):
        with pytest.raises(ValueError, match=r"SQLStore\.database must not be in AUTOCOMMIT"):
            SQLStore(engine)


def test_what_is_no_database_is_refused() -> None:
    for wrong in (None, 7, "postgresql+psycopg://u@h/d"):
        with pytest.raises(TypeError, match=r"SQLStore\.database"):
            SQLStore(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"SQLStore\.table must be a name"):
        SQLStore("postgresql://h/d", table="x; drop table y")
    with pytest.raises(TypeError, match="is for async code here"):
        Idempotency(SQLStore(create_async_engine("postgresql+asyncpg://h/d"))).wsgi(lambda environ, start: [])
