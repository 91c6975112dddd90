"""What the attacks on the core share: ways to interrupt code at every point, and to see that nothing is held afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any

from holdfast import Policy, events
from holdfast.testing import FakeClock


def nothing_held(policy: Policy) -> None:
    """No place, no ticket and no probe is taken."""
    seen = policy.snapshot()
    limit, breaker = seen["limit"], seen["breaker"]
    assert limit is None or (limit["running"], limit["waiting"]) == (0, 0), seen
    assert breaker is None or breaker["probes"] == 0, seen


def room(policy: Policy) -> int:
    """How many calls get a place at once: what `snapshot` says is one thing, what can be used is another."""
    with FakeClock(time.monotonic()), contextlib.ExitStack() as stack:
        for taken in range(1000):
            try:
                stack.enter_context(policy.guard())
            except Exception:
                return taken
    raise AssertionError("there is no limit")


def fail(error: BaseException) -> Any:
    raise error


@contextlib.contextmanager
def listening() -> Iterator[list[events.Event]]:
    """The events of the block."""
    seen: list[events.Event] = []
    stop = events.subscribe(seen.append)
    try:
        yield seen
    finally:
        stop()


def in_threads(count: int, work: Callable[[int], object], timeout: float = 30.0) -> list[object]:
    """Run `work(index)` in threads that begin at the same moment; what each returned or raised."""
    outcomes: list[object] = [None] * count
    gate = threading.Barrier(count)

    def body(index: int) -> None:
        gate.wait(timeout)
        try:
            outcomes[index] = work(index)
        except BaseException as error:
            outcomes[index] = error

    threads = [threading.Thread(target=body, args=(index,), daemon=True) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return outcomes


class Peak:
    """Counts how many are inside at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.inside = self.most = self.entries = 0

    def __enter__(self) -> None:
        with self._lock:
            self.inside += 1
            self.entries += 1
            self.most = max(self.most, self.inside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.inside -= 1


# How a cancellation may arrive at a suspension: thrown in, by task.cancel(), or just as what was waited for has come.
ARRIVALS = ("thrown", "by the task", "as it is served")


@types.coroutine
def _driven(work: Coroutine[Any, Any, Any], at: int, arrival: str) -> Generator[Any, Any, bool]:
    """Run `work`, and cancel it at its suspension number `at`; whether it got so far."""
    error: BaseException | None = None
    steps = 0
    while True:
        try:
            waits = work.send(None) if error is None else work.throw(error)
        except StopIteration:
            return steps >= at
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and arrival == "by the task":
                task.uncancel()
            return steps >= at
        error = None
        steps += 1
        here = steps == at
        if here and arrival == "thrown":
            if waits is not None:
                waits._asyncio_future_blocking = False
            error = asyncio.CancelledError()
            continue
        if here and arrival == "by the task":
            asyncio.current_task().cancel()  # type: ignore[union-attr]
        try:
            yield waits
        except BaseException as thrown:
            error = thrown
        else:
            if here and arrival == "as it is served":
                error = asyncio.CancelledError()


async def _quiet() -> None:
    # Whatever else runs in the loop comes to its end.
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


async def cancel_everywhere(
    arrival: str, scenario: Callable[[], tuple[Coroutine[Any, Any, Any], Callable[[], Awaitable[None] | None]]]
) -> int:
    """Cancel the coroutine of `scenario` at its first, second, third ... suspension until it has no more; at how many it was.

    After each time all other tasks are waited for, and the scenario's second part checks what is left.
    """
    for at in range(1, 200):
        work, check = scenario()
        reached = await _driven(work, at, arrival)
        await _quiet()
        checked = check()
        if checked is not None:
            await checked
        if not reached:
            return at - 1
    raise AssertionError("it never comes to an end")
