"""What an async call with a real deadline costs."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterator

import floors
import peers
from holdfast import Policy
from measure import Effort, Figure, Timed, awaiting, fastest
from subjects import async_work, five

TASKS = 100
CALLS = 10


def figures(effort: Effort) -> Iterator[Figure]:
    with asyncio.Runner() as runner:
        ours, alone, bare, pyresilience, tenacity = fastest(
            effort.times(400),
            [
                awaiting(runner, five()(async_work)),
                awaiting(runner, Policy("orders", deadline=2.0)(async_work)),
                awaiting(runner, floors.bare_timeout(async_work, 2.0)),
                awaiting(runner, peers.pyresilience_async(async_work)),
                awaiting(runner, peers.tenacity(async_work)),
            ],
        )
        yield Figure("async: the five / bare asyncio.timeout", ours / bare, 1.2)
        yield Figure("async: a policy's deadline alone / bare asyncio.timeout", alone / bare)
        yield Figure("async: the five / pyresilience, all five", ours / pyresilience)
        yield Figure("async: the five / tenacity's retry only", ours / tenacity)

        ours, bare = fastest(
            effort.times(100),
            [_crowd(runner, Policy("orders", deadline=2.0)(_yields)), _crowd(runner, floors.bare_timeout(_yields, 2.0))],
        )
        yield Figure(f"async: a deadline alone / bare asyncio.timeout, {TASKS} tasks at once", ours / bare)


async def _yields(value: int) -> int:
    await asyncio.sleep(0)
    return value


def _crowd(runner: asyncio.Runner, fn: Callable[[int], Awaitable[int]]) -> Timed:
    async def several() -> None:
        for _ in range(CALLS):
            await fn(1)

    async def crowd() -> float:
        gc.disable()
        try:
            began = time.perf_counter()
            await asyncio.gather(*(several() for _ in range(TASKS)))
            return time.perf_counter() - began
        finally:
            gc.enable()

    return lambda: runner.run(crowd())
