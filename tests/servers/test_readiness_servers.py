"""Readiness under real servers: once per machine, before the socket is served, and an orderly end."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from serving import Served, eventually, serve

from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

HOOKS = ("-c", "python:holdfast.servers.gunicorn")

WSGI = """
import os, time
from holdfast.servers import Readiness

def note(what):
    with open("{log}", "a") as log:
        log.write(f"{{what}} {{os.getpid()}}\\n")

CACHE = []

def warm_up():
    time.sleep(0.2)
    CACHE.append(os.getpid())
    note("machine")

def hello(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        note("slow")
        time.sleep(float(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(CACHE).encode()]

readiness = Readiness(warm_up=[warm_up], worker_warm_up=[lambda: note("worker")], {options})
app = readiness.wsgi(hello)
"""

ASGI = """
import asyncio, os, time
from holdfast.servers import Readiness

def note(what):
    with open("{log}", "a") as log:
        log.write(f"{{what}} {{os.getpid()}}\\n")

def warm_up():
    time.sleep(0.2)
    note("machine")

async def hello(scope, receive, send):
    if scope["path"] == "/slow":
        note("slow")
        await asyncio.sleep(float(scope["query_string"]))
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}})
    await send({{"type": "http.response.body", "body": b"hello"}})

app = Readiness(warm_up=[warm_up], worker_warm_up=[lambda: note("worker")], {options}).asgi(hello)
"""


def served(kind: str, folder: Path, source: str, *options: str, readiness: str = "") -> Served:
    return serve(kind, folder, source.format(log=folder / "log", options=readiness), *options)


def notes(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / "log").read_text().split("\n")[:-1]
    return [(line.split()[0], int(line.split()[1])) for line in lines]


def soon(server: Served, path: str, status: int, within: float = 10.0) -> bool:
    """Whether it says so, asked again and again; refused connections say 0."""
    give_up = time.monotonic() + within
    while time.monotonic() < give_up:
        if asked(server, path) == status:
            return True
        time.sleep(0.02)
    return False


def asked(server: Served, path: str) -> int:
    try:
        return server.get(path, timeout=5).status
    except OSError:
        return 0


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_preloaded_it_is_warm_once_in_the_master_before_the_socket_is_there(tmp_path: Path, kind: str) -> None:
    server = served(kind, tmp_path, WSGI, "--workers", "4", "--preload", *HOOKS)
    with server.process:
        answers = server.many(8, lambda: server.get("/"))
        assert {answer.status for answer in answers} == {200}  # not one was refused: nobody listened before
        assert notes(tmp_path) == [("machine", server.process.pid), ("worker", server.process.pid)]
        assert {answer.body for answer in answers} == {b"[%d]" % server.process.pid}  # every worker has the master's cache
        assert server.get("/readyz").status == 200


@pytest.mark.parametrize("kind", ["sync", "uvicorn-worker"])
def test_loaded_by_each_worker_it_is_still_warm_once_per_machine(tmp_path: Path, kind: str) -> None:
    server = served(kind, tmp_path, WSGI if kind == "sync" else ASGI, "--workers", "4", *HOOKS)
    with server.process:
        assert server.get("/").status == 200
        # Every worker serves sooner or later; each has its own warm-up, and one of them the machine's.
        give_up = time.monotonic() + 20
        while len(notes(tmp_path)) < 5 and time.monotonic() < give_up:
            time.sleep(0.05)
        found = notes(tmp_path)
        assert [what for what, _ in found].count("machine") == 1
        assert len({pid for what, pid in found if what == "worker"}) == 4
        # One that is killed comes back, and does not do the machine's again.
        import os

        os.kill(found[-1][1], signal.SIGKILL)
        give_up = time.monotonic() + 20
        while len(notes(tmp_path)) < 6 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert notes(tmp_path)[-1][0] == "worker"


def test_uvicorns_workers_are_warm_once_per_machine(tmp_path: Path) -> None:
    server = served("uvicorn", tmp_path, ASGI, "--workers", "2")
    with server.process:
        assert soon(server, "/readyz", 200)
        give_up = time.monotonic() + 20
        while len(notes(tmp_path)) < 3 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert sorted(what for what, _ in notes(tmp_path)) == ["machine", "worker", "worker"]


@pytest.mark.parametrize("instead", ["raise ConnectionError('no database')", "time.sleep(1000)"])
@pytest.mark.parametrize("kind", ["sync", "uvicorn"])
def test_a_server_whose_warm_up_fails_or_hangs_does_not_serve(tmp_path: Path, kind: str, instead: str) -> None:
    from holdfast.replay.parts.process import StartFailed

    options = ("--preload", *HOOKS) if kind == "sync" else ()
    source = (WSGI if kind == "sync" else ASGI).replace("time.sleep(0.2)", instead, 1)
    server = served(kind, tmp_path, source, *options, readiness="warm_up_within=0.5")
    with pytest.raises(StartFailed, match="ended while it started"):
        server.process.start()


@pytest.mark.parametrize("kind", ["gthread", "uvicorn", "hypercorn"])
def test_at_sigterm_it_is_not_ready_serves_on_for_a_while_and_ends(tmp_path: Path, kind: str) -> None:
    """The load balancer sees 503 while new requests are still answered; the one that runs is finished."""
    options = ("--preload", "--workers", "2", *HOOKS) if kind == "gthread" else ()
    server = served(kind, tmp_path, WSGI if kind == "gthread" else ASGI, *options, readiness="drain=2.0")
    with server.process:
        assert soon(server, "/readyz", 200)
        slow: list[int] = []
        asking = threading.Thread(target=lambda: slow.append(asked(server, "/slow?2.6")))
        asking.start()
        assert eventually(lambda: "slow" in dict(notes(tmp_path)))
        server.process.send(signal.SIGTERM)
        assert soon(server, "/readyz", 503, within=1.5)
        assert [asked(server, "/livez"), asked(server, "/")] == [200, 200]
        asking.join(20)
        assert slow == [200]
        assert eventually(lambda: not server.process.running)


@pytest.mark.parametrize(("kind", "options"), [("uvicorn", ("--workers", "2")), ("hypercorn", ())])
def test_workers_whose_supervisor_was_killed_finish_their_requests_and_end(tmp_path: Path, kind: str, options: tuple[str, ...]) -> None:
    """Neither server does that by itself: its port would stay taken. A drain is for load balancers, and would only hold the port longer."""
    server = served(kind, tmp_path, ASGI, *options, readiness="drain=20.0")
    with server.process:
        assert soon(server, "/readyz", 200)
        slow: list[int] = []
        asking = threading.Thread(target=lambda: slow.append(asked(server, "/slow?1.0")))
        asking.start()
        assert eventually(lambda: "slow" in dict(notes(tmp_path)))
        server.process.send(signal.SIGKILL)
        assert eventually(lambda: asked(server, "/") == 0, 15.0)
        asking.join(20)
        assert slow == [200]


@pytest.mark.parametrize("kind", ["gthread", "uvicorn"])
def test_at_sigterm_it_ends_in_time_whatever_still_runs(tmp_path: Path, kind: str) -> None:
    options = ("--preload", *HOOKS) if kind == "gthread" else ()
    server = served(kind, tmp_path, WSGI if kind == "gthread" else ASGI, *options, readiness="drain=0.2, stop_within=1.5")
    with server.process:
        assert soon(server, "/readyz", 200)
        asking = threading.Thread(target=lambda: asked(server, "/slow?60"))
        asking.start()
        assert eventually(lambda: "slow" in dict(notes(tmp_path)))
        watch = Stopwatch(server.process.pid)
        server.process.send(signal.SIGTERM)
        assert eventually(lambda: not server.process.running, 20.0)
        assert watch.took < 5
        asking.join(20)
