"""Each fault does exactly what it says, on real sockets."""

from __future__ import annotations

import http.client
import itertools
import socket
import ssl
import time

import pytest
from fault_servers import BODY, HEAD, arrivals, connect, echo, read_all, reset_at_once, sending, serving, soon
from fault_servers import http as http_server

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

pytestmark = pytest.mark.realtime

# How late a busy machine may be, in seconds. Nothing may ever be early, beyond the grain of the clock.
LATE, EARLY = 0.15, 0.005


def took(watch, expected):
    return expected - EARLY <= watch.elapsed and watch.took <= expected + LATE


def test_without_faults_bytes_pass_both_ways_unchanged_and_the_end_too():
    data = bytes(range(256)) * 8000
    with serving(echo) as to, FaultProxy(to) as proxy, connect(proxy) as client:
        got = b""
        for start in range(0, len(data), 100_000):
            piece = data[start : start + 100_000]
            client.sendall(piece)
            while len(got) < start + len(piece):
                got += client.recv(65536)
        client.shutdown(socket.SHUT_WR)
        assert got == data
        assert read_all(client) == (b"", "fin")
        assert soon(lambda: proxy.counts == (1, 0, len(data), len(data)))


@pytest.mark.parametrize("direction", ["down", "up"])
def test_latency_delays_one_direction(direction):
    with serving(echo) as to, FaultProxy(to, faults=[Latency(delay="100ms", direction=direction)]) as proxy, connect(proxy) as client:
        for _ in range(2):
            watch = Stopwatch()
            client.sendall(b"ping")
            assert client.recv(10) == b"ping"
            assert took(watch, 0.1)


def test_latency_delays_what_is_on_its_way_together_together():
    """Ten pieces 20 ms apart arrive 20 ms apart, 0.2 s late, not 2 s later."""

    def pieces(connection):
        connection.recv(1)
        for _ in range(10):
            connection.sendall(b"piece")
            time.sleep(0.02)

    with serving(pieces) as to, FaultProxy(to, faults=[Latency(delay=0.2)]) as proxy, connect(proxy) as client:
        watch = Stopwatch()
        client.sendall(b"?")
        assert read_all(client) == (b"piece" * 10, "fin")
        assert took(watch, 0.4)


def test_jitter_stays_in_its_range_and_varies():
    fault = Latency(delay=0.06, jitter=0.05)
    with serving(echo) as to, FaultProxy(to, faults=[fault]) as proxy, connect(proxy) as client:
        delays = []
        for _ in range(8):
            watch = Stopwatch()
            client.sendall(b"x")
            client.recv(1)
            delays.append(watch.elapsed)
            assert watch.took <= 0.11 + LATE
    assert min(delays) >= 0.01 - EARLY
    assert max(delays) - min(delays) > 0.02


def test_bandwidth_takes_the_time_that_the_bytes_take():
    with serving(sending(50_000)) as to, FaultProxy(to, faults=[Bandwidth(rate=100_000)]) as proxy, connect(proxy) as client:
        watch = Stopwatch()
        client.sendall(b"?")
        assert read_all(client) == (b"x" * 50_000, "fin")
        assert took(watch, 0.5)


def test_bandwidth_up_makes_the_sender_wait():
    def sink(connection):
        while connection.recv(65536):
            pass

    with serving(sink) as to, FaultProxy(to, faults=[Bandwidth(rate=1000, direction="up")]) as proxy, connect(proxy, 0.3) as client:
        with pytest.raises(TimeoutError):
            client.sendall(b"x" * 50_000_000)


def test_drip_lets_a_byte_pass_every_so_often():
    with serving(http_server) as to, FaultProxy(to, faults=[Drip(interval=0.05)]) as proxy, connect(proxy) as client:
        client.sendall(b"GET")
        for read, elapsed, took in arrivals(client, 7):
            assert HEAD.startswith(read)
            due = 0.05 * (len(read) - 1)
            assert due - EARLY <= elapsed
            assert took <= due + LATE


def test_drip_of_several_bytes():
    with serving(http_server) as to, FaultProxy(to, faults=[Drip(interval=0.05, size=5)]) as proxy, connect(proxy) as client:
        client.sendall(b"GET")
        for read, elapsed, _ in arrivals(client, 15):
            assert HEAD.startswith(read)
            assert len(read) % 5 == 0
            assert 0.05 * (len(read) // 5 - 1) - EARLY <= elapsed


def test_silence_stays_open_and_says_nothing_more():
    with serving(http_server) as to, FaultProxy(to, faults=[Silence(after=20)]) as proxy, connect(proxy, 0.2) as client:
        client.sendall(b"GET")
        assert read_all(client) == (HEAD[:20], "silence")
        client.sendall(b"still open")
        assert proxy.counts.open == 1
        proxy.clear()
        client.settimeout(3)
        assert client.recv(65536).startswith(HEAD[20:])


def test_silence_up_keeps_the_request_from_the_server():
    with serving(http_server) as to, FaultProxy(to, faults=[Silence(after=2, direction="up")]) as proxy, connect(proxy, 0.1) as client:
        client.sendall(b"GET")
        assert read_all(client)[0] == HEAD + BODY  # two bytes are a request to this server
        assert proxy.counts.up == 2


def test_a_silent_connection_ends_when_its_client_gives_up():
    with serving(http_server) as to, FaultProxy(to, faults=[Silence()]) as proxy:
        with connect(proxy, 0.05) as client:
            client.sendall(b"GET")
            assert read_all(client) == (b"", "silence")
        assert soon(lambda: proxy.counts.open == 0)


def test_reset_after_nothing_kills_connections_as_they_are_made():
    with serving(http_server) as to, FaultProxy(to, faults=[Reset()]) as proxy:
        assert reset_at_once(proxy)
        assert soon(lambda: proxy.counts == (1, 0, 0, 0))


@pytest.mark.parametrize("after", [1, 20])
def test_reset_comes_after_so_many_bytes(after):
    with serving(http_server) as to, FaultProxy(to, faults=[Reset(after=after), Latency(delay=0.02)]) as proxy, connect(proxy) as client:
        client.sendall(b"GET")
        read, end = read_all(client)
        assert end == "rst"
        assert HEAD[:after].startswith(read)  # a RST may overtake bytes
        assert soon(lambda: proxy.counts.down == after)


def test_reset_where_data_waits_for_the_answer():
    """An idle connection is left alone; the server has the request, and its answer is lost."""
    with serving(http_server) as to, FaultProxy(to, faults=[Reset(where="data")]) as proxy, connect(proxy, 0.1) as client:
        assert read_all(client) == (b"", "silence")
        client.settimeout(3)
        client.sendall(b"GET")
        assert read_all(client) == (b"", "rst")
        assert soon(lambda: proxy.counts == (1, 0, 3, 0))


def test_refused_closes_the_port_and_opens_it_again():
    with serving(echo) as to, FaultProxy(to) as proxy, connect(proxy) as old:
        port = proxy.port
        for _ in range(3):
            proxy.set(Refused())
            with pytest.raises(ConnectionRefusedError):
                connect(proxy)
            old.sendall(b"x")
            assert old.recv(1) == b"x"  # connections that exist go on
            proxy.clear()
            assert proxy.port == port
            with connect(proxy) as new:
                new.sendall(b"y")
                assert new.recv(1) == b"y"


def test_refused_from_the_start():
    with serving(echo) as to, FaultProxy(to, faults=[Refused()]) as proxy:
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.clear()
        connect(proxy).close()


def test_half_close_down_ends_what_the_client_reads_and_nothing_else():
    got = []

    def server(connection):
        connection.sendall(b"0123456789")
        while data := connection.recv(100):
            got.append(data)

    with serving(server) as to, FaultProxy(to, faults=[HalfClose(after=4)]) as proxy, connect(proxy) as client:
        assert read_all(client) == (b"0123", "fin")
        time.sleep(0.05)
        client.sendall(b"still heard")
        assert soon(lambda: got == [b"still heard"])


def test_half_close_up_ends_what_the_server_reads_and_nothing_else():
    def server(connection):
        read, end = read_all(connection)
        connection.sendall(read + end.encode())

    with serving(server) as to, FaultProxy(to, faults=[HalfClose(after=4, direction="up")]) as proxy, connect(proxy) as client:
        client.sendall(b"0123456789")
        assert read_all(client) == (b"0123fin", "fin")


@pytest.mark.parametrize(
    ("fault", "read"),
    [
        (Cut(), b""),
        (Cut(after=7), HEAD[:7]),
        (Cut(where="headers"), b"HTTP/1.1 200 OK\r\n"),
        (Cut(where="headers", after=5), b"HTTP/1.1 200 OK\r\nConte"),
        (Cut(where="body"), HEAD),
        (Cut(where="body", after=3), HEAD + b"012"),
    ],
)
def test_cut_is_an_orderly_end_in_the_middle(fault, read):
    with serving(http_server) as to, FaultProxy(to, faults=[fault]) as proxy, connect(proxy) as client:
        client.sendall(b"GET")
        assert read_all(client) == (read, "fin")


@pytest.mark.parametrize(("where", "read"), [("headers", HEAD[:17]), ("body", HEAD)])
def test_a_place_is_found_however_the_bytes_arrive(where, read):
    faults = [Cut(where=where), Drip(interval=0.001)]
    with serving(http_server) as to, FaultProxy(to, faults=faults) as proxy, connect(proxy) as client:
        client.sendall(b"GET")
        assert read_all(client) == (read, "fin")


def test_a_cut_while_the_client_sends_is_orderly_too():
    with serving(echo) as to, FaultProxy(to, faults=[Cut(after=1000, direction="up")]) as proxy, connect(proxy) as client:
        client.sendall(b"x" * 200_000)
        read, end = read_all(client)
        assert end == "fin"
        assert len(read) <= 1000
        assert proxy.counts.up == 1000


def test_tls_stall_reads_the_hello_and_never_answers():
    context = ssl.create_default_context()
    with serving(echo) as to, FaultProxy(to, faults=[TlsStall()]) as proxy:
        with connect(proxy, 0.2) as client, pytest.raises(TimeoutError):
            context.wrap_socket(client, server_hostname="a.test")
        assert proxy.counts.up == 0
        with connect(proxy) as plain:  # not TLS: left alone
            plain.sendall(b"hello")
            assert plain.recv(10) == b"hello"


def test_tls_stall_needs_no_upstream():
    with FaultProxy(faults=[TlsStall()]) as proxy, connect(proxy, 0.1) as client, pytest.raises(TimeoutError):
        ssl.create_default_context().wrap_socket(client, server_hostname="a.test")


def test_trickle_of_1xx_comes_every_interval_before_each_response():
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    fault = Trickle1xx(interval=0.05, count=3, status=100)
    with serving(http_server) as to, FaultProxy(to, faults=[fault]) as proxy, connect(proxy) as client:
        for _ in range(2):
            client.sendall(b"GET")
            whole = interim * 3 + HEAD + BODY
            for read, elapsed, took in arrivals(client, len(whole)):
                assert whole.startswith(read)
                due = 0.05 * min(3, len(read) // len(interim))
                assert due - EARLY <= elapsed
                assert took <= due + LATE


@pytest.mark.parametrize("upstream", [True, False])
def test_trickle_of_1xx_without_a_count_never_lets_the_response_pass(upstream):
    with serving(http_server) as to, FaultProxy(to if upstream else None, faults=[Trickle1xx(interval=0.02)]) as proxy:
        with connect(proxy, 0.1) as client:
            assert read_all(client) == (b"", "silence")  # nobody has asked
            client.sendall(b"GET")
            client.settimeout(3)
            got = arrivals(client, 200)[-1][0]
            assert got.startswith(b"HTTP/1.1 103 Early Hints\r\n")
            assert HEAD not in got


@pytest.mark.parametrize("upstream", [True, False])
def test_endless_headers_do_not_end(upstream):
    with serving(http_server) as to, FaultProxy(to if upstream else None, faults=[EndlessHeaders(interval=0.01)]) as proxy:
        with connect(proxy) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            lines = client.makefile("rb")
            assert lines.readline() == b"HTTP/1.1 200 OK\r\n"
            for n in range(1, 20):
                assert lines.readline() == b"X-Endless-%d: and so on\r\n" % n
            lines.close()


def test_endless_headers_as_fast_as_the_client_reads_leave_the_proxy_responsive():
    with FaultProxy(faults=[EndlessHeaders(interval=0)]) as proxy:
        client = http.client.HTTPConnection(*proxy.address, timeout=3)
        client.request("GET", "/")
        with pytest.raises(http.client.HTTPException, match="more than 100 headers"):
            client.getresponse()
        client.close()
        with connect(proxy) as idle:  # asks and does not read: the proxy may send no more than the kernel takes
            idle.sendall(b"GET")
            assert soon(lambda: proxy.counts.down > 10_000)
            proxy.set(Reset())
            assert soon(lambda: proxy.counts.open == 0)


def test_faults_combine():
    """The fewest bytes, the latest time, the first end."""
    faults = [Latency(delay=0.1), Drip(interval=0.02), Cut(after=4)]
    with serving(http_server) as to, FaultProxy(to, faults=faults) as proxy, connect(proxy) as client:
        watch = Stopwatch()
        client.sendall(b"GET")
        assert read_all(client) == (HEAD[:4], "fin")
        assert took(watch, 0.1 + 3 * 0.02)


def test_a_probability_befalls_its_share_of_the_connections():
    def ends(seed):
        with serving(echo) as to, FaultProxy(to, faults=[Cut(probability=0.5)], seed=seed) as proxy:
            for _ in range(40):
                with connect(proxy) as client:
                    client.sendall(b"x")
                    yield client.recv(1)

    drawn = list(ends(7))
    assert 10 < drawn.count(b"") < 30
    assert drawn == list(ends(7))
    assert drawn != list(itertools.islice(ends(8), 40))
