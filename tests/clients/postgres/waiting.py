"""A program for `test_postgres_kernel`: connections of one kind that wait in three ways, each in a thread, and say after how long they were
lost.

python waiting.py URL psycopg|psycopg-async|asyncpg|sqlalchemy|sqlalchemy-async DEAD_AFTER
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from sqlalchemy import text

import holdfast
from holdfast.clients import postgres
from holdfast.clients.postgres import asyncpg, sqlalchemy

logging.disable(logging.CRITICAL)
url, kind = sys.argv[1:3]
dead_after = float(sys.argv[3])

Ask = Callable[[str], Any]


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def blocking() -> Ask:
    if kind == "psycopg":
        return postgres.connect(url, autocommit=True, dead_after=dead_after).execute
    connection = sqlalchemy.create_engine(url, dead_after=dead_after).connect()
    return lambda sql: connection.execute(text(sql))


async def asynchronous() -> Ask:
    if kind == "psycopg-async":
        return (await postgres.aconnect(url, autocommit=True, dead_after=dead_after)).execute
    if kind == "asyncpg":
        return (await asyncpg.connect(url, dead_after=dead_after)).fetch
    engine = sqlalchemy.create_async_engine(url.replace("postgresql:", "postgresql+asyncpg:"), dead_after=dead_after)
    connection = await engine.connect()
    return lambda sql: connection.execute(text(sql))


def opened(runner: asyncio.Runner) -> Ask:
    if kind in {"psycopg", "sqlalchemy"}:
        return blocking()
    ask = runner.run(asynchronous())

    async def once(sql: str) -> Any:
        return await ask(sql)

    return lambda sql: runner.run(once(sql), context=copy_context())


ready, cut = threading.Barrier(4), threading.Event()


def wait(sql: str, limit: float, idle: float, name: str) -> None:
    with asyncio.Runner() as runner:
        ask = opened(runner)
        ask("select 1")
        ready.wait()
        cut.wait()
        time.sleep(idle)
        began = time.monotonic()
        error = "nothing"
        try:
            with holdfast.deadline(limit):
                ask(sql)
        except Exception as raised:
            error = type(raised).__name__
        say(f"{name} {time.monotonic() - began} {error}")


ways = [
    ("select pg_sleep(60)", math.inf, 0.0, "flight"),
    ("select 1", math.inf, dead_after + 1.0, "idle"),
    ("select 1", 1.0, 0.0, "deadline"),
]
for way in ways:
    threading.Thread(target=wait, args=way, daemon=True).start()
ready.wait()
say("ready")
sys.stdin.readline()
cut.set()
for thread in threading.enumerate():
    if thread is not threading.current_thread() and thread.daemon and thread.name.startswith("Thread-"):
        thread.join()
