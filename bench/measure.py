"""How everything here is measured: interleaved in one process, the minimum of many short repeats, read as a ratio.

The machine is shared, so a time by itself says nothing. What is compared runs in turns (A, B, C, A, B, C, ...), a repeat lasts about
a millisecond, and of each the fastest repeat counts: whatever disturbs only makes things slower.

Each loop is compiled anew (`timeit` does it for blocking code, `_own_code` for async): CPython specializes a call site for
what it has met there, and a loop that had called something else before would not be the loop of a real program.
"""

from __future__ import annotations

import asyncio
import gc
import time
import timeit
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from types import FunctionType
from typing import TypeVar, cast

T = TypeVar("T")

_UNROLLED = 10  # calls written out in a loop, so that the loop itself is not measured
_REPEAT_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Effort:
    """How many repeats each thing gets: `scale` of what is usual."""

    scale: float = 1.0

    def times(self, usual: int) -> int:
        return max(2, round(usual * self.scale))


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table; without a bar it is information.

    Args:
        what: the sentence before the number.
        measured: the ratio, or a count of `unit`.
        bar: the most that it may be.
        unit: what is counted; a ratio is an "x".
    """

    what: str
    measured: float
    bar: float | None = None
    unit: str = "x"

    @property
    def held(self) -> bool:
        return self.bar is None or self.measured <= self.bar


Timed = Callable[[], float]


def fastest(rounds: int, timed: Sequence[Timed]) -> list[float]:
    """Run all in turns, each round beginning with another and every second one backwards; the fewest seconds of each.

    Whoever follows one that shares its code finds that code in the caches, so nobody is to follow the same one each time.
    """
    best = [float("inf")] * len(timed)
    gc.collect()
    gc.freeze()
    try:
        for turn in range(rounds):
            for offset in range(len(timed)):
                index = (turn + (offset if turn % 2 else -offset)) % len(timed)
                gc.collect()  # the garbage of one is not to be paid for by the next
                best[index] = min(best[index], timed[index]())
    finally:
        gc.unfreeze()
    return best


def blocking(statement: str, **names: object) -> Timed:
    """Seconds for one `statement`; the names in it are local variables of the loop."""
    setup = "; ".join(f"{name} = _{name}" for name in names)
    is_block = "\n" in statement
    body = "\n".join([statement] * _UNROLLED) if is_block else "; ".join([statement] * _UNROLLED)
    timer = timeit.Timer(body, setup or "pass", globals={f"_{name}": value for name, value in names.items()})
    number = _calibrate(timer.timeit)
    return lambda: timer.timeit(number) / (number * _UNROLLED)


def _calibrate(run: Callable[[int], float]) -> int:
    run(200)  # specialized, and warm
    number = 1
    while run(number) < _REPEAT_SECONDS / 2:
        number *= 2
    return number


def awaiting(runner: asyncio.Runner, fn: Callable[[int], Awaitable[object]]) -> Timed:
    """Seconds for one `await fn(1)`, in the runner's loop."""
    loop = _own_code(_await_many)
    number = _calibrate(lambda number: runner.run(loop(fn, number)))
    return lambda: runner.run(loop(fn, number)) / (number * _UNROLLED)


def awaiting_refusals(runner: asyncio.Runner, fn: Callable[[int], Awaitable[object]], refusal: type[Exception]) -> Timed:
    """Seconds for one `await fn(1)` that raises `refusal`, caught."""
    loop = _own_code(_await_refusals)
    number = _calibrate(lambda number: runner.run(loop(fn, refusal, number)))
    return lambda: runner.run(loop(fn, refusal, number)) / number


def _own_code(fn: T) -> T:
    function = cast("FunctionType", fn)
    return cast("T", FunctionType(function.__code__.replace(), function.__globals__, function.__name__))


async def _await_many(fn: Callable[[int], Awaitable[object]], number: int) -> float:
    gc.disable()
    try:
        began = time.perf_counter()
        for _ in repeat(None, number):
            await fn(1)
            await fn(1)
            await fn(1)
            await fn(1)
            await fn(1)
            await fn(1)
            await fn(1)
            await fn(1)
            await fn(1)
            await fn(1)
        # The loop's own sweeping of cancelled timers belongs to what sets timers, but a loop that never turns is the
        # benchmark's doing and not theirs: it is left out.
        elapsed = time.perf_counter() - began
        await asyncio.sleep(0)
        return elapsed
    finally:
        gc.enable()


async def _await_refusals(fn: Callable[[int], Awaitable[object]], refusal: type[Exception], number: int) -> float:
    gc.disable()
    try:
        began = time.perf_counter()
        for _ in repeat(None, number):
            try:  # noqa: SIM105  (what is measured is an except, and not a context manager)
                await fn(1)
            except refusal:
                pass
        return time.perf_counter() - began
    finally:
        gc.enable()
