"""Deadlines of requests under real servers: the answer comes in time, the work stops, the client's going is noticed."""

import json
import re
import socket
import time

import pytest
from serving import eventually, serve

from stopwatch import Stopwatch

ASGI = """
import asyncio, os, sys, time, threading
import holdfast
from holdfast.servers.asgi import Shield

def note(text):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(text + "\\n")

async def sleep(seconds):
    if "trio" in sys.modules:
        import trio
        if trio.lowlevel.in_trio_run():
            return await trio.sleep(seconds)
    await asyncio.sleep(seconds)

async def in_thread(work):
    import anyio.to_thread
    await anyio.to_thread.run_sync(work)

def stubborn():
    time.sleep(0.9)
    note("stubborn: done")

def asking():
    try:
        while True:
            holdfast.check()
            time.sleep(0.01)
    except holdfast.DeadlineExceeded as error:
        note(f"asking: {type(error).__name__}")
        raise

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    note(f"{path}: began")
    body = b""
    if path == "/echo":
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body")
            await sleep(0.08 if len(body) < 100000 else 0.001)
    try:
        if path == "/slow":
            await sleep(30)
        elif path == "/thread":
            await in_thread(stubborn)
        elif path == "/asking":
            await in_thread(asking)
        elif path == "/left":
            body = str(holdfast.remaining()).encode()
        elif path == "/background":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
            await sleep(1.0)
            note("background: done")
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if path == "/stream":
            for number in range(100):
                await send({"type": "http.response.body", "body": b"x" * 10, "more_body": True})
                await sleep(0.1)
        await send({"type": "http.response.body", "body": body or b"ok"})
    finally:
        note(f"{path}: ended")

holdfast.events.subscribe(lambda event: note(f"{type(event).__name__}: {getattr(event, 'outside', 0):.1f}"))
app = Shield(app, deadline={"/": 0.5, "/wait": 30, "/left": 20, "/slow/30": 30, "/echo": 20})
"""

WSGI = """
import os, time, socket
import holdfast
from holdfast.servers.wsgi import Shield

def note(text):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(text + "\\n")

def pieces():
    try:
        for number in range(100):
            yield b"x" * 10
            time.sleep(0.1)
    finally:
        note("/stream: ended")

def app(environ, start_response):
    path = environ["PATH_INFO"]
    note(f"{path}: began")
    body = b"ok"
    try:
        if path == "/busy":
            while True:
                pass
        elif path == "/sleep":
            time.sleep(0.9)
        elif path == "/asking":
            while True:
                holdfast.check()
                time.sleep(0.01)
        elif path == "/socket":
            holdfast.install()
            ours, theirs = socket.socketpair()
            ours.recv(1)
        elif path == "/hidden":
            try:
                time.sleep(30)
            except Exception:
                start_response("500 Hidden", [])
                return [b"hidden"]
        elif path == "/echo":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        elif path == "/left":
            body = str(holdfast.remaining()).encode()
        if path.startswith("/wait"):
            if path == "/wait/socket":
                holdfast.install()
                ours, theirs = socket.socketpair()
                ours.recv(1)
            while path == "/wait/asking":
                holdfast.check()
                time.sleep(0.01)
            time.sleep(30)
        start_response("200 OK", [])
        return pieces() if path == "/stream" else [body]
    except BaseException as error:
        note(f"{path}: {type(error).__name__}")
        raise
    finally:
        note(f"{path}: ended")

holdfast.events.subscribe(lambda event: note(f"{type(event).__name__}: {getattr(event, 'outside', 0):.1f}"))
app = Shield(app, deadline={"/": 0.5, "/wait": 30, "/left": 20})
"""


class Site:
    """A served application and what it noted."""

    def __init__(self, served, notes):
        self.served = served
        self.notes = notes
        self.get = served.get

    def noted(self, text):
        return eventually(lambda: self.notes.exists() and text in self.notes.read_text().splitlines())

    def leave(self, path, when):
        """Ask, and go away without waiting for the answer once this is so; what runs from then on."""
        with socket.create_connection(("127.0.0.1", self.served.port)) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert eventually(when)
            return Stopwatch(self.served.process.pid)


def site(kind, source, folder, monkeypatch, *options):
    notes = folder / "notes"
    monkeypatch.setenv("NOTES", str(notes))
    return Site(serve(kind, folder, source, *options), notes)


ASGI_SERVERS = ["uvicorn", "uvicorn-worker", "hypercorn", "hypercorn-trio"]
WSGI_SERVERS = ["sync", "gthread"]


@pytest.fixture(scope="module", params=ASGI_SERVERS)
def asgi(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        found = site(request.param, ASGI, tmp_path_factory.mktemp("asgi"), patch)
        found.kind = request.param
        with found.served.process:
            yield found


@pytest.fixture(scope="module", params=WSGI_SERVERS)
def wsgi(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        options = ("-w", "2") if request.param == "sync" else ()
        found = site(request.param, WSGI, tmp_path_factory.mktemp("wsgi"), patch, *options)
        found.kind = request.param
        with found.served.process:
            yield found


def assert_late(answer, budget=0.5, slack=0.35):
    assert answer.status == 504, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["code"] == "deadline-exceeded"
    assert budget - 0.02 <= answer.elapsed
    assert answer.took <= budget + slack


@pytest.mark.realtime
def test_asgi_slow_work_is_cancelled_at_the_deadline_and_its_clean_up_runs(asgi):
    assert_late(asgi.get("/slow"))
    assert asgi.noted("/slow: ended")


@pytest.mark.realtime
def test_asgi_the_answer_comes_at_the_deadline_though_a_thread_cannot_be_stopped_and_that_is_reported(asgi):
    assert_late(asgi.get("/thread"))
    assert asgi.noted("stubborn: done")
    assert eventually(lambda: re.search(r"DeadlineOutrun: (0\.[3-9]|[1-9])", asgi.notes.read_text()))


@pytest.mark.realtime
def test_asgi_a_thread_that_asks_is_stopped(asgi):
    assert_late(asgi.get("/asking"))
    assert asgi.noted("asking: DeadlineExceeded")


@pytest.mark.realtime
def test_asgi_a_response_that_has_begun_is_cut_off_and_not_ended_as_if_it_were_whole(asgi):
    import http.client

    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        asgi.get("/stream")
    assert asgi.noted("/stream: ended")


@pytest.mark.realtime
def test_asgi_what_runs_after_the_response_is_not_cut_off(asgi):
    assert asgi.get("/background").took < 0.4
    assert asgi.noted("background: done")


@pytest.mark.realtime
def test_asgi_the_callers_header_shortens_the_deadline_and_never_lengthens_it(asgi):
    assert_late(asgi.get("/slow", {"X-Request-Timeout-Ms": "200"}), 0.2)
    assert_late(asgi.get("/slow", {"grpc-timeout": "200m"}), 0.2)
    assert_late(asgi.get("/slow", {"X-Request-Timeout-Ms": "99999999"}))
    assert_late(asgi.get("/slow", {"X-Request-Timeout-Ms": "junk"}))
    assert float(asgi.get("/left", {"X-Request-Timeout-Ms": "99999999"}).body) <= 20


@pytest.mark.realtime
def test_asgi_the_client_that_goes_away_ends_the_work(asgi):
    watch = asgi.leave("/slow/30", lambda: asgi.noted("/slow/30: began"))
    assert asgi.noted("/slow/30: ended")
    assert watch.took < 1.5


@pytest.mark.realtime
def test_asgi_a_body_that_is_read_slowly_comes_whole_though_the_client_is_watched(asgi):
    body = bytes(range(256)) * 2000
    answer = asgi.get("/echo", method="POST", body=body)
    assert answer.status == 200
    assert answer.body == body


@pytest.mark.realtime
def test_wsgi_work_that_asks_or_waits_on_a_socket_is_stopped(wsgi):
    assert_late(wsgi.get("/asking"))
    assert_late(wsgi.get("/socket"))
    assert wsgi.noted("/socket: DeadlineExceeded")


@pytest.mark.realtime
def test_wsgi_a_busy_loop_is_stopped_in_the_sync_worker_and_reported_where_it_cannot_be(wsgi):
    if wsgi.kind == "sync":
        assert_late(wsgi.get("/busy"))
        assert wsgi.noted("/busy: DeadlineExceeded")
    else:
        answer = wsgi.get("/sleep")
        assert answer.status == 504
        assert eventually(lambda: re.search(r"DeadlineOutrun: (0\.[3-9]|[1-9])", wsgi.notes.read_text()))


@pytest.mark.realtime
def test_wsgi_an_error_page_that_hides_the_deadline_does_not_go_out(wsgi):
    if wsgi.kind == "sync":
        assert_late(wsgi.get("/hidden"))


@pytest.mark.realtime
def test_wsgi_a_response_that_has_begun_is_cut_off_and_not_ended_as_if_it_were_whole(wsgi):
    import http.client

    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        wsgi.get("/stream")
    assert wsgi.noted("/stream: ended")


@pytest.mark.realtime
def test_wsgi_the_callers_header_shortens_the_deadline_and_never_lengthens_it(wsgi):
    assert_late(wsgi.get("/asking", {"X-Request-Timeout-Ms": "200"}), 0.2)
    assert_late(wsgi.get("/asking", {"grpc-timeout": "9H"}))
    assert float(wsgi.get("/left", {"grpc-timeout": "9H"}).body) <= 20


@pytest.mark.realtime
@pytest.mark.parametrize("path", ["/wait/asking", "/wait/socket", "/wait/asleep"])
def test_wsgi_the_client_that_goes_away_ends_the_work(wsgi, path):
    if path == "/wait/asleep" and wsgi.kind != "sync":
        return  # nothing wakes a sleeping thread
    watch = wsgi.leave(path, lambda: wsgi.noted(f"{path}: began"))
    assert wsgi.noted(f"{path}: ClientGone")
    assert watch.took < 1.5


@pytest.mark.realtime
def test_wsgi_a_client_that_never_sends_its_body_does_not_hold_the_worker(wsgi):
    with socket.create_connection(("127.0.0.1", wsgi.served.port)) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhal")
        sock.settimeout(20)
        watch = Stopwatch(wsgi.served.process.pid)
        answer = sock.recv(65536)
        assert watch.took < 1.5
    assert b" 504 " in answer


@pytest.mark.realtime
def test_wsgi_a_request_that_waited_too_long_is_refused_before_any_work(wsgi):
    answer = wsgi.get("/left", {"X-Request-Start": f"t={time.time() - 20.1:.3f}"})
    assert answer.status == 503
    assert json.loads(answer.body)["code"] == "waited-too-long"
    waited = wsgi.get("/left", {"X-Request-Start": f"t={(time.time() - 12) * 1000:.0f}"})
    assert 0 < float(waited.body) <= 8.005
    assert float(wsgi.get("/left", {"X-Request-Start": "t=99999999999"}).body) > 12


@pytest.mark.realtime
def test_asgi_watching_the_client_does_not_ask_it_for_its_body(asgi):
    """ "100 Continue" is the application's to say, with its first `receive`: a handler that never reads must not be sent a body."""
    if asgi.kind.startswith("hypercorn"):
        return  # it says so by itself, whatever the application does
    with socket.create_connection(("127.0.0.1", asgi.served.port)) as sock:
        sock.sendall(b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        sock.settimeout(20)
        assert b" 504 " in sock.recv(65536).splitlines()[0]
