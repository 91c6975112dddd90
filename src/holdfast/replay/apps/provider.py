"""Somebody else's service, with the moods of a script: `python -m holdfast.replay.apps.provider PLAN`.

It answers everything with JSON after its service time, and writes down each request: when it came, how long it took, what was answered.
"""

from __future__ import annotations

import asyncio
import csv
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from aiohttp import web

from holdfast.replay.parts.process import Process, accepts, free_port

# Of the normal distribution whose exponential the service times are: a p99 of 1.6 x the median.
_SPREAD = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """How the provider is from a moment on.

    Args:
        since: time of the monotonic clock.
        median: of its service time, in seconds.
        stall: the share of requests that take `stalled` seconds instead.
        stalled: seconds.
        status: what it answers with.
    """

    since: float
    median: float
    stall: float = 0.0
    stalled: float = 0.0
    status: int = 200


@dataclass(frozen=True, slots=True)
class Served:
    """One request, as the provider saw it. `at` is a time of the monotonic clock; a `status` of 0 means that the caller had gone."""

    path: str
    at: float
    took: float
    status: int


class Provider:
    """The provider in a process of its own.

    Args:
        folder: for its plan, log and book.
        seed: of its service times.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._book = folder / "provider.csv"
        self._moods = folder / "moods.json"
        self.behave([Mood(since=0.0, median=0.0)])
        command = [sys.executable, "-m", "holdfast.replay.apps.provider", str(self.port), str(self._book), str(self._moods), str(seed)]
        self.process = Process(command, name="provider", folder=folder, ready=lambda: accepts(self.port))

    def behave(self, moods: Sequence[Mood]) -> None:
        """From now on, behave like that."""
        half = self._moods.with_suffix(".part")
        half.write_text(json.dumps([asdict(mood) for mood in moods]))
        half.rename(self._moods)

    def served(self) -> list[Served]:
        """What it served, after it was stopped."""
        with self._book.open(newline="") as file:
            return [Served(path, float(at), float(took), int(status)) for path, at, took, status in csv.reader(file)]


def _application(book: Path, moods_file: Path, seed: int) -> web.Application:
    rng = Random(seed)
    moods: list[Mood] = []
    read_at = 0.0

    def mood(now: float) -> Mood:
        nonlocal moods, read_at
        changed = moods_file.stat().st_mtime_ns
        if changed != read_at:
            moods = [Mood(**one) for one in json.loads(moods_file.read_text())]
            read_at = changed
        return [one for one in moods if one.since <= now][-1]

    async def serve(request: web.Request) -> web.Response:
        began = time.monotonic()
        now = mood(began)
        usual = now.median * rng.lognormvariate(0.0, _SPREAD)
        status = 0
        try:
            await asyncio.sleep(now.stalled if rng.random() < now.stall else usual)
            status = now.status
        finally:
            writer.writerow((request.path, f"{began:.6f}", f"{time.monotonic() - began:.6f}", status))
        return web.json_response({"customer": 7}, status=status)

    file = book.open("w", newline="")
    writer = csv.writer(file)

    async def close(_: web.Application) -> None:
        file.close()

    application = web.Application()
    application.router.add_route("*", "/{anything:.*}", serve)
    application.on_cleanup.append(close)
    return application


def main(port: str, book: str, moods: str, seed: str) -> None:
    """Serve until SIGTERM."""
    application = _application(Path(book), Path(moods), int(seed))
    web.run_app(application, host="127.0.0.1", port=int(port), print=None, handler_cancellation=True, shutdown_timeout=0.2, access_log=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
