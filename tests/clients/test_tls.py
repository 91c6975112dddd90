"""TLS with a real certificate: it is checked, a wrong one is told as that, and a handshake that stalls is left in time."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

import holdfast
from certificates import certificate
from holdfast import DeadlineExceeded
from holdfast.clients import postgres
from holdfast.clients import redis as redis_behind
from holdfast.clients.postgres import asyncpg
from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.redis import redis_server
from holdfast.testing.faults import FaultProxy, Silence
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

LATE = 0.1
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


class Front:
    """TLS in front of a server that has none: PostgreSQL's clients ask for it first."""

    def __init__(self, to: int, *, asked: bool) -> None:
        self._to, self._asked = to, asked
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate())
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._to)) as server:
            if self._asked:
                assert client.recv(8, socket.MSG_WAITALL) == _SSL_REQUEST
                client.sendall(b"S")
            with self._context.wrap_socket(client, server_side=True) as wrapped:
                back = threading.Thread(target=_relay, args=(server, wrapped), daemon=True)
                back.start()
                _relay(wrapped, server)
                back.join(1.0)


def _relay(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


Once = Callable[[int, bool], Any]


def _run(fn: Callable[..., Any], *args: Any) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(fn(*args), context=contextvars.copy_context())


def _redis(port: int, trusted: bool) -> Any:
    with redis_behind.from_url(f"rediss://localhost:{port}/0", **_authority(trusted)) as client:
        return client.ping()


async def _aredis(port: int, trusted: bool) -> Any:
    async with redis_behind.async_from_url(f"rediss://localhost:{port}/0", **_authority(trusted)) as client:
        return await client.ping()


def _authority(trusted: bool) -> dict[str, str]:
    return {"ssl_ca_certs": str(certificate())} if trusted else {}


class Postgres:
    """Connects to a server with a password that no error may tell."""

    def __init__(self, password: str) -> None:
        self._password = password

    def url(self, port: int, trusted: bool) -> str:
        root = f"&sslrootcert={certificate() if trusted else 'system'}"
        return f"postgresql://postgres:{self._password}@localhost:{port}/postgres?sslmode=verify-full{root}"

    def psycopg(self, port: int, trusted: bool) -> Any:
        with postgres.connect(self.url(port, trusted)) as connection:
            return connection.execute("select 1").fetchone()

    async def apsycopg(self, port: int, trusted: bool) -> Any:
        async with await postgres.aconnect(self.url(port, trusted)) as connection:
            return await (await connection.execute("select 1")).fetchone()

    async def asyncpg(self, port: int, trusted: bool) -> Any:
        context = ssl.create_default_context(cafile=str(certificate()) if trusted else None)
        connection = await asyncpg.connect(self.url(port, trusted).partition("?")[0], ssl=context)
        try:
            return await connection.fetchrow("select 1")
        finally:
            connection.terminate()


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, tuple[Once, int, str]]]:
    """By name: what connects once and asks something, the front's port, and the password."""
    with ExitStack() as stack:
        redis, postgresql = stack.enter_context(redis_server()), stack.enter_context(postgres_server())
        fronts = Front(redis.port, asked=False), Front(postgresql.port, asked=True)
        for front in fronts:
            stack.callback(front.close)
        pg, password = Postgres(postgresql.password), postgresql.password
        yield {
            "redis": (_redis, fronts[0].port, "nothing"),
            "redis-async": (lambda *args: _run(_aredis, *args), fronts[0].port, "nothing"),
            "psycopg": (pg.psycopg, fronts[1].port, password),
            "psycopg-async": (lambda *args: _run(pg.apsycopg, *args), fronts[1].port, password),
            "asyncpg": (lambda *args: _run(pg.asyncpg, *args), fronts[1].port, password),
        }


KINDS = ["redis", "redis-async", "psycopg", "psycopg-async", "asyncpg"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_is_checked_and_a_wrong_one_is_told_as_that(clients: dict[str, tuple[Once, int, str]], kind: str):
    once, port, password = clients[kind]
    with holdfast.deadline(5.0):
        assert once(port, True)
    with holdfast.deadline(5.0), pytest.raises(Exception, match=r"(?i)certificate") as raised:
        once(port, False)
    assert not isinstance(raised.value, DeadlineExceeded)
    assert password not in repr(raised.value)


# Bytes of the server: it has agreed to TLS (PostgreSQL) and no more; it is in the middle of its first flight.
@pytest.mark.parametrize("after", [1, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_a_handshake_that_stalls_is_left_at_the_deadline(clients: dict[str, tuple[Once, int, str]], kind: str, after: int):
    once, port, _ = clients[kind]
    with FaultProxy(to=("127.0.0.1", port)) as proxy:
        proxy.set(Silence(after=after))
        watch = Stopwatch()
        with pytest.raises(DeadlineExceeded), holdfast.deadline(0.3):
            once(proxy.port, True)
        assert watch.took < 0.3 + LATE
