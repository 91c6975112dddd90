"""psycopg_pool's pools of our connections: waiting, connections that ended in the pool, and a server that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import psycopg
import psycopg_pool
import pytest

import holdfast
from holdfast import DeadlineExceeded, Policy
from holdfast.clients import postgres
from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


def test_waiting_for_a_connection_ends_at_the_deadline(server: PostgresServer):
    with postgres.create_pool(server.url, min_size=1, max_size=1) as pool, pool.connection():
        watch = Stopwatch()
        with holdfast.deadline(0.2), pytest.raises(DeadlineExceeded), pool.connection():
            pass
        assert watch.took < 0.3
        with pytest.raises(psycopg_pool.PoolTimeout):
            pool.getconn(0.05)


def test_waiting_for_a_connection_ends_at_the_deadline_in_asyncio(server: PostgresServer):
    async def main() -> None:
        async with await postgres.acreate_pool(server.url, min_size=1, max_size=1) as pool, pool.connection() as held:
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded):
                async with holdfast.deadline(0.2), pool.connection():
                    pass
            assert watch.took < 0.3
            waits = asyncio.create_task(pool.getconn())
            await asyncio.sleep(0.05)
            waits.cancel()
            await asyncio.wait({waits})
            await held.execute("select 1")
            assert pool.get_stats()["pool_size"] == 1
        # Whoever gave up waiting took nothing along.
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    asyncio.run(main())


def test_a_connection_is_given_back_also_by_a_task_that_is_cancelled_just_then(server: PostgresServer):
    async def main() -> None:
        async with await postgres.acreate_pool(server.url, min_size=1, max_size=1) as pool:
            taken = await pool.getconn()
            async with pool._lock:
                giving = asyncio.create_task(pool.putconn(taken))
                await asyncio.sleep(0.01)
                giving.cancel()
                await asyncio.sleep(0.01)
            await asyncio.wait({giving})
            assert giving.cancelled()
            assert await pool.getconn(1.0) is taken
            await pool.putconn(taken)

    asyncio.run(main())


def test_connections_that_ended_in_the_pool_are_not_handed_out(server: PostgresServer):
    with postgres.create_pool(server.url, policy=Policy("pool", deadline=5.0), min_size=3, max_size=3) as pool:
        pool.wait()
        with psycopg.connect(server.url, autocommit=True) as admin:
            others = "backend_type = 'client backend' and pid <> pg_backend_pid()"
            admin.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {others}")
        time.sleep(0.1)
        watch = Stopwatch()
        with holdfast.deadline(3.0), pool.connection() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert watch.took < 0.9  # psycopg_pool's own check would pause for a second after each


def test_a_connection_that_was_cut_off_does_not_come_back(server: PostgresServer):
    with postgres.create_pool(server.url, min_size=1, max_size=1, server_timer=False) as pool:
        with pool.connection() as connection:
            first = connection.info.backend_pid
        with pytest.raises(DeadlineExceeded), holdfast.deadline(0.2), pool.connection() as connection:
            connection.execute("select pg_sleep(30)")
        with pool.connection() as connection:
            assert connection.info.backend_pid != first


def test_a_server_that_is_stopped_does_not_hold_the_pools_workers(server: PostgresServer):
    with postgres.create_pool(server.url, dead_after=1.0, min_size=0, max_size=2, reconnect_timeout=60.0) as pool:
        server.suspend()
        try:
            with holdfast.deadline(0.3), pytest.raises(DeadlineExceeded), pool.connection():
                pass
        finally:
            server.resume()
        with holdfast.deadline(4.0), pool.connection() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
