"""What a client behind a policy, and `install()` without a deadline, cost on a healthy loopback.

The server is a process of its own, so that it does not share the interpreter with what is measured.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import httpx
import requests

import holdfast
import holdfast.clients.aiohttp
import holdfast.clients.httpx
import holdfast.clients.requests
from measure import Effort, Figure, Timed, fastest
from subjects import five

REQUESTS = 20  # for one measurement
PINGS = 200
PING_ROUNDS = 60

SERVER = """
import asyncio, sys
class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.got = transport, b""
    def data_received(self, data):
        self.got += data
        while b"\\r\\n\\r\\n" in self.got:
            self.got = self.got.partition(b"\\r\\n\\r\\n")[2]
            self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nContent-Length: 2\\r\\n\\r\\nok")
async def main():
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
asyncio.run(main())
"""
ECHO = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    client = listener.accept()[0]
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while client.recv(1):
        client.send(b".")
"""


def figures(effort: Effort) -> Iterator[Figure]:
    with _process(SERVER) as port:
        url = f"http://127.0.0.1:{port}/"
        rounds = effort.times(120)
        with httpx.Client(timeout=10.0) as bare, holdfast.clients.httpx.Client(policy=five()) as ours:
            yield _slower("httpx", fastest(rounds, [_blocking(bare.get, url), _blocking(ours.get, url)]))
        with requests.Session() as bare_session, holdfast.clients.requests.Session(policy=five()) as our_session:
            bare_session.trust_env = our_session.trust_env = False
            yield _slower("requests", fastest(rounds, [_blocking(bare_session.get, url), _blocking(our_session.get, url)]))
        with asyncio.Runner() as runner:
            yield _slower("async httpx", runner.run(_async_httpx(runner, url)).run(rounds))
            yield _slower("aiohttp", runner.run(_aiohttp(runner, url)).run(rounds))
    yield _ping(effort)


def _slower(what: str, seconds: list[float]) -> Figure:
    bare, ours = seconds
    return Figure(f"{what}: seconds per request behind the five / bare", ours / bare, 1 / 0.95)


def _blocking(get: Callable[[str], Any], url: str) -> Timed:
    for _ in range(50):
        get(url)

    def timed() -> float:
        began = time.perf_counter()
        for _ in range(REQUESTS):
            get(url)
        return time.perf_counter() - began

    return timed


class _Pair:
    """A bare async client and ours, in the runner's loop."""

    def __init__(self, runner: asyncio.Runner, gets: list[Callable[[], Any]], clients: list[Any]) -> None:
        self._runner = runner
        self._gets = gets
        self._clients = clients

    def run(self, rounds: int) -> list[float]:
        try:
            for get in self._gets:
                self._runner.run(_many(get, 50))
            return fastest(rounds, [self._timed(get) for get in self._gets])
        finally:
            for client in self._clients:
                self._runner.run((getattr(client, "aclose", None) and client.aclose()) or client.close())

    def _timed(self, get: Callable[[], Any]) -> Timed:
        return lambda: self._runner.run(_many(get, REQUESTS))


async def _many(get: Callable[[], Any], number: int) -> float:
    began = time.perf_counter()
    for _ in range(number):
        await get()
    return time.perf_counter() - began


async def _async_httpx(runner: asyncio.Runner, url: str) -> _Pair:
    bare, ours = httpx.AsyncClient(timeout=10.0), holdfast.clients.httpx.AsyncClient(policy=five())
    return _Pair(runner, [lambda: bare.get(url), lambda: ours.get(url)], [bare, ours])


async def _aiohttp(runner: asyncio.Runner, url: str) -> _Pair:
    bare, ours = aiohttp.ClientSession(), holdfast.clients.aiohttp.ClientSession(policy=five())

    def getting(session: Any) -> Callable[[], Any]:
        async def get() -> bytes:
            async with session.get(url) as response:
                return bytes(await response.read())

        return get

    return _Pair(runner, [getting(bare), getting(ours)], [bare, ours])


def _ping(effort: Effort) -> Figure:
    # The same function in two copies would be two call sites; install() changes the class under one and the same.
    with _process(ECHO) as port, socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def pings() -> float:
            send, receive = client.send, client.recv
            began = time.perf_counter()
            for _ in range(PINGS):
                send(b".")
                receive(1)
            return time.perf_counter() - began

        def installed() -> float:
            holdfast.install()
            try:
                return pings()
            finally:
                holdfast.uninstall()

        bare, ours = fastest(effort.times(PING_ROUNDS * 5), [pings, installed])
    return Figure("install() without a deadline: a ping-pong of 1 byte over the loopback / without", ours / bare, 1.03)


@contextmanager
def _process(code: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
