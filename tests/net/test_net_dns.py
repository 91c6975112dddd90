"""Name look-up under the deadline: bounded in time and in threads, and never what keeps a process from ending."""

from __future__ import annotations

import asyncio
import http.client
import smtplib
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import requests
import urllib3
from net_servers import listening

import holdfast
import watching
from holdfast import DeadlineExceeded, net
from holdfast.deadlines import Deadline
from holdfast.drivers import clock
from holdfast.net import dns
from holdfast.testing.faults import stalled_dns
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

LATE = 0.10
NAME = "db.stalled.test"


def _ours() -> int:
    return sum(thread.name == "holdfast-dns" for thread in threading.enumerate())


_soon = partial(watching.soon, within=2.0)


@pytest.fixture(autouse=True)
def _no_thread_is_left(monkeypatch) -> Iterator[None]:
    """The resolver's threads end once they have been idle."""
    monkeypatch.setattr(dns, "_IDLE", 0.1)
    yield
    holdfast.uninstall()
    assert _soon(lambda: not _ours())


@pytest.fixture
def stalled() -> Iterator[stalled_dns]:
    with stalled_dns(30.0, host="*.stalled.test") as stall:
        yield stall


@contextmanager
def cut_off(seconds: float = 0.15) -> Iterator[None]:
    watch = Stopwatch()
    with pytest.raises(Exception) as raised, holdfast.deadline(seconds):
        yield
    assert seconds - 0.01 <= watch.elapsed, raised.value
    assert watch.took <= seconds + LATE, raised.value
    link: BaseException | None = raised.value
    while link is not None and not isinstance(link, DeadlineExceeded):
        link = getattr(link, "reason", None) or link.__cause__ or link.__context__
        link = link if isinstance(link, BaseException) else None
    assert link is not None or isinstance(raised.value, urllib3.exceptions.HTTPError), raised.value


def test_a_look_up_that_hangs_ends_at_the_deadline(stalled):
    """In blocking and in async code."""
    with cut_off():
        net.getaddrinfo(NAME, 80)

    async def look_up() -> None:
        async with holdfast.deadline(0.1):
            await net.agetaddrinfo(NAME, 80)

    watch = Stopwatch()
    with pytest.raises(DeadlineExceeded):
        asyncio.run(look_up())
    assert watch.took < 0.1 + LATE


def test_a_connection_whose_look_up_hangs_ends_at_its_own_timeout(stalled):
    """The timeout of `connect` is for the look-up too, whether there is a deadline or not, and is no DeadlineExceeded."""
    for seconds in (None, 5.0):
        watch = Stopwatch()
        with pytest.raises(TimeoutError) as raised, holdfast.deadline(float("inf") if seconds is None else seconds):
            net.connect((NAME, 80), timeout=0.1)
        assert not isinstance(raised.value, DeadlineExceeded)
        assert watch.took < 0.1 + LATE


def test_one_look_up_serves_everybody_and_200_that_were_given_up_leave_few_threads(stalled):
    """Names that hang take a thread each up to the bound, however many callers gave up on them, and those end when they are idle."""

    def give_up(number: int) -> None:
        with pytest.raises(DeadlineExceeded), holdfast.deadline(0.02):
            net.getaddrinfo(NAME, 80)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(give_up, range(200)))
    assert _soon(lambda: stalled.hung == 1)
    assert _ours() == 1
    for number in range(200):
        with pytest.raises(DeadlineExceeded), holdfast.deadline(0.005):
            net.getaddrinfo(f"{number}.stalled.test", 80)
    assert _ours() == dns.THREADS
    assert _soon(lambda: stalled.hung == dns.THREADS)
    assert len(dns.RESOLVER._pending) == dns.THREADS  # what nobody waits for any more is not begun


def test_a_look_up_does_not_stand_behind_one_that_hangs(stalled):
    """Two that are asked for in the same moment get a thread each, also when one thread is idle."""
    with holdfast.deadline(2.0):
        net.getaddrinfo("localhost", 80)  # now one thread is idle
    with ThreadPoolExecutor(2) as pool:

        def look_up(name: str, within: float) -> Any:
            with holdfast.deadline(within):
                return net.getaddrinfo(name, 80)

        hung = pool.submit(look_up, NAME, 0.3)
        fine = pool.submit(look_up, "localhost", 10.0)
        assert fine.result()
        assert isinstance(hung.exception(), DeadlineExceeded)


def test_woken_threads_are_not_counted_twice():
    """A burst of questions on one idle thread starts as many threads as there are questions."""
    go = threading.Event()
    running = threading.Semaphore(0)

    def look_up(_name: str, number: int) -> int:
        if number:
            running.release()
            go.wait(5)
        return number

    resolver = dns.Resolver(4, look_up)
    limit = Deadline(clock.now() + 5.0, 5.0, None, None)
    assert resolver.resolve(("look", (0,)), limit) == 0
    assert _soon(lambda: resolver._idle == 1)
    asked = [resolver.ask(("look", (number,)), None) for number in (1, 2, 3)]
    for _ in asked:
        assert running.acquire(timeout=2.0), "a look-up stands behind another"
    go.set()
    assert all(lookup.done.wait(2.0) for lookup in asked)
    assert [lookup.result() for lookup in asked] == [1, 2, 3]


def test_the_resolvers_errors_pass_through():
    """gaierror is what it always was, fresh for each caller; so is a name that cannot be one."""
    for _ in range(2):
        with pytest.raises(socket.gaierror) as raised, holdfast.deadline(5.0), stalled_dns(0):
            net.getaddrinfo("no-such-name.invalid", 80)
        assert raised.value.errno is not None
    with pytest.raises(UnicodeError), holdfast.deadline(5.0):
        net.getaddrinfo("a" * 64 + ".test", 80)


def test_addresses_need_no_thread():
    """Neither do look-ups without a deadline."""
    with holdfast.deadline(1.0):
        assert net.getaddrinfo("127.0.0.1", 80)[0][4][:2] == ("127.0.0.1", 80)
        assert net.getaddrinfo(b"::1", 80)
        assert net.getaddrinfo(None, 80)
    assert net.getaddrinfo("localhost", 80)
    assert asyncio.run(net.agetaddrinfo("127.0.0.1", 80))
    assert not _ours()


def test_answers_are_the_callers_own():
    """Callers that share a look-up do not share its list."""
    with holdfast.deadline(2.0):
        first, second = net.getaddrinfo("localhost", 80), net.getaddrinfo("localhost", 80)
    assert first == second == socket.getaddrinfo("localhost", 80)
    first.clear()
    assert second


def test_a_thread_that_cannot_be_started_is_said(monkeypatch):
    """Without a thread nobody would ever answer; the next question is not joined to one that nobody asks."""
    resolver = dns.Resolver(1, lambda name, value: value)
    limit = Deadline(clock.now() + 2.0, 2.0, None, None)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            resolver.resolve(("look", (1,)), limit)
    assert resolver.resolve(("look", (1,)), limit) == 1


EXIT = """
import asyncio, sys, holdfast
from holdfast.testing.faults import stalled_dns
stalled_dns(30.0).__enter__()
holdfast.install()
import socket, urllib.request
def sync():
    try:
        with holdfast.deadline(0.1):
            urllib.request.urlopen("http://db.stalled.test/")
    except OSError as error:
        print(type(error).__name__)
async def main():
    try:
        async with holdfast.deadline(0.1):
            await asyncio.get_running_loop().getaddrinfo("db.stalled.test", 80)
    except TimeoutError as error:
        print(type(error).__name__)
sync() if sys.argv[1] == "sync" else asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_process_ends_while_a_look_up_hangs(kind):
    """It has 30 s to go, and the process does not wait for it."""
    done = subprocess.run([sys.executable, "-c", EXIT, kind], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in {"URLError", "DeadlineExceeded"}


# What install() reaches.


def _smtp() -> None:
    smtplib.SMTP(NAME, 25, local_hostname="here")


REACHED = {
    "socket.create_connection": lambda: socket.create_connection((NAME, 80)),
    "socket.gethostbyname": lambda: socket.gethostbyname(NAME),
    "http.client": lambda: http.client.HTTPConnection(NAME, 80).request("GET", "/"),
    "urllib.request": lambda: urllib.request.urlopen(f"http://{NAME}/"),
    "urllib3": lambda: urllib3.PoolManager().request("GET", f"http://{NAME}/"),
    "requests": lambda: requests.get(f"http://{NAME}/", proxies={"http": ""}),
    "httpx": lambda: httpx.get(f"http://{NAME}/", timeout=None, trust_env=False, verify=False),  # reading certificates takes its time
    "smtplib": _smtp,
}


@pytest.mark.parametrize("name", REACHED)
def test_install_reaches_look_ups(name, monkeypatch):
    """Of clients that know nothing of holdfast."""
    monkeypatch.setattr(socket, "gethostbyname", _hangs)  # stalled_dns is for getaddrinfo
    with stalled_dns(30.0, host="*.stalled.test"):
        holdfast.install()
        with cut_off():
            REACHED[name]()
        holdfast.uninstall()
    _RELEASE.set()
    assert _soon(lambda: not _ours())
    _RELEASE.clear()


_RELEASE = threading.Event()


def _hangs(*_args: object) -> str:
    _RELEASE.wait(30)
    return "127.0.0.1"


@pytest.mark.parametrize("name", [name for name in REACHED if not name.startswith("socket.")])
def test_install_reaches_reads(name, monkeypatch):
    """A server that accepts and says nothing is cut off at the deadline, whatever the client's own timeout."""
    with listening() as listener:
        port = listener.getsockname()[1]
        calls: dict[str, Callable[[], object]] = {
            "http.client": lambda: _ask(port),
            "urllib.request": lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20),
            "urllib3": lambda: urllib3.PoolManager().request("GET", f"http://127.0.0.1:{port}/", retries=False),
            "requests": lambda: requests.get(f"http://127.0.0.1:{port}/", timeout=20, proxies={"http": ""}),
            "httpx": lambda: httpx.get(f"http://127.0.0.1:{port}/", timeout=20, trust_env=False, verify=False),
            "smtplib": lambda: smtplib.SMTP("127.0.0.1", port, local_hostname="here"),
        }
        holdfast.install()
        with cut_off():
            calls[name]()


def _ask(port: int) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port)
    try:
        client.request("GET", "/")
        client.getresponse()
    finally:
        client.close()


def test_install_keeps_what_look_ups_answer():
    """With and without a deadline, the same as before."""
    asks: list[Callable[[], object]] = [
        lambda: socket.getaddrinfo("localhost", 80),
        lambda: socket.gethostbyname("localhost"),
        lambda: socket.gethostbyname(""),
        lambda: socket.gethostbyname_ex("localhost"),
        lambda: socket.gethostbyaddr("127.0.0.1"),
        lambda: socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV),
    ]
    before = [ask() for ask in asks]
    holdfast.install()
    assert [ask() for ask in asks] == before
    with holdfast.deadline(5.0):
        assert [ask() for ask in asks] == before

    async def in_loop() -> Any:
        return await asyncio.get_running_loop().getaddrinfo("localhost", 80)

    assert asyncio.run(in_loop()) == before[0]
