"""What a client behind a policy, and `install()` without a deadline, cost on a healthy loopback.

The server is a process of its own, so that it does not share the interpreter with what is measured: an asyncio protocol that answers as
soon as it has the request, with a small JSON document or with one byte. The requests are an address and nothing else, and a POST of JSON
with headers of its own. A heavier server would hide what a client costs.
Beside each client its own peer: httpx-retries, aiohttp-retry, urllib3's `Retry` below requests and urllib3.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import aiohttp
import httpx
import requests
import urllib3
from aiohttp_retry import ExponentialRetry, RetryClient
from httpx_retries import RetryTransport
from requests.adapters import HTTPAdapter

import holdfast
import holdfast.clients.aiohttp
import holdfast.clients.httpx
import holdfast.clients.requests
import holdfast.clients.urllib3
from holdfast import Policy, Retry
from measure import Effort, Figure, Timed, fastest
from subjects import five

REQUESTS = 100  # for one measurement: CPython specializes anew what a client shares with the one before, and few would measure that
TASKS = 20  # that share a client, where many do
WARM = 50
ROUNDS = 30
BAR = 1 / 0.95
PINGS = 200
PING_ROUNDS = 60

JSON = '{"id": 17, "name": "tax", "rate": 0.19, "lines": [1, 2, 3], "note": "' + "x" * 200 + '"}'
SERVER = """
import asyncio, sys
body = sys.argv[1].encode()
head = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nDate: Mon, 23 Nov 2026 21:00:00 GMT\\r\\nServer: bench\\r\\n"
answer = head + b"Content-Length: %d\\r\\n\\r\\n%b"
class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.got = transport, b""
    def data_received(self, data):
        self.got += data
        while b"\\r\\n\\r\\n" in self.got:
            head, _, rest = self.got.partition(b"\\r\\n\\r\\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\\r\\n")[0] or 0)
            if len(rest) < length:
                return
            self.got = rest[length:]
            self.transport.write(answer % (len(body), body))
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


Gets = dict[str, Callable[[], Any]]


class Asked(NamedTuple):
    """What is asked, and how it is called in the table."""

    title: str
    method: str
    options: dict[str, Any]


OWN = {
    "headers": {"Authorization": "Bearer 0123456789abcdef", "X-Tenant": "north"},
    "json": {"order": 17, "lines": [{"sku": "a-1", "count": 2}], "note": "leave it at the door"},
}


def figures(effort: Effort) -> Iterator[Figure]:
    for text, asked in ((JSON, Asked("small JSON", "GET", {})), ("x", Asked("1 byte", "GET", {})), (JSON, Asked("POST", "POST", OWN))):
        with _process(SERVER, text) as port:
            url = f"http://127.0.0.1:{port}/tax/17"
            for measure in (_httpx, _requests, _urllib3):
                yield from measure(effort, url, asked)
            with asyncio.Runner() as runner:
                for measure_async in (_async_httpx, _aiohttp):
                    yield from measure_async(effort, runner, url, asked)
    yield _ping(effort)


def two() -> Policy:
    return Policy("orders", deadline=2.0, retry=Retry())


def _rows(client: str, size: str, names: list[str], seconds: list[float]) -> Iterator[Figure]:
    """A row for each beside the first, which is bare; ours also beside the peer, which is the last."""
    bare, peer = seconds[0], seconds[-1]
    for name, took in zip(names[1:-1], seconds[1:-1], strict=True):
        yield Figure(f"{client}, {size}: seconds per request behind {name} / bare", took / bare, BAR)
        yield Figure(f"{client}, {size}: the same / {names[-1]}", took / peer, 1.0)
    yield Figure(f"{client}, {size}: {names[-1]} / bare", peer / bare)


def _asking(clients: dict[str, Any], url: str, asked: Asked) -> Gets:
    return {name: partial(client.request, asked.method, url, **asked.options) for name, client in clients.items()}


def _compare(effort: Effort, client: str, size: str, gets: Gets) -> Iterator[Figure]:
    timed = [_blocking(get) for get in gets.values()]
    yield from _rows(client, size, list(gets), fastest(effort.times(ROUNDS), timed))


def _blocking(get: Callable[[], Any]) -> Timed:
    for _ in range(WARM):
        get()

    def timed() -> float:
        began = time.perf_counter()
        for _ in range(REQUESTS):
            get()
        return time.perf_counter() - began

    return timed


def _httpx(effort: Effort, url: str, asked: Asked) -> Iterator[Figure]:
    make = holdfast.clients.httpx.Client
    with (
        httpx.Client(timeout=10.0) as bare,
        make(policy=five()) as ours,
        make(policy=two()) as light,
        httpx.Client(timeout=10.0, transport=RetryTransport()) as peer,
    ):
        clients = {"bare": bare, "the five": ours, "deadline and retry": light, "httpx-retries": peer}
        yield from _compare(effort, "httpx", asked.title, _asking(clients, url, asked))


def _requests(effort: Effort, url: str, asked: Asked) -> Iterator[Figure]:
    make = holdfast.clients.requests.Session
    with requests.Session() as bare, make(policy=five()) as ours, make(policy=two()) as light, requests.Session() as peer:
        peer.mount("http://", HTTPAdapter(max_retries=urllib3.Retry(3)))
        clients = {"bare": bare, "the five": ours, "deadline and retry": light, "urllib3 Retry": peer}
        yield from _compare(effort, "requests", asked.title, _asking(clients, url, asked))


def _urllib3(effort: Effort, url: str, asked: Asked) -> Iterator[Figure]:
    make = holdfast.clients.urllib3.PoolManager
    with urllib3.PoolManager(retries=False) as bare, make(policy=five()) as ours, make(policy=two()) as light:
        peer = urllib3.PoolManager(retries=urllib3.Retry(3))
        clients = {"bare": bare, "the five": ours, "deadline and retry": light, "urllib3 Retry": peer}
        yield from _compare(effort, "urllib3", asked.title, _asking(clients, url, asked))
        peer.clear()


def _compare_async(effort: Effort, runner: asyncio.Runner, client: str, size: str, gets: Gets) -> Iterator[Figure]:
    for get in gets.values():
        runner.run(_many(get, WARM))
    for tasks in (1, TASKS):
        timed = [partial(_timed, runner, get, tasks) for get in gets.values()]
        name = client if tasks == 1 else f"{client}, {tasks} tasks"
        yield from _rows(name, size, list(gets), fastest(effort.times(ROUNDS), timed))


def _timed(runner: asyncio.Runner, get: Callable[[], Any], tasks: int) -> float:
    async def all_of_them() -> None:
        await asyncio.gather(*(_many(get, REQUESTS // tasks) for _ in range(tasks)))

    began = time.perf_counter()
    runner.run(all_of_them())
    return time.perf_counter() - began


async def _many(get: Callable[[], Any], number: int) -> None:
    for _ in range(number):
        await get()


def _async_httpx(effort: Effort, runner: asyncio.Runner, url: str, asked: Asked) -> Iterator[Figure]:
    make = holdfast.clients.httpx.AsyncClient
    clients = {
        "bare": httpx.AsyncClient(timeout=10.0),
        "the five": make(policy=five()),
        "deadline and retry": make(policy=two()),
        "httpx-retries": httpx.AsyncClient(timeout=10.0, transport=RetryTransport()),
    }
    yield from _compare_async(effort, runner, "async httpx", asked.title, _asking(clients, url, asked))
    for client in clients.values():
        runner.run(client.aclose())


def _aiohttp(effort: Effort, runner: asyncio.Runner, url: str, asked: Asked) -> Iterator[Figure]:
    async def opened() -> dict[str, Any]:
        make = holdfast.clients.aiohttp.ClientSession
        return {
            "bare": aiohttp.ClientSession(),
            "the five": make(policy=five()),
            "deadline and retry": make(policy=two()),
            "aiohttp-retry": RetryClient(retry_options=ExponentialRetry(3)),
        }

    def getting(session: Any) -> Callable[[], Any]:
        async def get() -> bytes:
            async with session.request(asked.method, url, **asked.options) as response:
                return bytes(await response.read())

        return get

    sessions = runner.run(opened())
    yield from _compare_async(effort, runner, "aiohttp", asked.title, {name: getting(session) for name, session in sessions.items()})
    for session in sessions.values():
        runner.run(session.close())


def _ping(effort: Effort) -> Figure:
    # The same function in two copies would be two call sites; install() changes the class under one and the same. Both sides share a core:
    # whether a sleeping one is woken in time was up to 3 x, by chance.
    with _one_core(), _process(ECHO) as port, socket.create_connection(("127.0.0.1", port)) as client:
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
def _one_core() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def _process(code: str, *arguments: str) -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
