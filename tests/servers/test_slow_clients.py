"""Clients that send the body of their request as slowly as they can."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from serving import Served, eventually, serve

from holdfast.deadlines import Deadline
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded
from holdfast.servers.body_wsgi import BoundedBody
from stopwatch import Stopwatch

SOURCE = """
from holdfast.servers import Idempotency, MemoryStore
from holdfast.servers.wsgi import Shield

def inner(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

app = Shield(inner, deadline=1.0, idempotency=Idempotency(MemoryStore()))
"""


def dribble(served: Served, head: bytes, piece: bytes, give_up: float = 10.0) -> tuple[bytes, float]:
    """Send a piece of the body now and then until somebody answers: the first of the answer, and how long it took."""
    watch = Stopwatch(served.process.pid)
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.settimeout(0.1)
        client.sendall(b"POST / HTTP/1.1\r\nHost: here\r\n" + head + b"\r\n")
        while watch.elapsed < give_up:
            client.sendall(piece)
            try:
                return client.recv(12), watch.took
            except TimeoutError:
                continue
    return b"", give_up


@pytest.mark.realtime
@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_a_client_that_sends_its_body_byte_by_byte_holds_no_worker_past_the_deadline(kind: str, tmp_path: Path) -> None:
    served = serve(kind, tmp_path, SOURCE)
    with served.process:
        ways = [(b"Content-Length: 5000\r\n", b"x"), (b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n")]
        # With a key it is not the application that reads, but the shield itself.
        for head, piece in [*ways, (b"Idempotency-Key: k\r\n" + ways[0][0], b"x")]:
            answer, took = dribble(served, head, piece)
            assert answer == b"HTTP/1.1 504"
            assert took < 3.0
        assert eventually(lambda: served.get(method="POST", body=b"whole" * 10_000).body == b"whole" * 10_000)


Bounded = Callable[[float], tuple[BoundedBody, socket.socket]]


@pytest.fixture
def bounded() -> Iterator[Bounded]:
    """A body under a deadline, and the socket of its client."""
    with ExitStack() as ends:

        def make(seconds: float) -> tuple[BoundedBody, socket.socket]:
            ours, theirs = (ends.enter_context(end) for end in socket.socketpair())
            now = clock.now()
            source = ends.enter_context(ours.makefile("rb"))
            return BoundedBody(source, Deadline(now + seconds, seconds, None, None), ours), theirs

        yield make


def test_a_body_that_comes_in_time_is_read_as_ever(bounded: Bounded) -> None:
    body, client = bounded(5.0)
    client.sendall(b"one\ntwo\nthree")
    client.shutdown(socket.SHUT_WR)
    assert (body.readline(), body.read(2), list(body)) == (b"one\n", b"tw", [b"o\n", b"three"])
    assert body.read() == b""


@pytest.mark.realtime
def test_reading_ends_at_the_deadline_and_the_answer_can_still_be_written(bounded: Bounded) -> None:
    body, client = bounded(0.2)
    client.sendall(b"one")
    watch = Stopwatch()
    with pytest.raises(DeadlineExceeded):
        body.read(100)
    assert 0.15 < watch.elapsed
    assert watch.took < 1.0
    body._sock.sendall(b"late")
    assert client.recv(4) == b"late"


@pytest.mark.realtime
def test_a_shorter_deadline_is_not_held_up_by_a_longer_one(bounded: Bounded) -> None:
    slow, slow_client = bounded(30.0)
    reading = threading.Thread(target=slow.read, args=(3,))
    reading.start()
    time.sleep(0.05)
    body, _client = bounded(0.2)
    watch = Stopwatch()
    with pytest.raises(DeadlineExceeded):
        body.read(1)
    assert watch.took < 1.0
    slow_client.sendall(b"now")
    reading.join(5.0)
    assert not reading.is_alive()


@pytest.mark.realtime
def test_a_fork_has_a_thread_of_its_own_for_it(bounded: Bounded) -> None:
    body, _client = bounded(0.05)
    with pytest.raises(DeadlineExceeded):
        body.read(1)
    child = os.fork()
    if child == 0:
        again, _its_client = bounded(0.1)
        try:
            again.read(1)
        except DeadlineExceeded:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
