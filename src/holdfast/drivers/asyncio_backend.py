"""asyncio under the async driver.

`asyncio.timeout` costs a timer of the loop per block. Here all blocks of a loop share one: their ends stand in a heap, and the timer
is set for the first. Deadlines are usually constant, so they come in the order in which they end, and the timer is set anew only when
it rings.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from types import TracebackType
from typing import Any, Protocol, TypeVar

from holdfast.deadlines import Deadline
from holdfast.drivers.clock import Clock
from holdfast.policies.places import Ticket
from holdfast.race import Race

R = TypeVar("R")

# Ended blocks stay in the heap until they come up; when they are this many and the most of it, it is swept.
_SWEEP = 64

# A loop may ring early by the rounding of its clock; an end this near has come.
_EARLY = 1e-6


_order = count()  # of cut-offs that end at the same moment


class _Loop:
    """One event loop: its cut-offs, soonest first."""

    __slots__ = ("_loop", "_timer", "heap", "live", "rings_at", "shields")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self.heap: list[tuple[float, int, _Cutoff]] = []  # ended ones too, until they come up
        self.live = 0  # those that have not ended
        self.rings_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self.shields: dict[asyncio.Task[Any], _Shield] = {}  # the innermost shield of each task that is in one

    # What the driver calls.

    def cutoff(self, limit: Deadline | None, clock: Clock) -> _Cutoff:
        """See `Backend.cutoff`."""
        return _Cutoff(self, limit, clock)

    def shield(self) -> _Shield:
        """See `Backend.shield`."""
        return _Shield(self)

    async def sleep(self, seconds: float) -> None:
        """See `Backend.sleep`."""
        await asyncio.sleep(seconds)

    async def wait(self, ticket: Ticket, seconds: float) -> None:
        """See `Backend.wait`."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        # The place may be freed in another thread, or in another loop.
        ticket.wake = lambda: loop.call_soon_threadsafe(wake)
        if ticket.permit:
            return
        timer = loop.call_later(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()

    async def race(self, race: Race, clock: Clock, start: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """See `Backend.race`."""
        began: dict[asyncio.Task[R], float] = {asyncio.create_task(start()): clock.now()}
        try:
            while True:
                patience = race.patience(clock.now())
                done, _ = await asyncio.wait(began, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                now = clock.now()
                if not done:
                    if patience is not None and race.rival(now):
                        began[asyncio.create_task(start())] = now
                    continue
                while done:
                    ended = done.pop()
                    error = asyncio.CancelledError() if ended.cancelled() else ended.exception()
                    if race.ended(error, now - began.pop(ended), now):
                        return ended.result()
        finally:
            done = ended = error = None  # type: ignore[assignment]  # an error's traceback holds this frame: no ring of the two
            now = clock.now()
            for since in began.values():
                race.lost(now - since, now)
            if began:
                await _end(list(began))

    # What the cut-offs call.

    def sweep(self) -> None:
        """Forget the cut-offs that have ended, where they are most of the heap."""
        if len(self.heap) > 2 * self.live:
            self.heap[:] = [entry for entry in self.heap if entry[2].waits]
            heapify(self.heap)

    def set(self, at: float, clock: Clock) -> None:
        """Ring at this time of `clock`."""
        loop = self._loop()
        if loop is not None:
            self.rings_at = at
            if self._timer is not None:  # a later one, which goes on from here
                self._timer.cancel()
            self._timer = loop.call_later(max(0.0, at - clock.now()), self._ring, clock)

    def _ring(self, clock: Clock) -> None:
        self._timer = None
        self.rings_at = inf
        heap = self.heap
        now = clock.now() + _EARLY
        while heap and (heap[0][0] <= now or not heap[0][2].waits):
            cutoff = heappop(heap)[2]
            if cutoff.waits:
                cutoff.fire()
        if heap:
            self.set(heap[0][0], clock)


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end, even if this is cancelled meanwhile: what was begun here does not outlive it."""
    cancelled: asyncio.CancelledError | None = None
    for task in tasks:
        task.cancel()
    try:
        while any(not task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:
                cancelled = error
        for task in tasks:
            if not task.cancelled():
                task.exception()  # asked for, so that asyncio does not report it as lost
        if cancelled is not None:
            raise cancelled
    finally:
        cancelled = None


class _Cutoff:
    """See `Cutoff`."""

    __slots__ = ("_cancels", "_clock", "_fired", "_limit", "_loop", "_shield", "_task")

    def __init__(self, loop: _Loop, limit: Deadline | None, clock: Clock) -> None:
        self._loop = loop
        self._limit = limit
        self._clock = clock
        self._fired = False
        self._cancels = 0
        self._shield: _Shield | None = None  # the one around this block
        self._task: asyncio.Task[Any] | None = None

    @property
    def waits(self) -> bool:
        """Whether its block still runs."""
        return self._task is not None

    def __enter__(self) -> None:
        limit = self._limit
        if limit is None:
            return
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline in async code needs a task to cancel")
        self._task = task
        self._cancels = task.cancelling()
        if self._loop.shields:
            self._shield = self._loop.shields.get(task)
        loop = self._loop
        loop.live += 1
        heappush(loop.heap, (limit.at, next(_order), self))
        if limit.at < loop.rings_at:
            loop.set(limit.at, self._clock)

    def fire(self) -> None:
        """The time is up: cancel the task, at once or when the shield that it is in has ended."""
        task = self._task
        if task is None or self._fired:
            return
        shield = self._loop.shields.get(task)
        if shield is not self._shield and shield is not None:
            shield.held.append(self)
        else:
            self._fired = True
            task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        task, limit = self._task, self._limit
        if task is None or limit is None:
            return
        self._task = None
        loop = self._loop
        loop.live -= 1
        if not loop.live:
            loop.heap.clear()
        elif len(loop.heap) > _SWEEP:
            loop.sweep()
        # Whoever else cancelled the task as well is not to be robbed of it: only our own cancellation becomes an error.
        if self._fired and task.uncancel() <= self._cancels and isinstance(error, asyncio.CancelledError):
            raise limit.exceeded(self._clock.now()) from error


class Fires(Protocol):
    """What a shield may hold off."""

    def fire(self) -> None:
        """End the block."""
        ...


class _Shield:
    """Holds off the cut-offs of its task that began before it."""

    __slots__ = ("_loop", "_outer", "_task", "held")

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._outer: _Shield | None = None
        self._task: asyncio.Task[Any] | None = None
        self.held: list[Fires] = []

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        if self._task is not None:
            self._outer = self._loop.shields.get(self._task)
            self._loop.shields[self._task] = self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._task is None:
            return
        if self._outer is None:
            del self._loop.shields[self._task]
        else:
            self._loop.shields[self._task] = self._outer
        # From the loop and not at once: a task that cancels itself and then leaves the block without waiting would be cancelled outside.
        for cutoff in self.held:
            self._task.get_loop().call_soon(cutoff.fire)


# The state of a loop hangs on the loop itself, so that it dies with it: its cut-offs know tasks, and those know the loop, so a
# WeakKeyDictionary would keep alive whatever loop was left with a task in it.
_STATE = "_holdfast"


def for_loop(loop: asyncio.AbstractEventLoop) -> _Loop:
    """The state of this loop, which is running in this thread."""
    # Not by `loop.__dict__`: an object that was asked for its dictionary finds every attribute slower from then on (CPython 3.11, 3.12).
    state: _Loop | None = getattr(loop, _STATE, None)
    if state is None:
        state = _Loop(loop)
        setattr(loop, _STATE, state)
    return state
