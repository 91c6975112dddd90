"""A store that was used before its process was forked, as gunicorn's preload_app does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
import sqlalchemy

from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from holdfast.servers import SQLStore


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


def in_child(work: Callable[[], int]) -> int:
    """A number below 256 from a fork."""
    child = os.fork()
    if child == 0:
        number = 255
        try:
            number = work()
        finally:
            os._exit(number)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def session_of(claim: Any, ask: str = "SELECT pg_backend_pid()") -> int:
    """The database's process that works for a claim."""
    pid: int = claim.connection.execute(sqlalchemy.text(ask)).scalar()
    claim.free()
    return pid


def test_a_fork_never_uses_its_parents_connections(server: PostgresServer) -> None:
    engine = sqlalchemy.create_engine(server.url.replace("://", "+psycopg://"), pool_size=1)
    store = SQLStore(engine)
    parents = session_of(store.claim("a" * 64, "f", lease=1, ttl=1))

    def work() -> int:
        return 1 if session_of(store.claim("b" * 64, "f", lease=1, ttl=1)) == parents else 0

    assert in_child(work) == 0
    assert session_of(store.claim("c" * 64, "f", lease=1, ttl=1)) == parents  # nor does it end them
    engine.dispose()


def test_a_pool_that_was_open_before_a_fork_is_refused_in_words(server: PostgresServer) -> None:
    with psycopg_pool.ConnectionPool(server.url, min_size=1, max_size=1, open=True) as pool:
        store = SQLStore(pool)

        def work() -> int:
            with pytest.raises(RuntimeError, match="open it in the worker"):
                store.claim("a" * 64, "f", lease=1, ttl=1)
            return 0

        assert in_child(work) == 0
        claim = store.claim("b" * 64, "f", lease=1, ttl=1)
        assert isinstance(claim.connection, psycopg.Connection)  # type: ignore[union-attr]
        claim.free()  # type: ignore[union-attr]


def test_a_pool_that_each_worker_opens_serves_it(server: PostgresServer) -> None:
    pool = psycopg_pool.ConnectionPool(server.url, min_size=1, max_size=1, open=False)
    store = SQLStore(pool)

    def work() -> int:
        with pool:
            store.claim("a" * 64, "f", lease=1, ttl=1).free()  # type: ignore[union-attr]
        return 0

    assert in_child(work) == 0
