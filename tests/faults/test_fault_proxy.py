"""The proxy itself: it switches while it runs, counts, draws from its seed, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time

import pytest
from fault_servers import BODY, HEAD, connect, echo, http, read_all, reset_at_once, serving, soon

from holdfast.testing.faults import (
    Bandwidth,
    Cut,
    Drip,
    EndlessHeaders,
    FaultProxy,
    HalfClose,
    Latency,
    Refused,
    Reset,
    Silence,
    TlsStall,
    Trickle1xx,
)
from stopwatch import Stopwatch
from watching import open_fds

pytestmark = pytest.mark.realtime


def test_a_switch_holds_for_a_connection_that_waits():
    """A drip of a byte an hour is over at once when it is cleared."""
    with serving(http) as to, FaultProxy(to, faults=[Drip(interval=3600)]) as proxy, connect(proxy) as client:
        client.sendall(b"GET")
        assert client.recv(100) == HEAD[:1]
        watch = Stopwatch()
        proxy.clear()
        assert client.recv(1000) == HEAD[1:] + BODY
        assert watch.took < 0.1


def test_a_switch_reaches_idle_and_new_connections():
    with serving(echo) as to, FaultProxy(to) as proxy, connect(proxy) as old:
        old.sendall(b"x")
        assert old.recv(1) == b"x"
        proxy.set(Reset())
        assert proxy.faults == (Reset(),)
        assert read_all(old) == (b"", "rst")
        assert reset_at_once(proxy)
        proxy.clear()
        with connect(proxy) as fine:
            fine.sendall(b"y")
            assert fine.recv(1) == b"y"


def test_bytes_are_counted_from_the_switch():
    with serving(http) as to, FaultProxy(to) as proxy, connect(proxy) as client:
        client.sendall(b"GET")
        assert client.recv(1000) == HEAD + BODY
        proxy.set(Cut(after=5))
        client.sendall(b"GET")
        assert read_all(client) == (HEAD[:5], "fin")


def test_a_switch_from_many_threads():
    with serving(http) as to, FaultProxy(to) as proxy:

        def switch():
            for _ in range(50):
                proxy.set(Drip(interval=1))
                proxy.set(Refused())
                proxy.clear()

        threads = [threading.Thread(target=switch) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with connect(proxy) as client:
            client.sendall(b"GET")
            assert client.recv(1000) == HEAD + BODY


def test_a_seed_draws_the_same_jitter_for_the_nth_connection():
    def delays(seed, others):
        with serving(echo) as to, FaultProxy(to, faults=[Latency(delay=0.1, jitter=0.1)], seed=seed) as proxy:
            if others:  # what the first connection does changes nothing for the second
                with connect(proxy) as first:
                    first.sendall(b"x")
                    first.recv(1)
            else:
                connect(proxy).close()
            assert soon(lambda: proxy.counts.connections == 1)
            with connect(proxy) as client:
                for _ in range(4):
                    start = time.monotonic()
                    client.sendall(b"x")
                    client.recv(1)
                    yield time.monotonic() - start

    first, same, other = list(delays(1, True)), list(delays(1, False)), list(delays(2, True))
    for _ in range(2):
        if first != pytest.approx(same, abs=0.03):  # a busy machine is late, and not each time
            first, same = list(map(min, first, delays(1, True))), list(map(min, same, delays(1, False)))
    assert first == pytest.approx(same, abs=0.03)
    assert first != pytest.approx(other, abs=0.03)


ALL = [
    (),
    (Latency(delay=0.05),),
    (Bandwidth(rate=100),),
    (Drip(interval=0.1),),
    (Silence(after=3),),
    (Reset(after=1),),
    (Cut(where="body"),),
    (HalfClose(after=2),),
    (TlsStall(),),
    (Trickle1xx(interval=0.01),),
    (EndlessHeaders(interval=0),),
]


def test_nothing_is_left_after_200_connections():
    """Every fault, with clients that close, reset, or are still there when the proxy stops; not a thread nor a socket stays."""
    with serving(http) as to:
        soon(lambda: threading.active_count() == 2)
        threads, fds = set(threading.enumerate()), open_fds()
        kept = []
        with FaultProxy(to) as proxy:
            for n in range(200):
                proxy.set(*ALL[n % len(ALL)])
                client = socket.socket()
                client.settimeout(0.02)
                try:
                    client.connect(proxy.address)
                    client.sendall(b"\x16GET")
                    client.recv(10)
                except (TimeoutError, ConnectionError):
                    pass
                if n % 3 == 0:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                if n % 3 == 2:
                    kept.append(client)
                else:
                    client.close()
            assert soon(lambda: proxy.counts.connections == 200)
            watch = Stopwatch()
        assert watch.took < 0.5
        assert proxy.counts.connections == 200
        assert proxy.counts.open == 0
        for client in kept:
            client.close()
        assert soon(lambda: set(threading.enumerate()) == threads)
        assert soon(lambda: open_fds() == fds)


def test_connections_do_not_pile_up_while_it_runs():
    """With a silent upstream each client that gave up is forgotten, though the proxy goes on."""
    with serving(http) as to, FaultProxy(to, faults=[Silence()]) as proxy:
        fds = open_fds()
        for _ in range(50):
            with connect(proxy, 0.005) as client:
                client.sendall(b"GET")
                read_all(client)
        assert soon(lambda: proxy.counts.open == 0)
        assert soon(lambda: open_fds() <= fds)


def test_it_starts_again_after_it_stopped():
    proxy = FaultProxy(faults=[Cut()])
    with pytest.raises(RuntimeError, match="does not run"):
        _ = proxy.port
    for _ in range(2):
        with proxy:
            with pytest.raises(RuntimeError, match="runs already"):
                proxy.start()
            with connect(proxy) as client:
                assert read_all(client) == (b"", "fin")
        proxy.stop()
        assert proxy.counts.connections == 1


def test_async_with_and_a_switch_inside_of_a_loop():
    async def main():
        threads = threading.active_count()
        with serving(http) as to:
            async with FaultProxy(to, faults=[Drip(interval=60)]) as proxy:
                reader, writer = await asyncio.open_connection(*proxy.address)
                writer.write(b"GET")
                assert await reader.readexactly(1) == HEAD[:1]
                proxy.clear()
                assert await reader.readexactly(len(HEAD + BODY) - 1) == HEAD[1:] + BODY
                writer.close()
                await writer.wait_closed()
        assert threading.active_count() == threads

    asyncio.run(main())


def test_a_server_that_refuses_is_a_reset():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with FaultProxy(nobody.getsockname()) as proxy:
            assert reset_at_once(proxy)


def test_a_reset_of_the_server_or_of_the_client_is_passed_on():
    seen = []

    def rude(connection):
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    def curious(connection):
        seen.append(read_all(connection))

    with serving(rude) as to, FaultProxy(to) as proxy, connect(proxy) as client:
        client.sendall(b"?")
        assert read_all(client) == (b"", "rst")
    with serving(curious) as to, FaultProxy(to) as proxy:
        client = connect(proxy)
        client.sendall(b"?")
        assert soon(lambda: proxy.counts.up == 1)
        rude_close = b"\1\0\0\0\0\0\0\0"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, rude_close)
        client.close()
        assert soon(lambda: seen == [(b"?", "rst")])


def test_a_port_that_is_taken_is_an_error_and_leaves_nothing():
    with FaultProxy() as first:
        threads, fds = threading.active_count(), open_fds()
        with pytest.raises(OSError, match="in use"):
            FaultProxy(listen=first.address).start()
        assert (threading.active_count(), open_fds()) == (threads, fds)


def test_a_forgotten_proxy_does_not_keep_the_process():
    code = "from holdfast.testing.faults import FaultProxy; FaultProxy().start(); print('end')"
    done = subprocess.run([sys.executable, "-c", code], timeout=10, capture_output=True, text=True, check=True)
    assert done.stdout == "end\n"
