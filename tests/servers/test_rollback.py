"""The transaction of a stopped request, counted in PostgreSQL: none is open, none is half done, however the request was stopped."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from serving import Served, eventually, serve

from holdfast.replay.parts.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.realtime

# An order is two rows: one without the other is half an order.
WSGI = """
import time
from holdfast.servers import Transactions
from holdfast.servers.idempotency import connection
from holdfast.servers.wsgi import Shield
{setup}

def run(statement):
    conn = connection(object)
    conn.execute(text(statement))

def app(environ, start_response):
    how, _, name = environ["PATH_INFO"][1:].partition("/")
    run(f"INSERT INTO orders VALUES ('{{name}}', 'head')")
    if how == "sleep":
        run("SELECT pg_sleep(30)")
    elif how == "lock":
        run("UPDATE counter SET n = n + 1")
        run("SELECT pg_sleep(0.05)")
    elif how == "spin":
        while True:
            pass
    elif how == "hang":
        time.sleep(30)
    elif how == "stuck":
        sum(range(10**10))  # one call, in which no signal is handled
    elif how == "raise":
        raise KeyError("half-way")
    elif how == "refuse":
        start_response("409 Conflict", [("Content-Type", "text/plain")])
        return [b"no"]
    run(f"INSERT INTO orders VALUES ('{{name}}', 'line')")
    start_response("201 Created", [("Content-Type", "text/plain")])
    return [b"done"]

app = Transactions(database).wsgi(app)
{shield}
"""

ASGI = """
import asyncio
from holdfast.servers import Transactions
from holdfast.servers.idempotency import connection
from holdfast.servers.asgi import Shield
{setup}

async def run(statement):
    await connection(object).execute(text(statement))

async def app(scope, receive, send):
    how, _, name = scope["path"][1:].partition("/")
    await run(f"INSERT INTO orders VALUES ('{{name}}', 'head')")
    status = 201
    if how == "sleep":
        await run("SELECT pg_sleep(30)")
    elif how == "lock":
        await run("UPDATE counter SET n = n + 1")
        await run("SELECT pg_sleep(0.05)")
    elif how == "hang":
        await asyncio.sleep(30)
    elif how == "raise":
        raise KeyError("half-way")
    elif how == "refuse":
        status = 409
    if status == 201:
        await run(f"INSERT INTO orders VALUES ('{{name}}', 'line')")
    await send({{"type": "http.response.start", "status": status, "headers": []}})
    await send({{"type": "http.response.body", "body": b"done"}})

app = Transactions(database).asgi(app)
{shield}
"""

SETUPS = {
    "sqlalchemy": """
from sqlalchemy import text
from holdfast.clients.postgres.sqlalchemy import create_engine
database = create_engine("{url}", pool_size=4, max_overflow=0)
""",
    "plain sqlalchemy": """
from sqlalchemy import create_engine, text
database = create_engine("{url}".replace("://", "+psycopg://"), pool_size=4, max_overflow=0)
""",
    "async sqlalchemy": """
from sqlalchemy import text
from holdfast.clients.postgres.sqlalchemy import create_async_engine
database = create_async_engine("{url}", pool_size=8, max_overflow=0)
""",
    "psycopg": """
text = str
database = "{url}"
""",
}


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def looking(database: PostgresServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS orders, counter")
        connection.execute("CREATE TABLE orders (name text, part text)")
        connection.execute("CREATE TABLE counter AS SELECT 0 AS n")
        yield connection


def count(looking: psycopg.Connection, statement: str) -> int:
    row = looking.execute(statement).fetchone()  # type: ignore[call-overload]  # literals of ours
    assert row is not None
    return int(row[0])


def orders(looking: psycopg.Connection) -> int:
    return count(looking, "SELECT count(*) FROM orders")


def half_orders(looking: psycopg.Connection) -> int:
    return count(looking, "SELECT count(*) FROM (SELECT name FROM orders GROUP BY name HAVING count(*) <> 2) AS half")


def open_transactions(looking: psycopg.Connection) -> int:
    mine = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
    return count(looking, f"SELECT count(*) FROM pg_stat_activity WHERE {mine} AND xact_start IS NOT NULL")


def none_open(looking: psycopg.Connection, within: float = 3.0) -> bool:
    give_up = time.monotonic() + within
    while open_transactions(looking):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


HURRY = {"X-Request-Timeout-Ms": "500"}


def shop(kind: str, library: str, database: PostgresServer, folder: Path, *options: str, deadline: float = 20.0) -> Served:
    source = ASGI if kind.startswith("uvicorn") else WSGI
    shield = f"app = Shield(app, deadline={deadline})"
    filled = source.format(setup=SETUPS[library].format(url=database.url), shield=shield)
    return serve(kind, folder, filled, *options)


def booted(server: Served, looking: psycopg.Connection) -> None:
    """Wait for the first worker: requests that wait for it for longer than their deadline are refused, as they should be."""
    assert eventually(lambda: server.get("/buy/first", method="POST").status == 201)
    looking.execute("TRUNCATE orders")


SHOPS = [
    ("sync", "sqlalchemy"),
    ("sync", "plain sqlalchemy"),
    ("sync", "psycopg"),
    ("gthread", "sqlalchemy"),
    ("gthread", "plain sqlalchemy"),
    ("uvicorn", "async sqlalchemy"),
    ("uvicorn", "psycopg"),
]


@pytest.mark.parametrize(("kind", "library"), SHOPS)
def test_a_request_that_is_stopped_by_its_deadline_leaves_nothing(
    database: PostgresServer, looking: psycopg.Connection, tmp_path: Path, kind: str, library: str
) -> None:
    """In the middle of a statement, between two, and in gunicorn's sync worker even in a busy loop; then the pool still serves."""
    ways = ["raise", "refuse", "sleep"]
    if kind != "gthread":  # blocking code in a thread is stopped where it waits for something that obeys the deadline
        ways.append("hang")
    if kind == "sync":
        ways.append("spin")
    server = shop(kind, library, database, tmp_path)
    with server.process:
        booted(server, looking)
        for way in ways:
            stopped = way not in {"raise", "refuse"}
            answer = server.get(f"/{way}/a", HURRY if stopped else {}, method="POST")
            assert answer.status == {"raise": 500, "refuse": 409}.get(way, 504), way
            assert answer.took < 3.0, way
            assert none_open(looking), way
            assert orders(looking) == 0, way
        for number in range(12):  # more than the pool has
            assert server.get(f"/buy/{number}", method="POST").status == 201
        assert (orders(looking), half_orders(looking)) == (24, 0)


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_a_plain_engine_does_not_wait_for_a_server_that_has_stopped(
    database: PostgresServer, looking: psycopg.Connection, tmp_path: Path, kind: str
) -> None:
    """Its driver knows no deadline, and a stopped server answers no request to cancel either."""
    server = shop(kind, "plain sqlalchemy", database, tmp_path)
    with server.process:
        booted(server, looking)
        database.suspend()
        try:
            answers = [server.get("/buy/a", HURRY, method="POST") for _ in range(2)]
        finally:
            database.resume()
        assert [answer.status for answer in answers] == [504, 504]
        assert max(answer.took for answer in answers) < 3.0
        assert none_open(looking, 3.0)
        assert half_orders(looking) == 0
        assert server.get("/buy/b", method="POST").status == 201


@pytest.mark.parametrize(
    ("kind", "library"),
    [("uvicorn", "async sqlalchemy"), ("sync", "sqlalchemy"), ("gthread", "plain sqlalchemy")],
)
def test_a_request_whose_client_leaves_leaves_nothing(
    database: PostgresServer, looking: psycopg.Connection, tmp_path: Path, kind: str, library: str
) -> None:
    server = shop(kind, library, database, tmp_path)
    with server.process:
        booted(server, looking)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST /sleep/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            give_up = time.monotonic() + 5
            while not open_transactions(looking) and time.monotonic() < give_up:
                time.sleep(0.01)
            assert open_transactions(looking) == 1
        assert none_open(looking, 3.0)
        assert orders(looking) == 0
        assert server.get("/buy/b", method="POST").status == 201


@pytest.mark.parametrize(
    ("how", "library"), [("hang", "psycopg"), ("stuck", "sqlalchemy"), ("sleep", "sqlalchemy"), ("sleep", "plain sqlalchemy")]
)
def test_a_worker_that_its_master_kills_leaves_nothing(
    database: PostgresServer, looking: psycopg.Connection, tmp_path: Path, how: str, library: str
) -> None:
    """gunicorn's timeout: SIGABRT, and SIGKILL for one that is stuck. A statement that runs is ended by the server, at what was left."""
    server = shop("sync", library, database, tmp_path, "--timeout", "2", deadline=4.0)
    with server.process:
        booted(server, looking)
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert server.get(f"/{how}/a", method="POST").status >= 500
        assert none_open(looking, 5.0)
        assert orders(looking) == 0
        assert server.get("/buy/b", method="POST").status == 201
        assert (orders(looking), half_orders(looking)) == (2, 0)
        assert ("SIGKILL" in server.process.log.read_text()) == (how == "stuck")


@pytest.mark.parametrize(("kind", "library"), [("sync", "sqlalchemy"), ("uvicorn", "async sqlalchemy")])
def test_after_a_storm_no_transaction_is_open_and_no_order_half(
    database: PostgresServer, looking: psycopg.Connection, tmp_path: Path, kind: str, library: str
) -> None:
    """Clients that give up, requests that take too long, locks that are waited for, and workers that are killed, all at once."""
    ended = threading.Event()
    options = () if kind == "uvicorn" else ("--workers", "3")
    server = shop(kind, library, database, tmp_path, *options, deadline=0.4)
    with server.process:
        booted(server, looking)

        def clients(seed: int) -> None:
            dice = random.Random(seed)
            number = 0
            while not ended.is_set():
                number += 1
                way = dice.choice(["buy", "buy", "buy", "lock", "lock", "sleep", "hang", "raise", "refuse"])
                try:
                    server.get(f"/{way}/{seed}-{number}", method="POST", timeout=dice.choice([0.05, 0.2, 2.0]))
                except (OSError, http.client.HTTPException):
                    pass

        threads = [threading.Thread(target=clients, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 4.0
        while time.monotonic() < until:
            time.sleep(0.3)
            workers = psutil.Process(server.process.pid).children()
            if workers and kind != "uvicorn":
                os.kill(random.choice(workers).pid, signal.SIGKILL)
        ended.set()
        for thread in threads:
            thread.join(20)
        assert none_open(looking, 5.0)
        assert orders(looking) > 0
        assert half_orders(looking) == 0
