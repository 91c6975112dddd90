"""What a policy takes, and what calls leave to the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import peers
from holdfast import Backoff, Breaker, Budget, Bulkhead, Policy, Retry
from measure import Effort, Figure
from subjects import async_work, five, five_opened, retry_only, work

CALLS = 500
POLICIES = 200


def figures(effort: Effort) -> Iterator[Figure]:
    del effort  # counted, not timed
    for name, make in (
        ("retry only", lambda: retry_only()(work)),
        ("the five", lambda: five()(work)),
        ("pyresilience retry+breaker+bulkhead", lambda: peers.pyresilience(work)),
        ("tenacity + pybreaker", lambda: peers.tenacity_pybreaker(work)),
    ):
        yield Figure(f"memory of a decorated function: {name}", _kept(make) / 1000, unit=" kB")
    refusing = five_opened()
    subjects: list[tuple[str, Callable[[int], object]]] = [
        ("retry only", retry_only()(work)),
        ("the five", five()(work)),
        ("the five, its three attempts failing", _retried()(_fails)),
        ("the five, refused", refusing(work)),
        ("the five by policy.call(...), refused", lambda value: refusing.call(work, value)),
        ("tenacity", peers.tenacity(work)),
        ("stamina", peers.stamina(work)),
        ("pyresilience", peers.pyresilience(work)),
        ("pybreaker, refused", peers.pybreaker_open(work)[0]),
    ]
    for name, fn in subjects:
        yield Figure(f"cyclic garbage per call: {name}", _garbage(fn), unit=" B")
    awaited: list[tuple[str, Callable[[int], Awaitable[object]]]] = [
        ("retry only", retry_only()(async_work)),
        ("the five", five()(async_work)),
        ("the five, its three attempts failing", _retried()(_fails_async)),
        ("the five, refused", refusing(async_work)),
        ("tenacity", peers.tenacity(async_work)),
        ("stamina", peers.stamina(async_work)),
        ("pyresilience", peers.pyresilience_async(async_work)),
    ]
    for name, afn in awaited:
        yield Figure(f"async: cyclic garbage per call: {name}", _garbage_async(afn), unit=" B")


def _retried() -> Policy:
    budget = Budget(ratio=1.0, min_per_second=1e6)
    retry = Retry(budget=budget, backoff=Backoff(base=0.0, jitter="none"))
    return Policy("orders", deadline=2.0, retry=retry, breaker=Breaker(min_calls=10**9), bulkhead=Bulkhead(64))


def _fails(_: int) -> int:
    raise ConnectionError


async def _fails_async(_: int) -> int:
    raise ConnectionError


def _kept(make: Callable[[], object]) -> float:
    make()
    tracemalloc.start()
    try:
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        kept = [make() for _ in range(POLICIES)]
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        return (after - before) / len(kept)
    finally:
        tracemalloc.stop()


def _garbage(fn: Callable[[int], object]) -> float:
    _call(fn, CALLS)
    tracemalloc.start()
    gc.collect()
    gc.disable()
    try:
        _call(fn, CALLS)
        return _collected() / CALLS
    finally:
        gc.enable()
        tracemalloc.stop()


def _garbage_async(fn: Callable[[int], Awaitable[object]]) -> float:
    async def run() -> float:
        await _acall(fn, CALLS)
        await asyncio.sleep(0)
        tracemalloc.start()
        gc.collect()
        gc.disable()
        try:
            await _acall(fn, CALLS)
            await asyncio.sleep(0)
            return _collected() / CALLS
        finally:
            gc.enable()
            tracemalloc.stop()

    return asyncio.run(run())


def _collected() -> int:
    """Bytes that only the collector gives back; what it frees without finding rings are its own and our bookkeeping."""
    before, _ = tracemalloc.get_traced_memory()
    rings = gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    return before - after if rings else 0


def _call(fn: Callable[[int], object], calls: int) -> None:
    for _ in range(calls):
        with suppress(Exception):
            fn(1)


async def _acall(fn: Callable[[int], Awaitable[object]], calls: int) -> None:
    for _ in range(calls):
        with suppress(Exception):
            await fn(1)
