"""The floors: what holdfast is compared with, written by hand and as flat as it gets.

They work (run.py checks it before it measures), but they are not holdfast: `five` counts places and failures and retries within
its budget and deadline, and has no probes, no events, no queue and no way to be configured.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from threading import Lock
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Refused(Exception):
    """What the floors raise."""


def pass_through(fn: Callable[P, R]) -> Callable[P, R]:
    """The empty decorator: what any decorator costs."""

    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return fn(*args, **kwargs)

    return wrapper


def async_pass_through(fn: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """The empty decorator of async code."""

    @functools.wraps(fn)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return await fn(*args, **kwargs)

    return wrapper


def bare_timeout(fn: Callable[[int], Awaitable[R]], seconds: float) -> Callable[[int], Awaitable[R]]:
    """`asyncio.timeout` around a call and nothing else, not even arguments passed through."""

    async def bounded(value: int) -> R:
        async with asyncio.timeout(seconds):
            return await fn(value)

    return bounded


ambient: ContextVar[float | None] = ContextVar("floors.deadline", default=None)

DEADLINE = 2.0
ATTEMPTS = 3
PAUSE = 0.0
LIMIT = 64
BUDGET_RATIO, BUDGET_FLOOR = 0.1, 10.0
FAILURE_RATE, MIN_CALLS, OPEN_FOR = 0.5, 100, 30.0
SLICE = 1.0
SLICES = 60


def five(fn: Callable[P, R]) -> Callable[P, R]:  # noqa: C901  (flat is what it is for)
    """Deadline, retry, budget, breaker and bulkhead, flat: locks, a context variable, two clock reads, window counts."""
    breaker_lock, budget_lock, places_lock = Lock(), Lock(), Lock()
    open_until = 0.0
    generation = 0
    calls = failures = 0
    marks = [(0, 0)] * SLICES  # what the two counts said as each slice began
    turns_at = 0.0
    deposits = retries = 0
    budget_marks = [(0, 0)] * SLICES
    budget_turns_at = 0.0
    running = 0

    def judge(now: float) -> None:
        nonlocal failures, open_until, generation
        failures += 1
        calls_before, failures_before = marks[(int(now / SLICE) + 1) % SLICES]
        recent = calls - calls_before
        if recent >= MIN_CALLS and (failures - failures_before) / recent >= FAILURE_RATE:
            open_until = now + OPEN_FOR
            generation += 1

    def grants(now: float) -> bool:
        nonlocal retries
        deposits_before, retries_before = budget_marks[(int(now / SLICE) + 1) % SLICES]
        with budget_lock:
            granted = retries - retries_before < BUDGET_RATIO * (deposits - deposits_before) + BUDGET_FLOOR
            retries += granted
        return granted

    @functools.wraps(fn)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal calls, deposits, running, turns_at, budget_turns_at
        now = time.monotonic()
        outer = ambient.get()
        limit = now + DEADLINE
        if outer is not None and outer < limit:
            limit = outer
        attempt = 1
        while True:
            if now >= limit:
                raise TimeoutError
            with breaker_lock:
                if now < open_until:
                    raise Refused("breaker")
                permit = generation
            with places_lock:
                if running >= LIMIT:
                    raise Refused("bulkhead")
                running += 1
            if attempt == 1:
                with budget_lock:
                    if now >= budget_turns_at:
                        budget_marks[int(now / SLICE) % SLICES] = (deposits, retries)
                        budget_turns_at = (now // SLICE + 1) * SLICE
                    deposits += 1
            token = ambient.set(limit)
            failure = None
            try:
                return fn(*args, **kwargs)
            except (ConnectionError, TimeoutError) as error:
                failure = error
                if attempt >= ATTEMPTS or not grants(now):
                    raise
            finally:
                ambient.reset(token)
                now = time.monotonic()
                with breaker_lock:
                    if permit == generation:
                        if now >= turns_at:
                            marks[int(now / SLICE) % SLICES] = (calls, failures)
                            turns_at = (now // SLICE + 1) * SLICE
                        calls += 1
                        if failure is not None:
                            judge(now)
                with places_lock:
                    running -= 1
                failure = None
            attempt += 1

    return guarded


def check() -> None:
    """The floors do what they are to do; otherwise they would be no floor."""
    answers: Iterator[int | Exception] = iter([ConnectionError(), 7])

    @five
    def flaky(_: int) -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        assert ambient.get() is not None
        return answer

    @five
    def down(_: int) -> int:
        raise ConnectionError

    assert flaky(1) == 7
    refused = 0
    for _ in range(2 * MIN_CALLS):
        try:
            down(1)
        except Refused:
            refused += 1
        except ConnectionError:
            pass
    assert refused > MIN_CALLS / 2
    assert ambient.get() is None
