"""Open-loop load: requests are sent when they are due, whether or not earlier ones were answered.

A load that waits for answers slows down with the service it measures and never sees the queue (coordinated omission). Here the arrivals
are drawn beforehand, a Poisson process for each flow, and a latency counts from the moment a request was due. The requests are sent by a
process of its own (`python -m holdfast.replay.load PLAN`), so that sending takes no time from what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

import aiohttp

from holdfast.replay.parts.process import Process

# What a plan allows for the processes to start and import, before its first request is due.
HEAD_START = 1.5

# aiohttp's own timers do not matter: `patience` is the only limit.
_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Requests of one kind.

    Args:
        name: in the results.
        url: `{id}` becomes the request's own id and `{n}` its number, here, in headers and in the body.
        rate: per second, on average.
        method: GET, POST ...
        headers: of each request.
        body: of each request.
        patience: seconds until the client gives up on an attempt and closes the connection.
        again: how many times it then tries again, with the same id; also after a 5xx.
        pause: seconds before it does.
        begin: when its first request may be due, in seconds after the load's start.
        end: when its last one may be; None for the load's end.
    """

    name: str
    url: str
    rate: float
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None
    patience: float = 10.0
    again: int = 0
    pause: float = 0.0
    begin: float = 0.0
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: the attempts of a client who tries again are one.

    Args:
        flow: its kind.
        at: when it was due, in seconds after the load's start.
        latency: from then to the last byte of its last answer, or to giving up; in seconds.
        status: of the last attempt; 0 for none: given up, refused, reset.
        attempts: how many it took.
        late: how much later than due it was sent; the generator's own fault.
    """

    flow: str
    at: float
    latency: float
    status: int
    attempts: int
    late: float

    @property
    def good(self) -> bool:
        """Answered, and not with an error."""
        return 200 <= self.status < 400


class Load:
    """A running load.

    Args:
        flows: what to send.
        seconds: for how long requests fall due.
        seed: of the arrivals.
        folder: for its plan, log and results.
        name: of its files.
    """

    def __init__(self, flows: Sequence[Flow], *, seconds: float, seed: int, folder: Path, name: str = "load") -> None:
        self._results = folder / f"{name}.csv"
        self.seconds = seconds
        self.start = time.monotonic() + HEAD_START  # of all processes of a machine alike
        plan = {"start": self.start, "seconds": seconds, "seed": seed, "out": str(self._results), "flows": [asdict(flow) for flow in flows]}
        path = folder / f"{name}.json"
        path.write_text(json.dumps(plan))
        self._process = Process([sys.executable, "-m", "holdfast.replay.load", str(path)], name=name, folder=folder)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._process.stop()

    def samples(self) -> list[Sample]:
        """Wait until the last request is answered or given up, and read what became of all.

        Raises:
            RuntimeError: the generator failed; with the end of its log.
        """
        while self._process.running:
            time.sleep(0.05)
        if not self._results.exists():
            raise RuntimeError(f"the load generator failed:\n{self._process.tail()}")
        with self._results.open(newline="") as file:
            return [
                Sample(flow, float(at), float(latency), int(status), int(attempts), float(late))
                for flow, at, latency, status, attempts, late in csv.reader(file)
            ]


def arrivals(rate: float, begin: float, end: float, rng: Random) -> Iterator[float]:
    """A Poisson process: when requests fall due."""
    at = begin
    while (at := at + rng.expovariate(rate)) < end:
        yield at


async def _one(session: aiohttp.ClientSession, flow: Flow, due: float, number: int, identity: str) -> Sample:
    sent = time.monotonic()
    status = attempts = 0
    for attempt in range(1 + flow.again):
        if attempt:
            await asyncio.sleep(flow.pause)
        attempts += 1
        status = await _attempt(session, flow, number, identity)
        if 0 < status < 500:
            break
    return Sample(flow.name, due, time.monotonic() - due, status, attempts, sent - due)


async def _attempt(session: aiohttp.ClientSession, flow: Flow, number: int, identity: str) -> int:
    def fill(text: str) -> str:
        return text.replace("{id}", identity).replace("{n}", str(number))

    headers = {name: fill(value) for name, value in flow.headers.items()}
    body = None if flow.body is None else fill(flow.body)
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(flow.patience), session.request(flow.method, fill(flow.url), headers=headers, data=body) as response:
            await response.read()
            return response.status
    return 0


async def generate(flows: Sequence[Flow], *, start: float, seconds: float, seed: int) -> list[Sample]:
    """Send everything, and wait for the last answer.

    Args:
        flows: what to send.
        start: a time of the monotonic clock.
        seconds: for how long requests fall due.
        seed: of the arrivals.
    """
    due = sorted(
        (at, flow.name, number, flow)
        for flow in flows
        for number, at in enumerate(arrivals(flow.rate, flow.begin, flow.end or seconds, Random(f"{seed} {flow.name}")))
        if at < seconds
    )
    identities = Random(f"{seed} identities")
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    tasks = []
    async with aiohttp.ClientSession(connector=connector, timeout=_NO_TIMEOUT) as session, asyncio.TaskGroup() as group:
        for at, _, number, flow in due:
            await asyncio.sleep(max(0.0, start + at - time.monotonic()))
            identity = str(uuid.UUID(int=identities.getrandbits(128), version=4))
            tasks.append(group.create_task(_one(session, flow, start + at, number, identity)))
    samples = (task.result() for task in tasks)
    return [Sample(one.flow, one.at - start, one.latency, one.status, one.attempts, one.late) for one in samples]


def main(path: Path) -> None:
    """Do what a plan says, and leave the results where it says, all or nothing."""
    plan = json.loads(path.read_text())
    flows = [Flow(**flow) for flow in plan["flows"]]
    samples = asyncio.run(generate(flows, start=plan["start"], seconds=plan["seconds"], seed=plan["seed"]))
    out = Path(plan["out"])
    half = out.with_suffix(".part")
    with half.open("w", newline="") as file:
        writer = csv.writer(file)
        for one in samples:
            writer.writerow((one.flow, f"{one.at:.6f}", f"{one.latency:.6f}", one.status, one.attempts, f"{one.late:.6f}"))
    half.rename(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
