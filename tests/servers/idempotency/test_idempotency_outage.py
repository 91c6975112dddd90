"""A store that is away: noticed in time, told at once, and found again. On real servers that are stopped (SIGSTOP)."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg_pool
import pytest
from idempotency_apps import Handler, ask_wsgi

from holdfast import check, deadline
from holdfast.errors import DeadlineExceeded, StoreUnavailable
from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from holdfast.replay.parts.redis import RedisServer, redis_server
from holdfast.servers import Idempotency, RedisStore, SQLStore
from holdfast.servers.idempotency.asking import Asking

pytestmark = pytest.mark.realtime

Claim = Callable[..., None]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


def store_on(server: RedisServer | PostgresServer, timeout: float) -> RedisStore | SQLStore:
    return RedisStore(server.url, timeout=timeout) if isinstance(server, RedisServer) else SQLStore(server.url, timeout=timeout)


@contextlib.contextmanager
def claiming(store: RedisStore | SQLStore, kind: str) -> Iterator[Claim]:
    """How a key is claimed within a request's time, and given back at once."""

    def blocking(key: str, within: float = math.inf) -> None:
        with deadline(within):
            store.claim(key, "f", lease=5, ttl=5).free()  # type: ignore[union-attr]  # nobody else has it

    async def awaited(key: str, within: float = math.inf) -> None:
        async with deadline(within):
            await (await store.aclaim(key, "f", lease=5, ttl=5)).afree()  # type: ignore[union-attr]  # the same

    if kind == "blocking":
        yield blocking
        return
    with asyncio.Runner() as runner:
        yield lambda key, within=math.inf: runner.run(awaited(key, within))
        if isinstance(store, RedisStore):
            runner.run(store.aclose())


def until_it_works(claim: Claim) -> None:
    give_up = time.monotonic() + 20.0
    while True:
        with contextlib.suppress(StoreUnavailable):
            return claim("k")
        assert time.monotonic() < give_up
        time.sleep(0.05)


WAYS = [("redis", "blocking"), ("redis", "awaited"), ("postgres", "blocking"), ("postgres", "awaited")]


@pytest.mark.parametrize(("kind_of_server", "kind"), WAYS)
def test_a_store_that_is_away_is_soon_not_waited_for_and_is_found_again(
    request: pytest.FixtureRequest, kind_of_server: str, kind: str
) -> None:
    server = request.getfixturevalue(kind_of_server)
    with claiming(store_on(server, 0.4), kind) as claim:
        until_it_works(claim)
        server.suspend()
        try:
            errors = []
            for number in range(8):
                with pytest.raises(StoreUnavailable) as raised:
                    claim(f"away {number}")
                errors.append(raised.value)
        finally:
            server.resume()
        # Who is told when to come back was told by the breaker, without a word to the store.
        assert any(error.retry_after is not None for error in errors)
        assert [error.retry_after for error in errors[:3]] == [None] * 3
        until_it_works(claim)


@pytest.mark.parametrize(("kind_of_server", "kind"), WAYS)
def test_a_silent_store_is_told_from_a_request_that_took_too_long(request: pytest.FixtureRequest, kind_of_server: str, kind: str) -> None:
    """Its own timeout is longer than the request's deadline; were it the deadline that ends the wait, nobody would ever blame the store."""
    server = request.getfixturevalue(kind_of_server)
    with claiming(store_on(server, 30.0), kind) as claim:
        claim("before")
        server.suspend()
        try:
            with pytest.raises(StoreUnavailable):
                claim("away", within=1.0)
        finally:
            server.resume()


def test_a_pool_without_a_free_connection_is_waited_for_no_longer_than_the_request_lasts(postgres: PostgresServer) -> None:
    """psycopg_pool knows no deadline, and waits for half a minute."""
    with psycopg_pool.ConnectionPool(postgres.url, min_size=1, max_size=1) as pool, pool.connection():
        began = time.monotonic()
        with deadline(0.3), pytest.raises(StoreUnavailable):
            SQLStore(pool).claim("k", "f", lease=1, ttl=1)
        assert time.monotonic() - began < 10.0


def test_a_store_that_answers_others_is_not_taken_for_one_that_is_away() -> None:
    """An overload is not an outage: who waits for a connection in vain does not keep those away that would get one."""
    asking = Asking("test", 1.0)

    def wait_in_vain() -> None:
        with asking.guarded():
            with asking.guarded():
                pass  # somebody else's claim
            raise StoreUnavailable("no connection in time")

    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="no connection in time"):
            wait_in_vain()
    with asking.guarded():
        pass


def test_a_store_is_not_blamed_for_requests_that_came_late() -> None:
    asking = Asking("test", 1.0)

    def ask() -> None:
        with deadline(0.02), asking.guarded(), asking.in_time():
            time.sleep(0.03)
            check()

    for _ in range(5):
        with pytest.raises(DeadlineExceeded):
            ask()
    with asking.guarded():
        pass


def test_the_answer_says_when_the_store_is_asked_again() -> None:
    away = StoreUnavailable("away")
    away.retry_after = 3.2

    class Away:
        transactional = False

        def claim(self, *_: Any, **__: Any) -> Any:
            raise away

    handler = Handler()
    response = ask_wsgi(Idempotency(Away()).wsgi(handler.wsgi), "POST", "/", {"Idempotency-Key": "k"}, b"")
    assert (response.status, response.code, response.header("Retry-After")) == (503, "idempotency-store-unavailable", "4")
    assert handler.asked == []
