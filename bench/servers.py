"""What the shield costs on a healthy hello-world, and what it keeps under overload: real servers, bare and shielded, in turns.

python bench/servers.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import selectors
import socket
import sys
import tempfile
import textwrap
import time
from contextlib import ExitStack
from pathlib import Path

from holdfast.replay.load import Flow, generate
from holdfast.replay.parts.process import Process, accepts, free_port

BIN = Path(sys.executable).parent
CONNECTIONS = 8

ASGI = """
from holdfast import Breaker, Policy
from holdfast.servers import Admission, Deadline, Idempotency, MemoryStore, Readiness
from holdfast.servers.asgi import Shield

async def bare(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"12")]})
    await send({"type": "http.response.body", "body": b"hello, world"})
"""

# The hello-world that most services would write.
FASTAPI = """
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from holdfast import Breaker, Policy
from holdfast.servers import Admission, Deadline, Idempotency, MemoryStore, Readiness
from holdfast.servers.asgi import Shield

bare = FastAPI()

@bare.get("/hello", response_class=PlainTextResponse)
async def hello():
    return "hello, world"
"""

WSGI = """
from holdfast import Breaker, Policy
from holdfast.servers import Admission, Deadline, Idempotency, MemoryStore, Readiness
from holdfast.servers.wsgi import Shield

def bare(environ, start_response):
    start_response("200 OK", [("Content-Length", "12")])
    return [b"hello, world"]
"""

SHIELDS = """
timed = Deadline(1.0).KIND(bare)
shielded = Shield(
    bare,
    deadline={"/": 1.0, "/reports": 20.0},
    requires={"/": [Policy("billing", breaker=Breaker())]},
    admission=Admission(limit=100, priority={"/": "normal", "/checkout": "critical"}),
    idempotency=Idempotency(MemoryStore()),
    readiness=Readiness(),
)
"""

REQUEST = b"GET /hello HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"


def server(kind: str, app: str, folder: Path, port: int) -> Process:
    gunicorn = [str(BIN / "gunicorn"), "-b", f"127.0.0.1:{port}", "--log-level", "warning", "-w", "1"]
    command = {
        "uvicorn, httptools": [str(BIN / "uvicorn"), "--port", str(port), "--no-access-log", "--log-level", "warning"],
        "uvicorn, h11": [
            str(BIN / "uvicorn"),
            "--port",
            str(port),
            "--no-access-log",
            "--log-level",
            "warning",
            "--http",
            "h11",
            "--loop",
            "asyncio",
        ],
        "uvicorn, FastAPI": [str(BIN / "uvicorn"), "--port", str(port), "--no-access-log", "--log-level", "warning"],
        "gunicorn sync": [*gunicorn, "-k", "sync"],
        "gunicorn gthread": [*gunicorn, "-k", "gthread", "--threads", "4"],
    }[kind]
    module = "fastapi_app" if "FastAPI" in kind else "asgi_app" if kind.startswith("uvicorn") else "wsgi_app"
    name = f"{kind}-{app}".replace(" ", "-").replace(",", "")
    return Process([*command, f"{module}:{app}"], name=name, folder=folder, ready=lambda: accepts(port))


def spent(pid: int) -> float:
    """CPU seconds of a process and all below it. On a machine that others use too, this says more than requests per second."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        total += int((task / "schedstat").read_text().split()[0]) / 1e9
        total += sum(spent(int(child)) for child in (task / "children").read_text().split())
    return total


def rate(port: int, seconds: float, *, keep: bool, connections: int = CONNECTIONS) -> float:
    """Requests per second that a server answers to as many connections as never let it wait."""
    with selectors.DefaultSelector() as selector:
        began, done = time.perf_counter(), 0
        for _ in range(connections):
            selector.register(_ask(port), selectors.EVENT_READ)
        while (now := time.perf_counter()) - began < seconds:
            for key, _ in selector.select(1.0):
                sock: socket.socket = key.fileobj  # type: ignore[assignment]  # ours
                if not sock.recv(4096).endswith(b"hello, world"):
                    continue  # the head, which may come by itself
                done += 1
                if keep:
                    sock.send(REQUEST)
                else:
                    selector.unregister(sock)
                    sock.close()
                    selector.register(_ask(port), selectors.EVENT_READ)
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]  # ours
    return done / (now - began)


def _ask(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.send(REQUEST)
    return sock


def compare(kind: str, folder: Path, rounds: int, seconds: float) -> dict[str, tuple[float, float]]:
    """The best rate of each app, and the least CPU time per request, measured in turns."""
    with ExitStack() as stack:
        ports, servers = {}, {}
        for app in ("bare", "timed", "shielded"):
            ports[app] = free_port()
            servers[app] = stack.enter_context(server(kind, app, folder, ports[app]))
        keep = kind != "gunicorn sync"
        best = dict.fromkeys(ports, (0.0, float("inf")))
        for turn in range(rounds):
            order = list(ports)
            order = order[turn % 3 :] + order[: turn % 3]
            for app in order:
                before = spent(servers[app].pid)
                found = rate(ports[app], seconds, keep=keep)
                cost = (spent(servers[app].pid) - before) / (found * seconds)
                best[app] = (max(best[app][0], found), min(best[app][1], cost))
        return best


# A service whose database has eight connections and takes 20 ms: 400 requests per second, whatever its CPU could do.
OVERLOADED = """
import asyncio
from holdfast.servers import Admission
from holdfast.servers.asgi import Shield

class Work:
    connections = None

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.connections = self.connections or asyncio.Semaphore(8)
        async with self.connections:
            await asyncio.sleep(0.02)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"12")]})
        await send({"type": "http.response.body", "body": b"hello, world"})

bare = Work()
shielded = Shield(Work(), deadline=PATIENCE, admission=Admission(limit=8, priority={"/": "normal", "/critical": "critical"}))
"""
PATIENCE = 1.0  # seconds that the clients wait
CRITICAL = 0.1  # of the requests


def overload(folder: Path, seconds: float) -> bool:
    """Offer twice what the service can do, bare and shielded."""
    (folder / "overloaded.py").write_text(OVERLOADED.replace("PATIENCE", str(PATIENCE)))
    goodput, critical = {}, {}
    capacity = 0.0
    for app in ("bare", "shielded"):
        port = free_port()
        command = [str(BIN / "uvicorn"), "--port", str(port), "--no-access-log", "--log-level", "error", f"overloaded:{app}"]
        with Process(command, name=f"overloaded-{app}", folder=folder, ready=lambda port=port: accepts(port)):  # type: ignore[misc]
            capacity = capacity or rate(port, 3.0, keep=True, connections=16)
            for load in (0.5, 2.0):
                flows = [
                    Flow(name=name, url=f"http://127.0.0.1:{port}/{name}", rate=capacity * load * share, patience=PATIENCE)
                    for name, share in (("normal", 1 - CRITICAL), ("critical", CRITICAL))
                ]
                start = time.monotonic() + 0.5
                samples = asyncio.run(generate(flows, start=start, seconds=seconds, seed=1))
                good = [one for one in samples if one.good and one.at > 1.0]
                goodput[app, load] = len(good) / (seconds - 1.0)
                waits = sorted(one.latency for one in samples if one.flow == "critical" and one.at > 1.0)
                critical[app, load] = waits[int(0.99 * len(waits))]
        share, slower = goodput[app, 2.0] / capacity, critical[app, 2.0] / critical[app, 0.5]
        print(
            f"{app:9} at twice its capacity of {capacity:.0f}/s: goodput {goodput[app, 2.0]:.0f}/s = {share:.2f} x (bar 0.90); "
            f"critical p99 {critical[app, 2.0] * 1e3:.0f} ms = {slower:.2f} x of {critical[app, 0.5] * 1e3:.0f} ms unloaded (bar 2)",
            flush=True,
        )
    return goodput["shielded", 2.0] >= 0.9 * capacity and critical["shielded", 2.0] <= 2 * critical["shielded", 0.5]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    rounds, seconds = (4, 0.4) if options.quick else (12, 0.8)
    held = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "asgi_app.py").write_text(textwrap.dedent(ASGI + SHIELDS.replace("KIND", "asgi")))
        (folder / "fastapi_app.py").write_text(textwrap.dedent(FASTAPI + SHIELDS.replace("KIND", "asgi")))
        (folder / "wsgi_app.py").write_text(textwrap.dedent(WSGI + SHIELDS.replace("KIND", "wsgi")))
        for kind in options.only or ("uvicorn, h11", "uvicorn, httptools", "uvicorn, FastAPI", "gunicorn sync", "gunicorn gthread"):
            best = compare(kind, folder, rounds, seconds)
            for app, bar in (("timed", 0.95), ("shielded", 0.85)):
                (found, cost), (bare, bare_cost) = best[app], best["bare"]
                held = held and max(found / bare, bare_cost / cost) >= bar
                print(
                    f"{kind:18} {app:9} {found:6.0f}/s of {bare:6.0f}/s bare: {found / bare:.3f} x; "
                    f"CPU {cost * 1e6:4.0f} us of {bare_cost * 1e6:4.0f} us: {bare_cost / cost:.3f} x (bar {bar})",
                    flush=True,
                )
        if not options.only:
            held = overload(folder, 4.0 if options.quick else 10.0) and held
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
