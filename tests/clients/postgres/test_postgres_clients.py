"""psycopg, asyncpg and SQLAlchemy against a real PostgreSQL that is stopped, killed, silent or slow."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy import text

import holdfast
from certificates import certificate
from holdfast import Backoff, Breaker, BreakerOpen, DeadlineExceeded, Policy, Retry
from holdfast.clients import postgres
from holdfast.clients.postgres import asyncpg as asyncpg_behind
from holdfast.clients.postgres import sqlalchemy as engines
from holdfast.clients.postgres.server_timer import ServerTimer
from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from holdfast.testing.faults import FaultProxy, Silence, stalled_dns
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

DEAD = 1.0  # seconds after which these clients notice
LATE = 0.10


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


# Clients: each connects to a URL and gives something that runs SQL; `run` and `connect` are blocking to the tests.

Ask = Callable[[str], Any]


@contextmanager
def _psycopg(url: str, **options: Any) -> Iterator[Ask]:
    with postgres.connect(url, autocommit=True, **options) as connection:
        yield lambda sql: connection.execute(sql).fetchall()


@contextmanager
def _engine(url: str, **options: Any) -> Iterator[Ask]:
    engine = engines.create_engine(url, **options)

    def ask(sql: str) -> Any:
        with engine.begin() as connection:
            return connection.execute(text(sql)).fetchall()

    ask("select 1")
    yield ask
    engine.dispose()


def _async(opened: Callable[..., Awaitable[tuple[Callable[[str], Awaitable[Any]], Callable[[], Awaitable[None]]]]]) -> Any:
    @contextmanager
    def client(url: str, **options: Any) -> Iterator[Ask]:
        with asyncio.Runner() as runner:
            ask, close = runner.run(opened(url, **options))

            async def bounded(sql: str) -> Any:
                return await ask(sql)

            yield lambda sql: runner.run(bounded(sql), context=contextvars.copy_context())  # with the deadline
            runner.run(close())

    return client


@_async
async def _apsycopg(url: str, **options: Any) -> Any:
    connection = await postgres.aconnect(url, autocommit=True, **options)

    async def ask(sql: str) -> Any:
        return await (await connection.execute(sql)).fetchall()

    return ask, connection.close


@_async
async def _asyncpg(url: str, **options: Any) -> Any:
    connection = await asyncpg_behind.connect(url, **options)

    async def close() -> None:
        connection.terminate()

    return connection.fetch, close


def _aengine(driver: str) -> Any:
    @_async
    async def opened(url: str, **options: Any) -> Any:
        engine = engines.create_async_engine(url.replace("postgresql:", f"postgresql+{driver}:"), **options)

        async def ask(sql: str) -> Any:
            async with engine.begin() as connection:
                return (await connection.execute(text(sql))).fetchall()

        await ask("select 1")
        return ask, engine.dispose

    return opened


CLIENTS = {
    "psycopg": _psycopg,
    "psycopg async": _apsycopg,
    "asyncpg": _asyncpg,
    "engine": _engine,
    "async engine, psycopg": _aengine("psycopg"),
    "async engine, asyncpg": _aengine("asyncpg"),
}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Any:
    return CLIENTS[request.param]


def proxied(server: PostgresServer, proxy: FaultProxy) -> str:
    return server.url.replace(f":{server.port}/", f":{proxy.port}/")


def test_a_stopped_server_is_left_at_the_deadline_and_noticed_without_one(client, server):
    with client(server.url) as ask:
        server.suspend()
        try:
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded), holdfast.deadline(1.0):
                ask("select 1")
            assert watch.took < 1.0 + LATE
        finally:
            server.resume()
    with client(server.url, dead_after=DEAD) as ask:
        server.suspend()
        try:
            watch = Stopwatch()
            with pytest.raises((OSError, psycopg.Error, sqlalchemy.exc.SQLAlchemyError, asyncpg_behind.ServerGone)):
                ask("select 1")
            assert watch.took < DEAD + 1.0
        finally:
            server.resume()


def test_a_silent_network_is_left_at_the_deadline_and_noticed_without_one(client, server):
    with FaultProxy(to=("127.0.0.1", server.port)) as proxy:
        for limit, bar in ((1.0, 1.0 + LATE), (30.0, DEAD + 1.0)):
            with client(proxied(server, proxy), dead_after=DEAD) as ask:
                proxy.set(Silence())
                watch = Stopwatch()
                with pytest.raises((Exception,)), holdfast.deadline(limit):
                    ask("select 1")
                assert watch.took < bar
                proxy.clear()


def test_a_slow_statement_is_ended_by_the_server_in_time_and_nothing_of_it_stays(client, server):
    busy = "select count(*) from pg_stat_activity where query like '%pg_sleep%' and state = 'active' and pid <> pg_backend_pid()"
    for _ in range(10):
        with client(server.url) as ask:
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded), holdfast.deadline(0.5):
                ask("select pg_sleep(20)")
            assert watch.took < 0.5 + LATE
            try:
                assert ask("select 1")[0][0] == 1
            except (psycopg.OperationalError, asyncpg.InterfaceError):
                continue  # a busy machine kept the server from it: then it was for the client, who leaves the connection
            time.sleep(0.2)
            assert ask(busy)[0][0] == 0
            break
    else:
        pytest.fail("it was never the server")


def test_a_long_statement_of_a_server_that_is_well_is_let_alone(client, server):
    with client(server.url, dead_after=0.5) as ask:
        ask("select pg_sleep(1.5)")


def test_a_killed_server_is_noticed_at_once_and_the_breaker_opens(client, server):
    policy = Policy("db", breaker=Breaker(consecutive=2))
    with client(server.url, policy=policy, dead_after=DEAD) as ask:
        server.kill()
        try:
            for _ in range(3):
                watch = Stopwatch()
                with pytest.raises(Exception) as caught:
                    ask("select 1")
                assert watch.took < 1.0
            if "engine" in client.__qualname__ or client is _engine:
                assert isinstance(caught.value, BreakerOpen)
        finally:
            server.restart()


def test_an_engine_replaces_what_ended_in_its_pool(server):
    with _engine(server.url) as ask:
        server.restart()
        assert ask("select 1")[0][0] == 1


def test_connecting_is_tried_again_inside_the_deadline(server):
    calls: list[Any] = []
    stop = holdfast.events.subscribe(calls.append)
    policy = Policy("db", deadline=1.0, retry=Retry(attempts=50, backoff=Backoff(base=0.05, cap=0.1)))
    server.kill()
    try:
        watch = Stopwatch()
        with pytest.raises(psycopg.OperationalError):
            postgres.connect(server.url, policy=policy)
        assert watch.took < 1.0 + LATE
    finally:
        stop()
        server.restart()
    assert sum(isinstance(event, holdfast.events.Retrying) for event in calls) > 3


def test_a_wrong_password_is_an_answer_and_not_tried_again(server):
    policy = Policy("db", retry=Retry(attempts=5), breaker=Breaker(consecutive=1))
    with pytest.raises(psycopg.OperationalError) as caught:
        postgres.connect(server.url.replace(server.password, "wrong-one"), policy=policy)
    assert policy.breaker.state == "closed"
    assert "wrong-one" not in str(caught.value)


@pytest.mark.parametrize("speaks_tls", [True, False])
def test_a_server_that_does_not_prove_itself_is_a_failure_and_not_asked_again(speaks_tls):
    """It says so in text only, whether its certificate is not trusted or it has none."""
    asked = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate())

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            asked.append(connection.recv(8))
            connection.sendall(b"S" if speaks_tls else b"N")
            context.wrap_socket(connection, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        policy = Policy("db", deadline=5.0, retry=Retry(attempts=5))
        with pytest.raises(psycopg.OperationalError, match=r"certificate verify failed|SSL was required"):
            postgres.connect(
                f"postgresql://u@127.0.0.1:{listener.getsockname()[1]}/x?sslmode=verify-full&sslrootcert=system", policy=policy
            )
        thread.join(5.0)
    assert len(asked) == 1


def test_a_name_that_hangs_and_a_server_that_says_nothing_end_at_the_deadline(server):
    with stalled_dns(30.0, host="*.stalled.test"), holdfast.deadline(0.5):
        watch = Stopwatch()
        with pytest.raises(DeadlineExceeded):
            postgres.connect("postgresql://u@db.stalled.test/x")
        assert watch.took < 0.5 + LATE
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"postgresql://u:p@127.0.0.1:{deaf.getsockname()[1]}/x"
        for sslmode in ("disable", "require"):
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded), holdfast.deadline(0.5):
                postgres.connect(url, sslmode=sslmode)
            assert watch.took < 0.5 + LATE
            watch = Stopwatch()
            with pytest.raises(psycopg.errors.ConnectionTimeout):
                postgres.connect(url, sslmode=sslmode, dead_after=0.5)
            assert watch.took < 1.0


def test_asyncpgs_look_up_of_a_name_that_hangs_does_not_hold_the_process():
    async def connect() -> None:
        async with holdfast.deadline(0.3):
            await asyncpg_behind.connect("postgresql://u@db.stalled.test/x")

    with stalled_dns(1.5, host="*.stalled.test"):
        watch = Stopwatch()
        with pytest.raises(DeadlineExceeded):
            asyncio.run(connect())  # which waits for the threads of its loop
        assert watch.took < 0.3 + LATE


def test_statement_timeout_follows_the_deadline_and_goes_back(server):
    with postgres.connect(server.url, autocommit=True) as connection:

        def shown() -> str:
            return str(connection.execute("select setting::int from pg_settings where name = 'statement_timeout'").fetchone()[0])

        with holdfast.deadline(2.0):
            assert 1900 <= int(shown()) <= 2000
            time.sleep(1.0)
            assert int(shown()) <= 1010
        assert shown() == "0"
        with connection.transaction(), holdfast.deadline(3.0):
            assert 2900 <= int(shown()) <= 3000
        assert shown() == "0"


def test_a_transaction_whose_deadline_passed_is_rolled_back_and_its_connection_lives(server):
    with postgres.connect(server.url, autocommit=True) as connection:
        connection.execute("create table if not exists half (i int)")
        with pytest.raises(DeadlineExceeded), holdfast.deadline(0.2), connection.transaction():  # noqa: PT012
            connection.execute("insert into half values (1)")
            time.sleep(0.3)
            holdfast.check()
        assert not connection.closed
        assert connection.execute("select count(*) from half").fetchone()[0] == 0
        with pytest.raises(DeadlineExceeded), holdfast.deadline(0.2), connection.transaction():  # noqa: PT012
            connection.execute("insert into half values (1)")
            time.sleep(0.3)  # and nobody asks: the commit does
    with postgres.connect(server.url, autocommit=True) as connection:
        assert connection.execute("select count(*) from half").fetchone()[0] == 0


def test_no_answer_is_ever_that_of_another_statement(server):
    """Statements are cut off at random moments; whatever is answered is what was asked."""
    with FaultProxy(to=("127.0.0.1", server.port)) as proxy:
        engine = engines.create_engine(proxied(server, proxy), pool_size=2)
        for number in range(60):
            if number % 7 == 3:
                proxy.set(Silence(after=number))
            else:
                proxy.clear()
            try:
                with holdfast.deadline(0.06), engine.connect() as connection:
                    delay = 0.05 if number % 3 == 0 else 0
                    answer = connection.execute(text(f"select {number}, pg_sleep({delay})")).fetchone()
                    assert answer is not None
                    assert answer[0] == number
            except (DeadlineExceeded, sqlalchemy.exc.DBAPIError):
                pass
        engine.dispose()


def test_waiting_for_a_connection_of_the_pool_ends_at_the_deadline(server):
    engine = engines.create_engine(server.url, pool_size=1, max_overflow=0)
    with engine.connect(), pytest.raises(DeadlineExceeded), holdfast.deadline(0.3):
        engine.connect()
    engine.dispose()


def test_errors_are_the_librarys_too_and_pickle():
    for kind in (postgres.psycopg.DeadlineExceeded, engines.DeadlineExceeded):
        error = pickle.loads(pickle.dumps(kind("db", 1.0, 1.1, True)))
        assert isinstance(error, DeadlineExceeded)
        assert error.policy == "db"
    assert issubclass(postgres.psycopg.BreakerOpen, psycopg.OperationalError)
    assert issubclass(engines.BreakerOpen, sqlalchemy.exc.OperationalError)
    assert pickle.loads(pickle.dumps(engines.BreakerOpen("db", 2.0))).retry_after == 2.0


def test_the_timer_is_left_alone_while_it_is_near_enough():
    timer = ServerTimer()
    wanted = timer.wanted(2.0)
    assert wanted == pytest.approx(1.98)
    timer.done(wanted, False)
    assert timer.wanted(1.99) is None
    assert timer.wanted(1.0) == pytest.approx(0.98)
    assert timer.wanted(float("inf")) == float("inf")


@pytest.mark.parametrize("arguments", [{"dead_after": 0}, {"statement_timeout": -1}])
def test_bad_arguments_say_which(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        postgres.connect("postgresql://127.0.0.1:1/x", **arguments)
    with pytest.raises(ValueError, match=next(iter(arguments))):
        engines.create_engine("postgresql://127.0.0.1:1/x", **arguments)
