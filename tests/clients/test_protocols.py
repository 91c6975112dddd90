"""What httpx can do besides HTTP/1.1 to one host: HTTP/2 and SOCKS under the deadline; and requests through SOCKS."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import httpx
import hypercorn.asyncio
import hypercorn.config
import pytest
import requests
import trio

import holdfast
import holdfast.clients.httpx
import holdfast.clients.requests
from certificates import client_context
from holdfast import Backoff, Policy, Retry
from holdfast.testing.faults import FaultProxy, Latency
from servers import Answer, serving
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

LATE = 0.10
STREAMS = 3  # that the server allows on a connection


async def drip(scope: Any, receive: Any, send: Any) -> None:
    """An application whose /drip sends a byte every so often, for ever, and whose /slow takes its time."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    with suppress(Exception):
        while scope["path"] == "/drip":
            await send({"type": "http.response.body", "body": b".", "more_body": True})
            await asyncio.sleep(0.05)
    await send({"type": "http.response.body", "body": scope["http_version"].encode()})


@contextmanager
def http2(application: Any = drip) -> Iterator[str]:
    """A server that speaks HTTP/2 without TLS."""
    config = hypercorn.config.Config()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 0.1
    config.h2_max_concurrent_streams = STREAMS
    config.errorlog = None
    ended: list[Callable[[], None]] = []
    ready = threading.Event()

    async def main() -> None:
        over = asyncio.Event()
        ended.append(partial(asyncio.get_running_loop().call_soon_threadsafe, over.set))
        ready.set()
        await hypercorn.asyncio.serve(application, config, shutdown_trigger=over.wait)  # type: ignore[arg-type]

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
        watch = Stopwatch()
        try:
            return get().content
        except holdfast.DeadlineExceeded as error:
            assert watch.took < 1.0 + LATE
            return error

    if kind == "sync":
        with holdfast.clients.httpx.Client(policy=Policy("p", deadline=1.0), **options) as client:
            return [tried(lambda url=url: client.get(url)) for _, url in gets]

    async def main() -> list[Any]:
        results: list[Any] = []
        async with holdfast.clients.httpx.AsyncClient(policy=Policy("p", deadline=1.0), **options) as client:
            for _, url in gets:
                watch = Stopwatch()
                try:
                    results.append((await client.get(url)).content)
                except holdfast.DeadlineExceeded as error:
                    assert watch.took < 1.0 + LATE
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


def test_streams_that_were_cut_off_leave_their_connection_to_others():
    """Of three streams that the server allows none is lost, however many requests were cut off: it is told each time."""

    async def main(url: str) -> str:
        policy = Policy("p", deadline=0.2)
        async with holdfast.clients.httpx.AsyncClient(policy=policy, http1=False, http2=True) as client:
            for _ in range(2):
                dripping = (client.get(url + "/drip") for _ in range(STREAMS))
                ended = await asyncio.gather(*dripping, return_exceptions=True)
                assert [type(error) for error in ended] == [holdfast.clients.httpx.DeadlineExceeded] * STREAMS
                (connection,) = client._transport._pool.connections
                assert (await client.get(url)).text == "2"
            assert client._transport._pool.connections == [connection]
        return "in time"

    with http2() as url:
        assert asyncio.run(main(url)) == "in time"


def test_a_connection_serves_others_whenever_its_first_request_is_cancelled():
    """httpcore counts streams as the connection begins, and went on with a wrong number after a cancellation in the middle of that."""

    async def main(url: str) -> None:
        for steps in range(0, 60, 4):
            async with holdfast.clients.httpx.AsyncClient(http1=False, http2=True) as client:
                first, *others = (asyncio.create_task(client.get(url)) for _ in range(1 + 2 * STREAMS))
                for _ in range(steps):
                    await asyncio.sleep(0)
                first.cancel()
                assert [(await each).status_code for each in others] == [200] * 2 * STREAMS

    with http2() as url:
        asyncio.run(main(url))


@pytest.mark.parametrize("cancelled", [0, 1], ids=["who connects", "who waits"])
def test_a_cancellation_while_a_shared_connection_is_made_leaves_one_that_the_pool_knows(cancelled):
    """And that it closes in the end."""

    async def main(url: str) -> None:
        async with holdfast.clients.httpx.AsyncClient(http2=True, verify=client_context()) as client:
            tasks = [asyncio.create_task(client.get(url)) for _ in range(2)]
            await asyncio.sleep(0.05)
            tasks.pop(cancelled).cancel()
            assert (await tasks[0]).status_code == 200
            assert [connection.is_idle() for connection in client._transport._pool.connections] == [True]

    with serving(tls=True) as server, FaultProxy(("127.0.0.1", server.port), faults=[Latency(delay=0.2)]) as proxy:
        asyncio.run(main(f"https://127.0.0.1:{proxy.port}/"))


def test_a_body_that_nobody_reads_takes_no_room_from_the_next_one():
    """What came of a body that was left is acknowledged: five times 8 MB are more than a connection may have unacknowledged (16 MB)."""

    async def body(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(8_000_000)})

    async def main(url: str) -> int:
        async with holdfast.clients.httpx.AsyncClient(policy=Policy("p", deadline=20.0), http1=False, http2=True) as client:
            for _ in range(5):
                async with client.stream("GET", url) as response:
                    await anext(response.aiter_raw())
                    await asyncio.sleep(0.05)
            return len((await client.get(url)).content)

    with http2(body) as url:
        assert asyncio.run(main(url)) == 8_000_000


def test_threads_do_not_end_each_others_requests_over_http2():
    """A thread that is cut off has no part in another's request, and does not wait for it either."""
    with http2() as url, holdfast.clients.httpx.Client(http1=False, http2=True, timeout=5.0) as client:
        client.get(url)

        def cut_off() -> float:
            watch = Stopwatch()
            with pytest.raises(holdfast.DeadlineExceeded), holdfast.deadline(0.2):
                client.get(url + "/drip")
            return watch.took

        with ThreadPoolExecutor(4) as threads:
            slow = [threads.submit(client.get, url + "/slow") for _ in range(2)]
            cut = [threads.submit(cut_off) for _ in range(2)]
            assert [each.result().text for each in slow] == ["2", "2"]
            assert max(each.result() for each in cut) < 0.2 + LATE
        assert all(connection.is_available() for connection in client._transport._pool.connections)


def test_what_a_server_refused_unread_is_sent_again():
    """REFUSED_STREAM promises that nothing was done (RFC 9113, 8.7), so that even a POST may be sent again."""
    seen: list[str] = []

    def serve() -> None:
        connection, _ = listener.accept()
        protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="ascii"))
        protocol.initiate_connection()
        with connection:
            while data := connection.recv(65536):
                for event in protocol.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        seen.append(dict(event.headers)[":method"])
                        if len(seen) == 1:
                            protocol.reset_stream(event.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
                        else:
                            protocol.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
                connection.sendall(protocol.data_to_send())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        policy = Policy("p", deadline=2.0, retry=Retry(backoff=Backoff(base=0.01)))
        with holdfast.clients.httpx.Client(policy=policy, http1=False, http2=True) as client:
            status = client.post(f"http://127.0.0.1:{listener.getsockname()[1]}/").status_code
        thread.join(5)
    assert (status, seen) == (200, ["POST", "POST"])


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
                watch = Stopwatch()
                with pytest.raises(requests.RequestException):
                    session.get(server.url, proxies={"http": f"socks5://127.0.0.1:{proxy.port}"})
                assert watch.took < 0.3 + LATE
        finally:
            holdfast.uninstall()
