"""Probes, warm-ups and checks, in one process and in virtual time where time is the subject."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from functools import partial
from typing import Any

import pytest
import trio
import trio.lowlevel

from holdfast import Breaker, Policy
from holdfast.servers import Readiness, draining
from holdfast.testing import FakeClock
from stopwatch import Stopwatch
from watching import soon

Reply = tuple[int, dict[str, str], bytes]


@pytest.fixture(autouse=True)
def _not_draining() -> Any:
    yield
    draining.reset()


def hello_wsgi(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


async def hello_asgi(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


class Asking:
    """A server of one kind, asked without a network."""

    def __init__(self, kind: str, readiness: Readiness) -> None:
        self.kind = kind
        self.app: Any = readiness.wsgi(hello_wsgi) if kind == "wsgi" else readiness.asgi(hello_asgi)

    def __call__(self, path: str, method: str = "GET", peer: str = "203.0.113.9") -> Reply:
        if self.kind == "asgi":
            return asyncio.run(self.ask(path, method, peer))
        started: list[Any] = []
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "REMOTE_ADDR": peer}
        body = b"".join(self.app(environ, lambda status, headers: started.append((int(status[:3]), dict(headers)))))
        return (*started[0], body)

    async def ask(self, path: str, method: str = "GET", peer: str = "203.0.113.9") -> Reply:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app({"type": "http", "method": method, "path": path, "client": (peer, 1), "headers": []}, None, send)
        headers = {name.decode().title(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], headers, sent[1]["body"]


@pytest.fixture(params=["wsgi", "asgi"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


eventually = partial(soon, within=5.0)


def test_without_anything_to_do_it_is_ready_at_once(kind: str) -> None:
    ask = Asking(kind, Readiness())
    for path in ("/livez", "/readyz", "/startupz"):
        status, headers, body = ask(path)
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        assert headers["Cache-Control"] == "no-store"
        assert ask(path, "HEAD")[2] == b""
    assert ask("/")[2] == b"hello"
    assert ask("/readyz", "POST")[2] == b"hello"  # the app's


def test_nothing_is_served_before_it_is_warm(kind: str) -> None:
    go_on, ran = threading.Event(), []

    def warm_up() -> None:
        ran.append(1)
        assert go_on.wait(10)

    ask = Asking(kind, Readiness(warm_up=[warm_up]))
    assert [ask(path)[0] for path in ("/livez", "/readyz", "/startupz", "/")] == [200, 503, 503, 503]
    assert ask("/")[1]["Retry-After"] == "1"
    go_on.set()
    assert eventually(lambda: ask("/readyz")[0] == 200)
    assert [ask(path)[0] for path in ("/livez", "/startupz", "/")] == [200, 200, 200]
    assert ran == [1]


def test_a_warm_up_that_fails_is_tried_again(kind: str) -> None:
    tries: list[int] = []

    def warm_up() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("secret-host refused")

    readiness = Readiness(warm_up=[warm_up], trusted=["203.0.113.0/24"])
    ask = Asking(kind, readiness)
    assert ask("/readyz")[0] == 503
    assert eventually(lambda: readiness.warming.error is not None)
    status, _, body = ask("/startupz")
    assert (status, json.loads(body)["warm_up_error"]) == (503, "ConnectionError")
    assert b"secret-host" not in body
    assert len(tries) == 1  # not at once
    assert eventually(lambda: ask("/readyz")[0] == 200)
    assert len(tries) == 2


def test_async_warm_ups_are_run_to_their_end() -> None:
    ran = []

    async def warm_up() -> None:
        await asyncio.sleep(0)
        ran.append(1)

    Readiness(warm_up=[warm_up]).warm()
    assert ran == [1]


def test_warm_ups_run_in_order_and_the_workers_own_after_the_machines() -> None:
    ran: list[str] = []
    readiness = Readiness(warm_up=[lambda: ran.append("a"), lambda: ran.append("b")], worker_warm_up=[lambda: ran.append("w")])
    readiness.warm()
    readiness.warm()
    assert ran == ["a", "b", "w"]


def test_a_check_that_says_no_or_raises_makes_it_not_ready_and_alive(kind: str) -> None:
    for check in (lambda: False, lambda: 1 / 0):
        ask = Asking(kind, Readiness(checks=[check]))
        assert [ask(path)[0] for path in ("/livez", "/readyz", "/startupz", "/")] == [200, 503, 200, 200]


def test_async_checks_are_awaited_and_bounded() -> None:
    async def hangs() -> None:
        await asyncio.sleep(60)

    async def fine() -> None:
        await asyncio.sleep(0)

    ask = Asking("asgi", Readiness(checks={"hangs": hangs, "fine": fine}, check_timeout=0.05, trusted=["::/0", "0.0.0.0/0"]))
    status, _, body = ask("/readyz")
    assert status == 503
    checks = json.loads(body)["checks"]
    assert (checks["hangs"]["up"], checks["fine"]["up"]) == (False, True)
    with pytest.raises(TypeError, match="an async check needs an ASGI application"):
        Readiness(checks=[hangs]).wsgi(hello_wsgi)


def test_a_policy_is_up_unless_its_breaker_is_open(kind: str) -> None:
    billing = Policy("billing", breaker=Breaker())
    ask = Asking(kind, Readiness(checks=[billing], check_every=0))
    assert ask("/readyz")[0] == 200
    billing.breaker.force_open()
    assert eventually(lambda: ask("/readyz")[0] == 503)
    with pytest.raises(AttributeError, match="has no breaker"):
        Readiness(checks=[Policy("plain")])


def test_strangers_learn_nothing_but_yes_or_no(kind: str) -> None:
    def database_of_customers() -> None:
        raise ConnectionError("postgresql://user:hunter2@10.0.0.7/shop")

    ask = Asking(kind, Readiness(checks=[database_of_customers], trusted=["10.0.0.0/8", "127.0.0.1"]))
    _, _, body = ask("/readyz", peer="203.0.113.9")
    assert json.loads(body) == {"status": "unavailable"}
    for nobody in ("", "unix:", "10.0.0.300"):
        assert json.loads(ask("/readyz", peer=nobody)[2]) == {"status": "unavailable"}
    for friend in ("10.1.2.3", "127.0.0.1", "::ffff:10.1.2.3"):
        _, _, body = ask("/readyz", peer=friend)
        told = json.loads(body)
        ((name, check),) = told["checks"].items()
        assert name.endswith("database_of_customers")
        assert check["error"] == "ConnectionError"
        assert b"hunter2" not in body


def test_probes_are_no_load_however_many_come() -> None:
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1

    with FakeClock() as clock:
        ask = Asking("wsgi", Readiness(checks=[check], check_every=5))
        for _ in range(100):
            assert ask("/readyz")[0] == 200
        assert asked == 1
        clock.advance(5.1)
        for _ in range(100):
            ask("/readyz")
        assert asked == 2


@pytest.mark.realtime
def test_a_check_that_hangs_is_down_in_time_and_hangs_once() -> None:
    go_on, asked = threading.Event(), []

    def hangs() -> None:
        asked.append(1)
        go_on.wait(30)

    ask = Asking("wsgi", Readiness(checks=[hangs], check_timeout=0.1, check_every=0))
    watch = Stopwatch()
    answers = [ask("/readyz")[0] for _ in range(20)]
    took = watch.took
    go_on.set()
    assert answers == [503] * 20
    assert took < 1.5, "only the first probe waits"
    assert len(asked) == 1
    assert eventually(lambda: ask("/readyz")[0] == 200)


@pytest.mark.realtime
def test_a_check_in_an_event_loop_does_not_block_it() -> None:
    """A blocking check is asked in a thread, and requests go on meanwhile."""

    async def run() -> float:
        ask = Asking("asgi", Readiness(checks=[lambda: time.sleep(0.3)]))
        probe = asyncio.ensure_future(ask.ask("/readyz"))
        await asyncio.sleep(0.01)
        watch = Stopwatch()
        await ask.ask("/")
        took = watch.took
        assert (await probe)[0] == 200
        return took

    assert asyncio.run(run()) < 0.2


def test_while_it_drains_it_is_alive_and_not_ready(kind: str) -> None:
    ask = Asking(kind, Readiness())
    draining.begin()
    assert [ask(path)[0] for path in ("/livez", "/readyz", "/startupz", "/")] == [200, 503, 200, 200]


def test_a_worker_that_ends_alone_leaves_its_siblings_ready() -> None:
    # As gunicorn ends the old workers of a reload: what it says reaches neither its master nor the new ones.
    child = os.fork()
    if child == 0:
        draining.begin()
        os._exit(0 if draining.is_draining() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not draining.is_draining()


def test_workers_know_at_once_that_their_master_ends() -> None:
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(told, 1)
        os._exit(0 if draining.is_draining() else 1)
    draining.begin()
    os.write(tell, b"x")
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("path", ["/livez", "/api/livez"])
def test_probes_of_a_mounted_application_know_nothing_of_the_mount(path: str) -> None:
    readiness = Readiness(live=path)
    statuses: list[int] = []
    environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "/api", "PATH_INFO": "/livez"}
    body = readiness.wsgi(hello_wsgi)(environ, lambda status, headers: statuses.append(int(status[:3])))
    assert json.loads(b"".join(body)) == {"status": "ok"}

    async def ask() -> bytes:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "root_path": "/api", "path": "/api/livez", "headers": []}
        await readiness.asgi(hello_asgi)(scope, None, send)  # type: ignore[arg-type]
        return bytes(sent[1]["body"])

    assert json.loads(asyncio.run(ask())) == {"status": "ok"}


@pytest.mark.realtime
def test_a_probe_does_not_wait_for_the_threads_of_the_event_loop() -> None:
    ask = Asking("asgi", Readiness(checks=[lambda: True]))

    async def crowded() -> tuple[int, float]:
        busy = [asyncio.ensure_future(asyncio.to_thread(time.sleep, 0.6)) for _ in range(64)]
        await asyncio.sleep(0.05)
        watch = Stopwatch()
        status = (await ask.ask("/readyz"))[0]
        took = watch.took
        for one in busy:
            one.cancel()
        return status, took

    status, took = asyncio.run(crowded())
    assert status == 200
    assert took < 0.5


def test_a_websocket_that_comes_too_early_is_told_to_come_later() -> None:
    sent: list[Any] = []
    go_on = threading.Event()

    async def run() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        app = Readiness(warm_up=[lambda: go_on.wait(10)]).asgi(hello_asgi)
        await app({"type": "websocket", "path": "/"}, None, send)  # type: ignore[arg-type]

    asyncio.run(run())
    go_on.set()
    assert sent == [{"type": "websocket.close", "code": 1013}]


STARTED_AND_ENDED = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def lifespan(app: Any) -> list[str]:
    """What a server is told from its start to its end."""
    told: list[str] = []

    async def run() -> None:
        ended = asyncio.Event()
        messages = [{"type": "lifespan.startup"}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await ended.wait()
            return {"type": "lifespan.shutdown"}

        async def send(message: Any) -> None:
            told.append(message["type"])
            ended.set()

        await app({"type": "lifespan"}, receive, send)

    asyncio.run(run())
    return told


def test_warm_ups_run_before_the_server_is_told_that_it_may_serve() -> None:
    ran: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        ran.append("app")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await send({"type": "lifespan.shutdown.complete"})

    assert lifespan(Readiness(warm_up=[lambda: ran.append("warm")]).asgi(app)) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert ran == ["warm", "app"]


def test_an_app_that_knows_nothing_of_lifespans_is_warmed_all_the_same() -> None:
    ran: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError(scope["type"])

    assert lifespan(Readiness(warm_up=[lambda: ran.append("warm")]).asgi(app)) == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert ran == ["warm"]


def test_a_server_whose_warm_up_fails_is_told_not_to_serve() -> None:
    told: list[str] = []

    async def run() -> None:
        async def receive() -> Any:
            return {"type": "lifespan.startup"}

        async def send(message: Any) -> None:
            told.append(f"{message['type']}: {message['message']}")

        with pytest.raises(ZeroDivisionError):
            await Readiness(warm_up=[lambda: 1 / 0]).asgi(hello_asgi)({"type": "lifespan"}, receive, send)

    asyncio.run(run())
    assert told == ["lifespan.startup.failed: a warm-up failed: ZeroDivisionError"]


def test_what_the_user_configures_is_checked() -> None:
    for wrong, message in (
        ({"drain": -1}, r"Readiness\.drain must be >= 0 seconds"),
        ({"drain": 20, "stop_within": 10}, r"Readiness\.stop_within must be >= drain \(20 s\)"),
        ({"check_timeout": 0}, r"Readiness\.check_timeout must be > 0 seconds"),
        ({"trusted": ["here"]}, r"Readiness\.trusted must be networks"),
        ({"live": "livez"}, r"Readiness\.live must be a path that begins with /"),
        ({"live": "/x", "ready": "/x"}, "must be three paths"),
    ):
        with pytest.raises(ValueError, match=message):
            Readiness(**wrong)  # type: ignore[arg-type]
    for wrong in ({"warm_up": print}, {"warm_up": [1]}, {"checks": [1]}):
        with pytest.raises(TypeError, match="Readiness"):
            Readiness(**wrong)  # type: ignore[arg-type]


def test_warm_ups_and_checks_run_under_trio_as_well() -> None:
    ran: list[str] = []

    async def hangs() -> None:
        await trio.sleep(60)

    async def fine() -> None:
        await trio.lowlevel.checkpoint()

    async def run() -> Reply:
        readiness = Readiness(
            warm_up=[lambda: ran.append("warm")],
            checks={"hangs": hangs, "fine": fine, "blocking": lambda: None},
            check_timeout=0.5,
            trusted=["0.0.0.0/0"],
        )
        ask = Asking("asgi", readiness)
        messages = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

        async def receive() -> Any:
            return messages.pop()

        async def send(message: Any) -> None:
            ran.append(message["type"])

        await ask.app({"type": "lifespan"}, receive, send)
        return await ask.ask("/readyz")

    status, _, body = trio.run(run)
    assert ran == ["warm", *STARTED_AND_ENDED]
    checks = json.loads(body)["checks"]
    assert (status, {name: check["up"] for name, check in checks.items()}) == (503, {"hangs": False, "fine": True, "blocking": True})
    assert checks["hangs"]["error"] == "timeout"
