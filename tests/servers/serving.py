"""Real servers for tests: an application in a file, served by gunicorn, uvicorn or hypercorn on a port of its own."""

from __future__ import annotations

import http.client
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from holdfast.replay.parts.process import Process, accepts, free_port
from stopwatch import Stopwatch
from watching import soon

BIN = Path(sys.executable).parent


class Served:
    """An application that runs in a server of its own."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    def get(
        self,
        path: str = "/",
        headers: dict[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
        timeout: float = 30.0,
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            watch = Stopwatch(self.process.pid)
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read(), watch)
        finally:
            connection.close()

    def many(self, number: int, ask: Callable[[], Answer]) -> list[Answer]:
        """So many requests at once."""
        with ThreadPoolExecutor(number) as pool:
            return list(pool.map(lambda _: ask(), range(number)))


class Answer:
    """What came back, and after how many seconds: see `Stopwatch`."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, watch: Stopwatch) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.elapsed, self.took = watch.elapsed, watch.took

    def __repr__(self) -> str:
        return f"<{self.status} after {self.elapsed:.3f} s: {self.body[:80]!r}>"


def command(kind: str, port: int, app: str, *options: str) -> list[str]:
    """How a server of this kind is started."""
    gunicorn = [str(BIN / "gunicorn"), "-b", f"127.0.0.1:{port}", "--log-level", "info"]
    kinds = {
        "sync": [*gunicorn, "-k", "sync"],
        "gthread": [*gunicorn, "-k", "gthread", "--threads", "4"],
        "uvicorn-worker": [*gunicorn, "-k", "uvicorn_worker.UvicornWorker"],
        "gunicorn-asgi": [*gunicorn, "-k", "asgi"],
        "uvicorn": [str(BIN / "uvicorn"), "--host", "127.0.0.1", "--port", str(port), "--no-access-log"],
        "hypercorn": [str(BIN / "hypercorn"), "-b", f"127.0.0.1:{port}"],
        "hypercorn-trio": [str(BIN / "hypercorn"), "-k", "trio", "-b", f"127.0.0.1:{port}"],
    }
    return [*kinds[kind], *options, app]


def serve(kind: str, folder: Path, source: str, *options: str, app: str = "served:app") -> Served:
    """Write the application into the folder and describe its server; enter `.process` to start it."""
    (folder / f"{app.partition(':')[0]}.py").write_text(textwrap.dedent(source))
    port = free_port()
    environment = {"HOLDFAST_RUN_DIR": str(folder / "workers"), "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    process = Process(command(kind, port, app, *options), name=kind, folder=folder, ready=lambda: accepts(port), environment=environment)
    return Served(process, port)


def eventually(holds: Callable[[], object], within: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    return soon(holds, within)
