"""64 duplicates of a request at once, through several workers, of which one is killed in every round: how often does it happen?

`HOLDFAST_ROUNDS=1000` runs it at full size.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from holdfast.replay.parts.gunicorn import Gunicorn
from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.redis import redis_server

ROUNDS = int(os.environ.get("HOLDFAST_ROUNDS", "8"))
DUPLICATES = 64
GIVE_UP = 20.0

pytestmark = [pytest.mark.realtime, pytest.mark.timeout(150 + 3 * ROUNDS)]

Answer = tuple[int, bytes]


async def post(port: int, key: str, method: str = "POST") -> Answer:
    """One request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{method} /orders HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\nContent-Length: {len(key)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + key.encode())
        answer = await reader.read()
    finally:
        writer.close()
    head_part, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head_part, re.IGNORECASE)
    if length is None or len(body) < int(length[1]):
        raise ConnectionError("killed in the middle of its answer")
    return int(head_part.split(b" ", 2)[1]), body


async def until_answered(port: int, key: str) -> Answer:
    """As a good client does: again after a lost connection, after 409 with Retry-After (here sooner), and after 503."""
    async with asyncio.timeout(GIVE_UP):
        while True:
            with contextlib.suppress(OSError):
                status, body = await post(port, key)
                if status == 201 or (status == 409 and b"outcome-unknown" in body):
                    return status, body
                assert status in {409, 503}, (status, body)
            await asyncio.sleep(random.uniform(0.01, 0.06))


async def kill_one(master: int) -> None:
    """SIGKILL for a worker, some time in the middle."""
    await asyncio.sleep(random.uniform(0.0, 0.05))
    with contextlib.suppress(psutil.NoSuchProcess):
        workers = psutil.Process(master).children()
        if workers:
            os.kill(random.choice(workers).pid, signal.SIGKILL)


async def round_of(server: Gunicorn, key: str, kill: bool) -> set[Answer]:
    """What all the duplicates were answered."""
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(until_answered(server.port, key)) for _ in range(DUPLICATES)]
        if kill:
            tasks.create_task(kill_one(server.process.pid))
    return {task.result() for task in asked}


@contextlib.contextmanager
def serving(store: str, folder: Path, workers: int, **environment: str) -> Iterator[Gunicorn]:
    config = "worker_class = 'gthread'\nthreads = 16\npreload_app = True\nbacklog = 512\ngraceful_timeout = 1\n"
    environment = {f"STORM_{name.upper()}": value for name, value in environment.items()}
    environment |= {"STORM_STORE": store, "PYTHONPATH": str(Path(__file__).parent)}
    server = Gunicorn("storm_app:app", workers=workers, folder=folder, config=config, environment=environment)
    with server.process:
        yield server


def storm(server: Gunicorn, times: Callable[[str], int], kill: bool) -> list[tuple[set[Answer], int]]:
    """Per round: the distinct answers, and how often the effect happened."""
    random.seed(5)
    return [(asyncio.run(round_of(server, f"order-{number}", kill)), times(f"order-{number}")) for number in range(ROUNDS)]


def test_sql_the_effect_happens_exactly_once_though_workers_are_killed(tmp_path: Path) -> None:
    with postgres_server() as database, psycopg.connect(database.url, autocommit=True) as looking:
        looking.execute("CREATE TABLE orders (what text NOT NULL)")
        looking.execute("CREATE INDEX ON orders (what)")

        def times(order: str) -> int:
            found = looking.execute("SELECT count(*) FROM orders WHERE what = %s", (order,)).fetchone()
            assert found is not None
            return int(found[0])

        url = database.url.replace("://", "+psycopg://")
        with serving("sql", tmp_path, 4, database=url) as server:
            rounds = storm(server, times, kill=True)
        assert [happened for _, happened in rounds] == [1] * ROUNDS
        # Everybody got the answer of the one that did it.
        assert [answers for answers, _ in rounds if len(answers) != 1] == []
        total = looking.execute("SELECT count(*), count(DISTINCT what) FROM orders").fetchone()
        assert total == (ROUNDS, ROUNDS)
        # A killed worker's connection is closed by its kernel, and the server rolls back as soon as it looks.
        for _ in range(100):
            state = "xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            opened = looking.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {state}").fetchone()
            if opened == (0,):
                break
            asyncio.run(asyncio.sleep(0.05))
        assert opened == (0,)


def test_sqlite_the_effect_happens_exactly_once_though_workers_are_killed(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as looking:
        looking.execute("CREATE TABLE orders (what text NOT NULL)")

        def times(order: str) -> int:
            return int(looking.execute("SELECT count(*) FROM orders WHERE what = ?", (order,)).fetchone()[0])

        with serving("sql", tmp_path, 4, database=f"sqlite:///{tmp_path}/shop.db") as server:
            rounds = storm(server, times, kill=True)
        assert [happened for _, happened in rounds] == [1] * ROUNDS
        assert [answers for answers, _ in rounds if len(answers) != 1] == []


@pytest.mark.parametrize("store", ["redis-refuse", "redis-repeat"])
def test_redis_keeps_the_promise_that_was_chosen_though_workers_are_killed(tmp_path: Path, store: str) -> None:
    """Refuse: at most once, and whoever is answered 201 can rely on it. Repeat: everybody is answered, so at least once."""
    with redis_server() as server, redis.Redis.from_url(server.url) as looking:
        with serving(store, tmp_path, 4, redis=server.url) as web:
            rounds = storm(web, lambda order: int(looking.get(f"effect:{order}") or 0), kill=True)  # type: ignore[arg-type]
    twice = sum(happened > 1 for _, happened in rounds)
    unknown = sum(any(status == 409 for status, _ in answers) for answers, _ in rounds)
    print(f"{store}: {ROUNDS} rounds, {twice} happened more than once, {unknown} ended unknown")  # noqa: T201  (to be read with -s at full size)
    if store == "redis-refuse":
        assert twice == 0
        assert all(happened == 1 for answers, happened in rounds if any(status == 201 for status, _ in answers))
    else:
        assert unknown == 0
        assert all(happened >= 1 for _, happened in rounds)


def test_memory_the_effect_happens_exactly_once_in_one_worker_of_many_threads(tmp_path: Path) -> None:
    with serving("memory", tmp_path, 1) as server:
        rounds = storm(server, lambda order: int(asyncio.run(post(server.port, order, "PUT"))[1]), kill=False)
    assert [happened for _, happened in rounds] == [1] * ROUNDS
    assert all(len(answers) == 1 for answers, _ in rounds)
