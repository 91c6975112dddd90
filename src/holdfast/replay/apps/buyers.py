"""Buyers of the shop of incident 3: `python -m holdfast.replay.apps.buyers PLAN`.

The load is open-loop, as in `holdfast.replay.load`, but it calls the shop's functions instead of a server of it: what is measured is what
the shop sees of its provider, and the shop spends almost no time of its own.
"""

from __future__ import annotations

import asyncio
import csv
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from holdfast.replay.load import HEAD_START, Sample, arrivals
from holdfast.replay.parts.process import Process

GOOD, FAILED = 200, 0


class Buyers:
    """A running shop with its buyers.

    Args:
        shop: module of `apps`.
        rates: "authorize" and "order", each per second.
        seconds: for how long buyers come.
        seed: of their arrivals.
        folder: for plan, log and results.
        environment: of the shop.
    """

    def __init__(
        self, shop: str, *, rates: Mapping[str, float], seconds: float, seed: int, folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._results = folder / "buyers.csv"
        self.seconds = seconds
        self.start = time.monotonic() + HEAD_START
        plan = {
            "shop": f"holdfast.replay.apps.{shop}",
            "start": self.start,
            "seconds": seconds,
            "seed": seed,
            "rates": dict(rates),
            "out": str(self._results),
        }
        path = folder / "buyers.json"
        path.write_text(json.dumps(plan))
        self.process = Process(
            [sys.executable, "-m", "holdfast.replay.apps.buyers", str(path)], name="buyers", folder=folder, environment=environment
        )

    def wait(self) -> None:
        """Wait until the last buyer has an answer or an error.

        Raises:
            RuntimeError: the shop failed as a whole; with the end of its log.
        """
        while self.process.running:
            time.sleep(0.05)
        if not self._results.exists():
            raise RuntimeError(f"the shop failed:\n{self.process.tail()}")

    def samples(self) -> list[Sample]:
        """What became of all."""
        with self._results.open(newline="") as file:
            return [
                Sample(flow, float(at), float(latency), int(status), 1, float(late)) for flow, at, latency, status, late in csv.reader(file)
            ]


async def buy(plan: Mapping[str, Any]) -> list[Sample]:
    """Let everybody come, and wait for the last."""
    shop = import_module(plan["shop"])
    due = sorted(
        (at, flow, number)
        for flow, rate in plan["rates"].items()
        for number, at in enumerate(arrivals(rate, 0.0, plan["seconds"], Random(f"{plan['seed']} {flow}")))
    )
    calls: dict[str, Callable[..., Awaitable[object]]] = {"authorize": shop.authorize, "order": shop.order}
    samples: list[Sample] = []
    start: float = plan["start"]

    async def one(http: aiohttp.ClientSession, flow: str, number: int, at: float) -> None:
        sent = time.monotonic()
        status = GOOD
        try:
            await calls[flow](http, number)
        except (aiohttp.ClientError, TimeoutError):
            status = FAILED
        samples.append(Sample(flow, at, time.monotonic() - start - at, status, 1, sent - start - at))

    running: set[asyncio.Task[None]] = set()
    async with shop.connect() as http:
        await asyncio.sleep(0)
        gc.collect()
        gc.freeze()  # the collector's long passes would be the shop's longest latencies
        for at, flow, number in due:
            wait = start + at - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(one(http, flow, number, at))
            running.add(task)
            task.add_done_callback(running.discard)
        while running:
            await asyncio.wait(running)
    return samples


def main(path: Path) -> None:
    """Do what a plan says, and leave the results where it says, all or nothing."""
    plan = json.loads(path.read_text())
    samples = asyncio.run(buy(plan))
    out = Path(plan["out"])
    half = out.with_suffix(".part")
    with half.open("w", newline="") as file:
        csv.writer(file).writerows((one.flow, f"{one.at:.6f}", f"{one.latency:.6f}", one.status, f"{one.late:.6f}") for one in samples)
    half.rename(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
