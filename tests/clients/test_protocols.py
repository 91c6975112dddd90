"""What httpx can do besides HTTP/1.1 to one host: HTTP/2 and SOCKS under the deadline; and requests through SOCKS."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

import httpx
import hypercorn.asyncio
import hypercorn.config
import pytest
import requests
import trio

import holdfast
import holdfast.clients.httpx
import holdfast.clients.requests
from holdfast import Policy
from servers import Answer, serving

pytestmark = pytest.mark.realtime

LATE = 0.10


async def drip(scope: Any, receive: Any, send: Any) -> None:
    """An application whose /drip sends a byte every so often, for ever."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    with suppress(Exception):
        while scope["path"] == "/drip":
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": scope["http_version"].encode()})


@contextmanager
def http2() -> Iterator[str]:
    """A server that speaks HTTP/2 without TLS."""
    config = hypercorn.config.Config()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 0.1
    config.errorlog = None
    ended: list[Callable[[], None]] = []
    ready = threading.Event()

    async def main() -> None:
        over = asyncio.Event()
        ended.append(partial(asyncio.get_running_loop().call_soon_threadsafe, over.set))
        ready.set()
        await hypercorn.asyncio.serve(drip, config, shutdown_trigger=over.wait)  # type: ignore[arg-type]

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    ready.wait(5)
    _until_open(port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        ended[0]()
        thread.join()


def _until_open(port: int) -> None:
    for _ in range(200):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise AssertionError("no server")


def _requests_of(kind: str, gets: list[tuple[str, str]], **options: Any) -> list[Any]:
    """What each request came to, an error or a body, all with one client."""

    def tried(get: Callable[[], Any]) -> Any:
        began = time.monotonic()
        try:
            return get().content
        except holdfast.DeadlineExceeded as error:
            assert time.monotonic() - began < 0.3 + LATE
            return error

    if kind == "sync":
        with holdfast.clients.httpx.Client(policy=Policy("p", deadline=0.3), **options) as client:
            return [tried(lambda url=url: client.get(url)) for _, url in gets]

    async def main() -> list[Any]:
        results: list[Any] = []
        async with holdfast.clients.httpx.AsyncClient(policy=Policy("p", deadline=0.3), **options) as client:
            for _, url in gets:
                began = time.monotonic()
                try:
                    results.append((await client.get(url)).content)
                except holdfast.DeadlineExceeded as error:
                    assert time.monotonic() - began < 0.3 + LATE
                    results.append(error)
        return results

    return asyncio.run(main()) if kind == "asyncio" else trio.run(main)


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_http2_is_cut_off_in_the_middle_of_a_body_and_goes_on_afterwards(kind):
    """The deadline holds over a drip, and what is asked next gets its own answer."""
    with http2() as url:
        gets = [("before", url), ("cut", url + "/drip"), ("after", url), ("cut again", url + "/drip"), ("after that", url)]
        came = _requests_of(kind, gets, http1=False, http2=True)
    assert [body for body in came if isinstance(body, bytes)] == [b"2", b"2", b"2"]
    assert all(isinstance(came[number], httpx.TimeoutException) for number in (1, 3))


class _Socks:
    """A SOCKS5 proxy that stops answering after the greeting where `stalls`, and passes everything on otherwise."""

    def __init__(self, stalls: bool) -> None:
        self.stalls = stalls
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self._open.append(client)
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with suppress(OSError):
            client.recv(64)
            client.sendall(b"\x05\x00")
            asked = client.recv(512)
            if self.stalls:
                return
            port = int.from_bytes(asked[-2:], "big")
            server = socket.create_connection(("127.0.0.1", port))
            self._open.append(server)
            client.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
            threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
            self._pass(client, server)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for sock in (self.listener, *self._open):
            sock.close()


@pytest.mark.parametrize("kind", ["sync", "asyncio", "trio"])
def test_a_socks_proxy_is_under_the_deadline(kind):
    """One that falls silent in its greeting is cut off; one that answers passes the request on."""
    with serving(lambda _request: Answer()) as server:
        for stalls in (True, False):
            with _Socks(stalls) as proxy:
                came = _requests_of(kind, [("one", server.url)], proxy=f"socks5://127.0.0.1:{proxy.port}")[0]
            assert isinstance(came, httpx.TimeoutException) if stalls else came == b"ok"


def test_requests_through_socks_obeys_the_deadline_with_install():
    """PySocks makes the sockets there, which are Python's."""
    with serving(lambda _request: Answer()) as server, _Socks(stalls=True) as proxy:
        holdfast.install()
        try:
            with holdfast.clients.requests.Session(policy=Policy("p", deadline=0.3)) as session:
                began = time.monotonic()
                with pytest.raises(requests.RequestException):
                    session.get(server.url, proxies={"http": f"socks5://127.0.0.1:{proxy.port}"})
                assert time.monotonic() - began < 0.3 + LATE
        finally:
            holdfast.uninstall()
