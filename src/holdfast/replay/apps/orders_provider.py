"""The provider of incident 3 behind a network with moods: `python -m holdfast.replay.apps.orders_provider MODULE PORT BOOK MOODS SEED`.

A stall is on the way there or on the way back. Either way the provider's work is done, at once or late, whether or not the caller still
waits: that is what makes a second order of a second attempt.
"""

from __future__ import annotations

import asyncio
import csv
import json
import sys
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import asdict, astuple, dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import uvicorn

from holdfast.replay.apps.provider import Mood
from holdfast.replay.parts.process import Process, accepts, free_port
from holdfast.servers.interfaces import ASGIApp, Receive, Scope, Send

# Of the normal distribution whose exponential the usual times are: 99.99 % are within 1.45 x the median.
_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it came.

    Args:
        path: of its URL.
        at: time of the monotonic clock.
        took: seconds that the network and the provider took, whether or not somebody waited for it.
        status: what the network answered with; 200 where the application did.
        identity: its `X-Request-Id`; empty where it has none.
    """

    path: str
    at: float
    took: float
    status: int
    identity: str


class OrdersProvider:
    """The provider in a process of its own.

    Args:
        folder: for its plan, log and book.
        module: of `apps`, with the ASGI application `app`.
        database_url: where it keeps orders.
        seed: of its service times and stalls.
    """

    def __init__(self, folder: Path, module: str, database_url: str, seed: int) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._book = folder / "provider.csv"
        self._moods = folder / "moods.json"
        self.behave([Mood(since=0.0, median=0.0)])
        arguments = [f"holdfast.replay.apps.{module}", str(self.port), str(self._book), str(self._moods), str(seed)]
        self.process = Process(
            [sys.executable, "-m", "holdfast.replay.apps.orders_provider", *arguments],
            name="provider",
            folder=folder,
            environment={"DATABASE_URL": database_url},
            ready=lambda: accepts(self.port),
        )

    def behave(self, moods: Sequence[Mood]) -> None:
        """From now on, behave like that; it is read once a second at most."""
        half = self._moods.with_suffix(".part")
        half.write_text(json.dumps([asdict(mood) for mood in moods]))
        half.rename(self._moods)

    def asked(self) -> list[Asked]:
        """What it was asked, after it was stopped."""
        with self._book.open(newline="") as file:
            return [Asked(path, float(at), float(took), int(status), identity) for path, at, took, status, identity in csv.reader(file)]


class Network:
    """What lies between the caller and an application."""

    def __init__(self, app: ASGIApp, moods_file: Path, book_file: Path, seed: int) -> None:
        self._app = app
        self._book_file = book_file
        self._rng = Random(seed)
        self._moods_file = moods_file
        self._moods: list[Mood] = []
        self._read_at = 0.0
        self._book: list[Asked] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, late or not at all."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)  # it returns when the server has ended
            self._write()
            return
        now = time.monotonic()
        mood = self._mood(now)
        took = mood.median * self._rng.lognormvariate(0.0, _SPREAD)
        stalled = self._rng.random() < mood.stall
        back = self._rng.random() < 0.5
        if stalled:
            took = mood.stalled
        identity = next((value.decode() for name, value in scope["headers"] if name == b"x-request-id"), "")
        self._book.append(Asked(scope["path"], now, took, mood.status, identity))
        if mood.status >= 500:
            await asyncio.sleep(took)
            await send({"type": "http.response.start", "status": mood.status, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})
        elif back:
            await self._late_back(took, scope, receive, send)
        else:
            await self._late_there(took, scope, receive, send)

    async def _late_there(self, took: float, scope: Scope, receive: Receive, send: Send) -> None:
        # What was sent arrives, whether or not its sender has hung up meanwhile; the server would tell the application of that first.
        request = [await receive()]
        while request[-1].get("more_body"):
            request.append(await receive())
        await asyncio.sleep(took)

        async def arrived() -> MutableMapping[str, Any]:
            return request.pop(0) if request else await receive()

        await self._app(scope, arrived, send)

    async def _late_back(self, took: float, scope: Scope, receive: Receive, send: Send) -> None:
        answer: list[MutableMapping[str, Any]] = []

        async def keep(message: MutableMapping[str, Any]) -> None:
            answer.append(message)

        arrives = time.monotonic() + took
        await self._app(scope, receive, keep)
        await asyncio.sleep(max(0.0, arrives - time.monotonic()))
        for message in answer:
            await send(message)

    def _write(self) -> None:
        with self._book_file.open("w", newline="") as file:
            csv.writer(file).writerows(astuple(one) for one in self._book)

    def _mood(self, now: float) -> Mood:
        if now - self._read_at > 1.0 or not self._moods:
            self._moods = [Mood(**one) for one in json.loads(self._moods_file.read_text())]
            self._read_at = now
        return [one for one in self._moods if one.since <= now][-1]


def main(module: str, port: str, book: str, moods: str, seed: str) -> None:
    """Serve until SIGTERM."""
    network = Network(import_module(module).app, Path(moods), Path(book), int(seed))
    uvicorn.run(
        network, host="127.0.0.1", port=int(port), http="httptools", log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
