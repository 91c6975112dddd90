"""Sockets under the ambient deadline, on real connections: with `holdfast.net`'s own classes and with `install()`."""

from __future__ import annotations

import errno
import gc
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from net_servers import listening, serving, tls_pair

import holdfast
from certificates import client_context
from holdfast import DeadlineExceeded, net
from holdfast.net import clamp, eyeballs
from holdfast.net.sockets import PLAIN, TLS
from holdfast.testing.faults import Drip, FaultProxy, TlsStall
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

LATE = 0.10
PLAIN_ONLY = ["ours", "installed"]  # OpenSSL's connections belong to one thread at a time
BIG = b"x" * 20_000_000  # more than the kernel's buffers hold


@pytest.fixture(autouse=True)
def _nothing_held() -> Iterator[None]:
    """No test leaves a socket whose timeout is not its own."""
    yield
    assert not clamp.holds
    holdfast.uninstall()
    gc.collect()


@contextmanager
def cut_off(seconds: float) -> Iterator[None]:
    """The block must raise DeadlineExceeded, and at that time."""
    watch = Stopwatch()
    with pytest.raises(DeadlineExceeded) as raised, holdfast.deadline(seconds):
        yield
    assert seconds - 0.01 <= watch.elapsed
    assert watch.took <= seconds + LATE
    assert raised.value.budget == seconds


@pytest.fixture(params=["ours", "installed", "ours, TLS", "installed, TLS"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected client that obeys the deadline, and its peer, which does what the test does."""
    if request.param.startswith("installed"):
        holdfast.install()
    with ExitStack() as stack:
        if request.param.endswith("TLS"):
            client, server = stack.enter_context(tls_pair(ours=request.param.startswith("ours")))
        else:
            listener = stack.enter_context(listening())
            ours = request.param == "ours"
            client = stack.enter_context((net.connect if ours else socket.create_connection)(listener.getsockname()[:2]))
            server = stack.enter_context(listener.accept()[0])
        yield client, server


def test_receiving_from_a_silent_peer_ends_at_the_deadline(pair):
    """recv, recv_into and a file made of the socket wait no longer than the deadline, and the socket's timeout is as before."""
    client, server = pair
    client.settimeout(7.0)
    for receive in (lambda: client.recv(1), lambda: client.recv_into(bytearray(1))):
        with cut_off(0.1):
            receive()
        assert client.gettimeout() == 7.0
    with client.makefile("rb") as file, cut_off(0.1):
        file.read(1)
    server.sendall(b"!")
    assert client.recv(1) == b"!"


def test_a_peer_that_drips_ends_at_the_deadline(pair):
    """Each receive is answered in good time, and the deadline ends them all the same."""
    client, server = pair
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.02):
            server.sendall(b".")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        with cut_off(0.3):
            while True:
                client.recv(1)
    finally:
        over.set()
        thread.join()


def test_sending_to_a_peer_that_does_not_read_ends_at_the_deadline(pair, tmp_path: Path):
    """sendall and sendfile wait no longer than the deadline."""
    client, _ = pair
    with cut_off(0.15):
        client.sendall(BIG)
    (tmp_path / "big").write_bytes(BIG)
    with (tmp_path / "big").open("rb") as file, cut_off(0.1):
        client.sendfile(file)


def test_what_is_sent_in_pieces_arrives_whole(pair, tmp_path: Path):
    """A large sendall and a sendfile under a deadline send each byte once."""
    client, server = pair
    data = bytes(range(256)) * 8000
    (tmp_path / "data").write_bytes(data)

    def send() -> None:
        with holdfast.deadline(10.0), (tmp_path / "data").open("rb") as file:
            client.sendall(data)
            client.sendfile(file)

    thread = threading.Thread(target=send)
    thread.start()
    got = bytearray()
    while len(got) < 2 * len(data):
        got += server.recv(65536)
    thread.join()
    assert got == data + data


def test_an_own_timeout_that_is_shorter_stays_a_timeout_error(pair):
    """A socket's own timeout that passes first is TimeoutError and says nothing of the deadline, for receiving and sending."""
    client, _ = pair
    client.settimeout(0.1)
    for operation in (lambda: client.recv(1), lambda: client.sendall(BIG)):
        watch = Stopwatch()
        with pytest.raises(TimeoutError) as raised, holdfast.deadline(3.0):
            operation()
        assert not isinstance(raised.value, DeadlineExceeded)
        assert watch.took < 0.1 + LATE
        assert client.gettimeout() == 0.1


def test_a_socket_that_does_not_wait_is_left_alone(pair):
    """Non-blocking sockets raise what they always raised, even when the deadline has passed."""
    client, _ = pair
    client.setblocking(False)
    with holdfast.deadline(0), pytest.raises((BlockingIOError, ssl.SSLWantReadError)):
        client.recv(1)
    assert client.gettimeout() == 0.0


def test_a_deadline_that_has_passed_touches_nothing(pair):
    """After the deadline nothing is sent at all."""
    client, server = pair
    with holdfast.deadline(0), pytest.raises(DeadlineExceeded):
        client.send(b"late")
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        server.recv(1)


@pytest.mark.parametrize("pair", PLAIN_ONLY, indirect=True)
def test_threads_with_different_deadlines_share_a_socket(pair):
    """Each of three threads on one socket is cut off at its own time, and the one without a deadline gets what comes."""
    client, server = pair
    elapsed: dict[float, float] = {}
    took: dict[float, float] = {}

    def receive(seconds: float) -> object:
        watch = Stopwatch()
        try:
            if seconds == 0:
                return client.recv(1)
            with holdfast.deadline(seconds):
                return client.recv(1)
        except Exception as error:
            return error
        finally:
            elapsed[seconds], took[seconds] = watch.elapsed, watch.took

    with ThreadPoolExecutor(3) as pool:
        # The kernel gives the byte to one of them, so the one without a deadline is the last that is left.
        futures = {seconds: pool.submit(receive, seconds) for seconds in (0.2, 0.4, 0)}
        assert isinstance(futures[0.2].result(), DeadlineExceeded)
        assert isinstance(futures[0.4].result(), DeadlineExceeded)
        server.sendall(b"!")
        assert futures[0].result() == b"!"
    for seconds in (0.2, 0.4):
        assert seconds <= elapsed[seconds]
        assert took[seconds] < seconds + LATE
    assert client.gettimeout() is None


@pytest.mark.parametrize("pair", PLAIN_ONLY, indirect=True)
def test_a_thread_without_a_deadline_never_sees_the_timeout_of_one_that_had_one(pair):
    """It began to wait while another held the socket, whose short timeout ends after that other has let go."""
    client, server = pair
    began = threading.Event()

    def receive() -> object:
        began.set()
        try:
            return client.recv(1)
        except Exception as error:
            return error

    with ThreadPoolExecutor(1) as pool:
        limit = holdfast.deadline(0.3)
        with limit:
            held = clamp._hold(client)  # an operation of this thread is under way
            client.settimeout(0.2)
            future = pool.submit(receive)
            began.wait()
            time.sleep(0.05)
            clamp._let_go(client, held)
        time.sleep(0.3)
        assert not future.done()
        server.sendall(b"!")
        assert future.result() == b"!"


def test_what_the_kernel_gave_up_is_raised_at_once(monkeypatch):
    """ETIMEDOUT of a connection is a TimeoutError too, but no timeout of the socket: it must not be tried again."""
    client, server = socket.socketpair()
    with client, server:
        calls = []

        def dead(*_args: Any) -> bytes:
            calls.append(1)
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

        with holdfast.deadline(1.0), pytest.raises(TimeoutError, match="Connection timed out"):
            clamp.bounded(client, dead)
        assert len(calls) == 1


def test_sendall_keeps_its_own_timeout_for_the_whole(pair):
    """Like the system's: a peer that reads a little now and then does not lengthen it."""
    client, server = pair
    client.settimeout(0.3)
    over = threading.Event()

    def sip() -> None:
        while not over.wait(0.05):
            server.recv(200_000)

    thread = threading.Thread(target=sip)
    thread.start()
    try:
        watch = Stopwatch()
        with holdfast.deadline(5.0), pytest.raises(TimeoutError):
            client.sendall(BIG)
        assert watch.took < 0.3 + 0.3 + LATE
    finally:
        over.set()
        thread.join()


# Connections.


@contextmanager
def full_queue() -> Iterator[tuple[str, int]]:
    """An address where connecting hangs: nobody accepts, and the queue of those who wait is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield listener.getsockname()


def test_connecting_where_nobody_accepts_ends_at_the_deadline_or_the_timeout():
    """Whichever is first, and it says which; with `connect`, a bare socket and `create_connection` under install()."""
    with full_queue() as address:
        with cut_off(0.15):
            net.connect(address)
        with cut_off(0.15):
            net.connect(address, timeout=5.0)
        with pytest.raises(TimeoutError) as raised, holdfast.deadline(5.0):
            net.connect(address, timeout=0.1)
        assert not isinstance(raised.value, DeadlineExceeded)
        with pytest.raises(TimeoutError):
            net.connect(address, timeout=0.1)
        holdfast.install()
        with cut_off(0.15):
            socket.create_connection(address)
        with socket.socket() as bare, cut_off(0.15):
            bare.connect(address)


def test_a_refused_connection_is_refused_at_once():
    """The error is the system's."""
    with listening() as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError), holdfast.deadline(5.0):
        net.connect(address)
    holdfast.install()
    with pytest.raises(ConnectionRefusedError), holdfast.deadline(5.0):
        socket.create_connection(address)


def _found(*addresses: tuple[str, int]) -> Callable[..., Any]:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    return lambda *_args, **_options: found


def test_the_second_address_answers_when_the_first_is_dead(monkeypatch):
    """A black hole before a server costs a quarter of a second, and not the deadline."""
    with full_queue() as hole, listening() as listener:
        monkeypatch.setattr(eyeballs, "getaddrinfo", _found(hole, listener.getsockname()))
        watch = Stopwatch()
        with holdfast.deadline(2.0), net.connect(("host.test", 80), timeout=1.0) as client:
            assert client.getpeername() == listener.getsockname()
            assert client.gettimeout() == 1.0
        assert 0.2 < watch.elapsed
        assert watch.took < 0.25 + LATE


def test_a_refusal_makes_way_at_once(monkeypatch):
    """What follows an address that failed is not made to wait, also behind a black hole."""
    with full_queue() as hole, listening() as listener:
        with listening() as other:
            closed = other.getsockname()
        monkeypatch.setattr(eyeballs, "getaddrinfo", _found(closed, closed, listener.getsockname()))
        watch = Stopwatch()
        with net.connect(("host.test", 80)):
            assert watch.took < LATE
        monkeypatch.setattr(eyeballs, "getaddrinfo", _found(hole, closed, listener.getsockname()))
        watch = Stopwatch()
        with net.connect(("host.test", 80)):
            assert watch.took < 0.25 + LATE
        monkeypatch.setattr(eyeballs, "getaddrinfo", _found(closed, closed))
        with pytest.raises(ConnectionRefusedError):
            net.connect(("host.test", 80))
        monkeypatch.setattr(eyeballs, "getaddrinfo", _found())
        with pytest.raises(OSError, match="no address"):
            net.connect(("host.test", 80))


def test_a_connection_that_lost_the_race_is_closed(monkeypatch):
    """Both answer in the end, and one is kept."""
    with listening() as first, listening() as second, full_queue() as hole:
        before = len(list(Path("/proc/self/fd").iterdir()))
        monkeypatch.setattr(eyeballs, "getaddrinfo", _found(hole, first.getsockname(), second.getsockname()))
        net.connect(("host.test", 80)).close()
        with cut_off(0.1):
            monkeypatch.setattr(eyeballs, "getaddrinfo", _found(hole, hole))
            net.connect(("host.test", 80))
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_families_take_turns():
    """IPv6 and IPv4 alternate, in the order of the resolver."""
    six = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (f"::{number}", 1, 0, 0)) for number in range(3)]
    four = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 1))]
    assert [info[4][0] for info in net.interleave([*six, *four])] == ["::0", "10.0.0.1", "::1", "::2"]
    assert net.interleave([]) == []


# TLS handshakes.


@pytest.mark.parametrize("installed", [False, True], ids=["ours", "installed"])
def test_a_handshake_that_stalls_ends_at_the_deadline(installed):
    """And its own timeout stays a TimeoutError."""
    if installed:
        holdfast.install()
    with FaultProxy(faults=[TlsStall()]) as proxy:

        def shake(timeout: float | None) -> None:
            with socket.create_connection(proxy.address, timeout) if installed else net.connect(proxy.address, timeout) as client:
                if installed:
                    client_context().wrap_socket(client, server_hostname="localhost").close()
                else:
                    net.wrap_tls(client, client_context(), "localhost").close()

        with cut_off(0.15):
            shake(None)
        with pytest.raises(TimeoutError) as raised, holdfast.deadline(3.0):
            shake(0.1)
        assert not isinstance(raised.value, DeadlineExceeded)


def test_a_handshake_that_drips_ends_at_the_deadline():
    """Its bytes come one by one, each in good time."""
    with serving(lambda connection: connection.recv(1), tls=True) as address, FaultProxy(address, faults=[Drip(interval=0.01)]) as proxy:
        with cut_off(0.2), net.connect(proxy.address) as client:
            net.wrap_tls(client, client_context(), "localhost")


def test_threads_that_shake_hands_with_one_context_are_all_bound():
    """The context is shared, and each connection made with it obeys the deadline; the context is as it was."""
    context = client_context()

    def talk(address: tuple[str, int]) -> type:
        with holdfast.deadline(5.0), net.wrap_tls(net.connect(address), context, "localhost") as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            return type(client)

    def echo(connection: socket.socket) -> None:
        connection.sendall(connection.recv(1))

    with serving(echo, tls=True) as address, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(talk, [address] * 64)) == {net.TLSSocket}
    assert context.sslsocket_class is ssl.SSLSocket


def test_a_failed_handshake_is_the_systems_error():
    """A certificate that is not trusted is no deadline's business."""
    with serving(lambda connection: None, tls=True) as address, holdfast.deadline(3.0), net.connect(address) as client:
        with pytest.raises(ssl.SSLCertVerificationError):
            net.wrap_tls(client, ssl.create_default_context(), "localhost")


# install and uninstall.


def test_install_and_uninstall_leave_no_trace():
    """Twice is once, and afterwards every class and module is as it was."""
    import asyncio.base_events

    owners = [socket.socket, ssl.SSLSocket, socket, asyncio.base_events.BaseEventLoop]
    before = [dict(vars(owner)) for owner in owners]
    holdfast.uninstall()
    holdfast.install()
    during = [dict(vars(owner)) for owner in owners]
    holdfast.install()
    assert [dict(vars(owner)) for owner in owners] == during
    assert all(name in vars(socket.socket) for name in PLAIN)
    assert all(vars(ssl.SSLSocket)[name] is not before[1][name] for name in TLS)
    holdfast.uninstall()
    holdfast.uninstall()
    assert [dict(vars(owner)) for owner in owners] == before


def test_sockets_that_exist_obey_too():
    """What was connected before install() is bound after it, and free after uninstall()."""
    client, server = socket.socketpair()
    with client, server:
        holdfast.install()
        with cut_off(0.05):
            client.recv(1)
        with cut_off(0.05):
            client.recvfrom(1)
        with cut_off(0.05):
            client.recvmsg(1)
        holdfast.uninstall()
        client.settimeout(0.05)
        with pytest.raises(TimeoutError), holdfast.deadline(0.01):
            client.recv(1)


def test_accepting_ends_at_the_deadline():
    """A server's loop that accepts under a deadline."""
    holdfast.install()
    with listening() as listener, cut_off(0.1):
        listener.accept()


def test_the_servers_side_of_tls_is_bound_too():
    """unwrap waits for the peer's last word, which need not come."""
    holdfast.install()
    with tls_pair(ours=False) as (client, _server), cut_off(0.1):
        client.unwrap()


# Waiting, and options.


def test_waiting_for_a_socket():
    """wait_readable and wait_writable end at the deadline, the timeout, or when there is something."""
    client, server = socket.socketpair()
    with client, server:
        with cut_off(0.1):
            net.wait_readable(client)
        with pytest.raises(TimeoutError) as raised, holdfast.deadline(3.0):
            net.wait_readable(client, 0.05)
        assert not isinstance(raised.value, DeadlineExceeded)
        assert not net.is_readable(client)
        net.wait_writable(client, 1.0)
        server.sendall(b"!")
        net.wait_readable(client)
        assert net.is_readable(client)
        with holdfast.deadline(0), pytest.raises(DeadlineExceeded):
            net.wait_readable(client)
    assert net.is_readable(client)


@pytest.mark.parametrize(("dead_after", "idle", "interval"), [(5.0, 5, 1), (30.0, 15, 5), (1.0, 1, 1), (0.5, 1, 1), ("60s", 30, 10)])
def test_tcp_options(dead_after, idle, interval):
    """Keepalive and TCP_USER_TIMEOUT are what the kernel then says."""
    with socket.socket() as sock:
        options = net.TcpOptions(dead_after=dead_after)
        assert options.apply(sock) == []
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == int(options.dead_after * 1000)
        keepalive = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        assert keepalive[1] == interval
        assert keepalive[0] + 3 * interval <= max(options.dead_after, 4)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "soon", None])
def test_tcp_options_are_checked(wrong):
    """A wrong length of time names the field."""
    with pytest.raises((ValueError, TypeError), match=r"TcpOptions\.dead_after"):
        net.TcpOptions(dead_after=wrong)
