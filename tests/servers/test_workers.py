"""Worker pools as figures: real pools, looked at from outside."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from serving import eventually, serve

from holdfast.servers import Workers, kernel, workers
from holdfast.servers.gunicorn import pool_name

# "/?hold" lasts until there is a file "go" where the server runs.
WSGI = """
import os, time

def app(environ, start_response):
    if environ["QUERY_STRING"] == "hold":
        while not os.path.exists("go"):
            time.sleep(0.01)
    else:
        time.sleep(float(environ["QUERY_STRING"] or 0))
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

ASGI = """
import asyncio, os
{imports}
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({{"type": "lifespan.startup.complete"}})
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    if scope["query_string"] == b"hold":
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    else:
        await asyncio.sleep(float(scope["query_string"] or 0))
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}})
    await send({{"type": "http.response.body", "body": b"ok"}})
{wrap}
"""

HOOKS = ("-c", "python:holdfast.servers.gunicorn", "--name", "web")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_RUN_DIR", str(tmp_path / "workers"))


def there():
    """The pool's figures; None while its file is not made yet: a server's port is open before."""
    with contextlib.suppress(FileNotFoundError):
        return workers.snapshot("web")


def in_background(served, number, path):
    threads = [threading.Thread(target=served.get, args=(path,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads


def cut_off(served):
    with pytest.raises((OSError, http.client.HTTPException)):
        served.get("/?30")


def join(threads):
    for thread in threads:
        thread.join()


@pytest.mark.realtime
def test_a_sync_pool_shows_its_busy_workers_and_who_waits_to_be_accepted(tmp_path):
    served = serve("sync", tmp_path, WSGI, *HOOKS, "-w", "2")
    with served.process:
        assert eventually(lambda: there() and there()["workers"] == 2)
        quiet = workers.snapshot("web")
        assert (quiet["places"], quiet["busy"], quiet["idle"], quiet["queue"]) == (2, 0, 2, 0)
        assert quiet["queue_limit"] >= 100
        began = time.monotonic()
        threads = in_background(served, 2, "/?hold")
        assert eventually(lambda: workers.snapshot("web")["busy"] == 2)
        full = time.monotonic()
        threads += in_background(served, 4, "/?hold")
        assert eventually(lambda: workers.snapshot("web")["queue"] == 4)
        assert [workers.snapshot("web")[name] for name in ("busy", "idle")] == [2, 0]
        waiting = time.monotonic()
        time.sleep(0.3 + 2 * (full - began))
        (tmp_path / "go").touch()
        let_go = time.monotonic()
        join(threads)
        assert eventually(lambda: workers.snapshot("web")["busy"] == 0)
        after, whole = workers.snapshot("web"), time.monotonic() - began
    assert after["requests"] - quiet["requests"] == 6
    assert after["queue"] == 0
    assert 2 * (let_go - full) <= after["busy_seconds"] - quiet["busy_seconds"] <= 2 * whole
    # Four waited, though no server's clock saw them: the kernel says when their bytes came.
    assert 4 * (let_go - waiting) <= after["wait_seconds"] - quiet["wait_seconds"] <= 4 * whole + 2 * (full - began)
    at_once = next(bound for bound in after["waits"] if float(bound) >= full - began)
    if float(at_once) < let_go - waiting:
        assert after["waits"][at_once] - quiet["waits"][at_once] == 2
    assert after["waits"]["+Inf"] - quiet["waits"]["+Inf"] == 6


@pytest.mark.realtime
def test_a_pool_of_threads_shows_its_threads_and_its_inner_queue(tmp_path):
    served = serve("gthread", tmp_path, WSGI, *HOOKS)
    with served.process:
        assert eventually(lambda: there() and there()["places"] == 4)
        threads = in_background(served, 7, "/?hold")
        assert eventually(lambda: [workers.snapshot("web")[name] for name in ("busy", "queue")] == [4, 3])
        (tmp_path / "go").touch()
        join(threads)
        assert eventually(lambda: workers.snapshot("web")["busy"] == 0)
        # The end of a connection that was kept alive passes through the queue as well.
        assert eventually(lambda: workers.snapshot("web")["queue"] == 0)
        assert workers.snapshot("web")["requests"] >= 7


@pytest.mark.realtime
@pytest.mark.parametrize("kind", ["uvicorn-worker", "gunicorn-asgi", "uvicorn"])
def test_a_pool_of_event_loops_shows_what_it_works_on(tmp_path, kind):
    wrap = "app = Workers('web').asgi(app)" if kind == "uvicorn" else ""
    source = ASGI.format(imports="from holdfast.servers import Workers", wrap=wrap)
    options = ("--workers", "2") if kind == "uvicorn" else (*HOOKS, "-w", "2")
    served = serve(kind, tmp_path, source, *options)
    with served.process:
        served.get()
        threads = in_background(served, 5, "/?hold")
        assert eventually(lambda: workers.snapshot("web")["busy"] == 5)
        busy = workers.snapshot("web")
        assert busy["places"] is None
        assert busy["idle"] is None
        assert busy["queue"] == 0
        (tmp_path / "go").touch()
        join(threads)
        assert eventually(lambda: workers.snapshot("web")["busy"] == 0)


@pytest.mark.realtime
def test_a_killed_worker_is_not_counted_as_busy_for_ever_and_what_it_had_done_is_not_forgotten(tmp_path):
    served = serve(
        "sync",
        tmp_path,
        "import os\n" + WSGI.replace('b"ok"', "str(os.getpid()).encode()").replace('("Content-Length", "2")', ""),
        *HOOKS,
        "-w",
        "1",
    )
    with served.process:
        pid = int(served.get().body)
        assert eventually(lambda: workers.snapshot("web")["busy"] == 0)  # that request's answer was here before its end was counted
        sleeper = threading.Thread(target=cut_off, args=(served,))
        sleeper.start()
        assert eventually(lambda: workers.snapshot("web")["busy"] == 1)
        os.kill(pid, signal.SIGKILL)
        sleeper.join()
        assert eventually(lambda: workers.snapshot("web")["busy"] == 0)
        assert eventually(lambda: workers.snapshot("web")["workers"] == 1)
        assert int(served.get().body) != pid
        assert workers.snapshot("web")["requests"] >= 3


def test_a_pool_that_is_gone_shows_no_worker_and_keeps_its_counts(tmp_path):
    pid = os.fork()
    if pid == 0:
        pool = Workers("gone", places=1)
        pool.begin(0.02)
        os._exit(0)
    os.waitpid(pid, 0)
    seen = workers.snapshot("gone")
    assert (seen["workers"], seen["busy"], seen["requests"]) == (0, 0, 1)
    Workers("gone").join()
    assert workers.snapshot("gone")["requests"] == 1


def test_a_process_that_has_forked_and_its_child_are_two_workers(tmp_path):
    pool = Workers("forked", places=1)
    began = pool.begin()
    down, up = os.pipe()
    pid = os.fork()
    if pid == 0:
        pool.end(began)  # the parent's request: not this process's to end
        pool.begin()
        os.write(up, b"x")
        time.sleep(30)
        os._exit(0)
    try:
        os.read(down, 1)
        both = workers.snapshot("forked")
        assert (both["workers"], both["busy"]) == (2, 2)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    pool.end(began)
    assert workers.snapshot("forked")["busy"] == 0


def test_threads_lose_no_count(tmp_path):
    pool = Workers("threads", places=8)

    def work():
        for _ in range(2000):
            pool.end(pool.begin(0.001))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    join(threads)
    seen = workers.snapshot("threads")
    assert (seen["requests"], seen["busy"]) == (16000, 0)
    assert seen["waits"]["0.001"] == 16000


def test_all_pools_are_found_and_a_strange_file_is_passed_over(tmp_path):
    Workers("a").join()
    Workers("b").join()
    (tmp_path / "workers" / "c.workers").write_bytes(b"something else")
    assert [pool["name"] for pool in workers.snapshots()] == ["a", "b"]
    with pytest.raises(ValueError, match=r"c\.workers is no file of a worker pool"):
        workers.snapshot("c")
    with pytest.raises(FileNotFoundError):
        workers.snapshot("never")


def test_a_file_that_is_made_just_now_is_none_yet(tmp_path):
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "young.workers").touch()
    with pytest.raises(FileNotFoundError):
        workers.snapshot("young")
    assert workers.snapshots() == []
    Workers("young").join()
    assert workers.snapshot("young")["workers"] == 1


@pytest.mark.parametrize("name", ["", 5, "../x", "a/b", ".hidden", "x" * 65, "a\n"])
def test_a_name_that_is_no_files_name_is_refused(name):
    with pytest.raises(ValueError, match=r"Workers\.name must be"):
        Workers(name)


@pytest.mark.realtime
@pytest.mark.parametrize(("kind", "source"), [("sync", WSGI), ("uvicorn-worker", ASGI.format(imports="", wrap=""))])
def test_workers_end_with_a_master_that_was_killed(kind, source, tmp_path):
    """Also under load, so that the next master gets the port."""
    server = serve(kind, tmp_path, source, *HOOKS)
    ended = threading.Event()

    def load():
        while not ended.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                server.get("/?0.01")

    clients = [threading.Thread(target=load) for _ in range(4)]
    with server.process:
        assert eventually(lambda: (there() or {"workers": 0})["workers"] == 1)
        for client in clients:
            client.start()
        try:
            os.kill(server.process.pid, signal.SIGKILL)
            assert eventually(lambda: workers.snapshot("web")["workers"] == 0, 15.0)
        finally:
            ended.set()
            for client in clients:
                client.join()


def test_the_file_of_a_pool_that_ended_long_ago_is_removed():
    left = subprocess.run([sys.executable, "-c", "from holdfast.servers import Workers; Workers('ended').join()"], check=True)
    Workers("lives").join()
    for name in ("ended", "lives"):
        os.utime(workers.folder() / f"{name}.workers", (0, 0))
    assert left.returncode == 0
    Workers("new").join()
    assert [found["name"] for found in workers.snapshots()] == ["lives", "new"]


def test_gunicorns_process_name_becomes_a_pools_name():
    assert pool_name("app:app") == "app.app"
    assert pool_name("shop.wsgi:create_app('x')") == "shop.wsgi.create_app..x.."
    assert pool_name("::") == "gunicorn"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_kernel_tells_the_same_in_both_ways(address, monkeypatch):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener, contextlib.ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(socket.create_connection(listener.getsockname()[:2]))
        mine = {kernel.inode(listener)}
        assert kernel.accept_queue(mine) == 3
        assert kernel.own_listeners() == list(mine)
        monkeypatch.delattr(socket, "AF_NETLINK")  # a sandbox may have none
        assert kernel.accept_queue(mine) == 3
        assert kernel.own_listeners() == list(mine)
