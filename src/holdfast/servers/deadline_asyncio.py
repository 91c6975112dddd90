"""Requests under their deadlines on asyncio.

A request that is over within a twentieth of a second needs neither a timer nor a task of its own, and most are. So they are only
written down; a patrol that comes by every now and then looks after those that take longer.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import Any, TypeAlias

from holdfast import events
from holdfast.deadlines import OUTRUN_GRACE
from holdfast.drivers import clock
from holdfast.drivers.asyncio_backend import for_loop
from holdfast.errors import DeadlineExceeded
from holdfast.servers.exchange import Exchange
from holdfast.servers.threads_of import at_work

# How often the patrol comes. It looks after whoever it has met the time before.
_EVERY = 0.05

# A deadline this near comes before the patrol would have met the request twice.
SOON = 2 * _EVERY

# Work that can be cancelled has ended this long after its deadline, and its request is answered in the usual way.
SLACK = 0.02


Young: TypeAlias = "dict[AsyncioExchange, None]"


class AsyncioExchange(Exchange):
    """One that runs in a task."""

    __slots__ = ("_answer", "_cancels", "_fired", "_loop", "_task", "_timer", "_watcher")

    event = asyncio.Event
    _loop: asyncio.AbstractEventLoop
    _task: asyncio.Task[Any] | None

    def begin(self, loop: asyncio.AbstractEventLoop, left: float) -> Young:
        """It runs from now on, in this task; `left` seconds are left of it.

        Returns:
            Where it is to be taken out when it has ended.
        """
        self._loop = loop
        self._task = asyncio.current_task(loop)
        self._timer: asyncio.TimerHandle | None = None
        self._fired = False
        patrol: Patrol | None = getattr(loop, _PATROL, None)
        if patrol is None:
            patrol = Patrol(loop)
        young = patrol.young
        if left < SOON:
            self.look_after()
        else:
            young[self] = None
            if not patrol.walking:
                patrol.walk()
        return young

    def look_after(self) -> None:
        """End it at its deadline, or when its client goes."""
        task = self._task
        if task is None:
            return
        self._cancels = task.cancelling()
        self._answer: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(max(0.0, self.at - self._now()), self._ring)
        self._watcher = self._loop.create_task(self.reader().watch())

    def _ring(self) -> None:
        if self.is_over:
            self.fire()
            self._timer = self._loop.call_later(SLACK, self._late)
        elif not self.complete:
            self._timer = self._loop.call_later(max(0.0, self.at - self._now()), self._ring)  # it rang a rounding early

    def _late(self) -> None:
        # Its work takes no notice: a thread that runs on, or code that waits for one.
        self._answer = self._loop.create_task(self.answer())

    def fire(self) -> None:
        """See `Exchange.fire`; work in a shield ends with the shield."""
        if self._task is None or self._fired or self.complete:
            return
        if self._timer is None:  # nobody looks after it yet, and it asked for its client itself
            self.look_after()
        shield = for_loop(self._loop).shields.get(self._task)
        if shield is not None:
            shield.held.append(self)
        else:
            self._fired = True
            self._task.cancel()

    async def end(self, error: BaseException | None) -> None:
        """The application has ended; raise what is not ours to say."""
        task, self._task = self._task, None
        answer = None
        if self._timer is not None:
            self._timer.cancel()
            self._watcher.cancel()
            answer = self._answer
            del self._watcher, self._answer, self._timer  # they know this: no rings
            self.inbox = None
        # Whoever else cancelled the task as well is not to be robbed of it: only our own cancellation is over with the request.
        ours = self._fired and task is not None and task.uncancel() <= self._cancels and isinstance(error, asyncio.CancelledError)
        # What obeys the deadline may end a little before it: a database's statement_timeout is set so that its answer comes in time.
        obeyed = isinstance(error, DeadlineExceeded) and self.encloses(error)
        if self.is_over or (obeyed and not self.complete):
            ours = ours or obeyed
            await self.answer()
            if events.listeners:
                _stragglers_of(self._loop).add(self, self._now())
        if answer is not None:
            await answer
        try:
            if error is not None and not ours:
                raise error
        finally:
            del error


# It hangs on the loop itself and dies with it, see drivers/asyncio_backend.
_PATROL = "_holdfast_patrol"


class Patrol:
    """The young requests of one event loop. Of those that have ended it keeps nothing: their memory is the next request's."""

    __slots__ = ("_loop", "_met", "walking", "young")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self.young: Young = {}  # came after the last look
        self._met: Young = {}  # were there at the last look
        self.walking = False
        setattr(loop, _PATROL, self)

    def walk(self) -> None:
        """Come again in a while."""
        loop = self._loop()
        self.walking = loop is not None
        if loop is not None:
            loop.call_later(_EVERY, self._look)

    def _look(self) -> None:
        met, self._met, self.young = self._met, self.young, {}
        while met:
            met.popitem()[0].look_after()
        self.walking = False
        if self._met:
            self.walk()


_STRAGGLERS = "_holdfast_stragglers"


class Stragglers:
    """Requests of one event loop that are over, until nobody works for them any more: then it is reported how long that went on.

    Who works is found out for all of them at once, and not more often than the patrol comes: in an outage there are many.
    """

    __slots__ = ("_looked_at", "_over", "_waits")

    def __init__(self) -> None:
        self._over: dict[AsyncioExchange, tuple[float, float | None]] = {}  # since when; when the application ended, if nobody worked on
        self._looked_at = -math.inf
        self._waits = False

    def add(self, exchange: AsyncioExchange, now: float) -> None:
        """The application has ended."""
        self._over[exchange] = min(exchange.at, now), now
        if self._waits:
            return
        if now - self._looked_at < _EVERY:
            self._look_later(exchange._loop)
        else:
            self._look(exchange._loop, now)

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._waits = True
        loop.call_later(_EVERY, lambda: self._look(loop, clock.now()))

    def _look(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._waits = False
        self._looked_at = now
        busy = at_work()
        for exchange, (over_at, ended_at) in list(self._over.items()):
            if exchange in busy:
                self._over[exchange] = over_at, None
            else:
                del self._over[exchange]
                report(exchange.policy, exchange.budget, over_at, now if ended_at is None else ended_at)
        if self._over:
            self._look_later(loop)


def _stragglers_of(loop: asyncio.AbstractEventLoop) -> Stragglers:
    found: Stragglers | None = getattr(loop, _STRAGGLERS, None)
    if found is None:
        found = Stragglers()
        setattr(loop, _STRAGGLERS, found)
    return found


def report(route: str | None, budget: float, over_at: float, now: float) -> None:
    """Tell how long work went on after its request was over, unless that is only how long ending takes."""
    outside = now - over_at
    if outside > OUTRUN_GRACE + SLACK + _EVERY:
        events.publish([events.DeadlineOutrun(route or "", budget, budget + outside, outside)])
