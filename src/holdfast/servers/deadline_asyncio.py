"""Requests under their deadlines on asyncio.

A request that is over within a twentieth of a second needs neither a timer nor a task of its own, and most are. So they are only
written down; a patrol that comes by every now and then looks after those that take longer.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast import events
from holdfast.deadlines import OUTRUN_GRACE, Deadline, ambient, restore
from holdfast.drivers.asyncio_backend import for_loop
from holdfast.errors import DeadlineExceeded
from holdfast.servers.exchange import Exchange

if TYPE_CHECKING:
    from holdfast.servers.interfaces import ASGIApp, Receive, Scope, Send

# How often the patrol comes. It looks after whoever it has met the time before.
_PATROL = 0.05

# Work that can be cancelled has ended this long after its deadline, and its request is answered in the usual way.
SLACK = 0.02


class _Exchange(Exchange):
    """One that runs in a task."""

    __slots__ = ("_answer", "_cancels", "_fired", "_loop", "_task", "_timer", "_watcher")

    event = asyncio.Event

    def __init__(self, loop: asyncio.AbstractEventLoop, *of: Any) -> None:
        super().__init__(*of)
        self._loop = loop
        self._task = asyncio.current_task(loop)
        self._timer: asyncio.TimerHandle | None = None
        self._fired = False

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
            del self._watcher, self._answer, self._timer  # they know this: no rings, or nobody could see when the last of it ends
            self.inbox = None
        # Whoever else cancelled the task as well is not to be robbed of it: only our own cancellation is over with the request.
        ours = self._fired and task is not None and task.uncancel() <= self._cancels and isinstance(error, asyncio.CancelledError)
        # What obeys the deadline may end a little before it: a database's statement_timeout is set so that its answer comes in time.
        obeyed = isinstance(error, DeadlineExceeded) and self.encloses(error)
        if self.is_over or (obeyed and not self.complete):
            ours = ours or obeyed
            await self.answer()
            if events.listeners:
                _tell_of_the_end(self)
        if answer is not None:
            await answer
        try:
            if error is not None and not ours:
                raise error
        finally:
            del error


async def run(
    loop: asyncio.AbstractEventLoop,
    left: float,
    at: float,
    budget: float,
    route: str,
    outer: Deadline | None,
    now: Callable[[], float],
    app: ASGIApp,
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Run the application until it ends, its deadline comes, or its client goes."""
    exchange = _Exchange(loop, at, budget, route, outer, now, scope, receive, send)
    patrol = loop.__dict__.get(_NAME) or _patrol(loop)
    young = patrol.young
    if left < 2 * _PATROL:  # before the patrol would have met it twice
        exchange.look_after()
    else:
        young[exchange] = None
        if not patrol.walking:
            patrol.walk()
    token = ambient.set(exchange)
    error = None
    try:
        await app(scope, exchange.receive, exchange.send)
    except BaseException as raised:
        error = raised
    restore(token)
    try:
        if young.pop(exchange, patrol) is patrol or error is not None or not exchange.complete:
            await exchange.end(error)
    finally:
        del error


class _Patrol:
    """The young requests of one event loop."""

    __slots__ = ("_loop", "walking", "young")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self.young: dict[_Exchange, None] = {}
        self.walking = False

    def walk(self) -> None:
        """Come again in a while."""
        loop = self._loop()
        self.walking = loop is not None and bool(self.young)
        if loop is not None and self.young:
            loop.call_later(_PATROL, self._look, list(self.young))

    def _look(self, met: list[_Exchange]) -> None:
        for exchange in met:
            if exchange in self.young:
                del self.young[exchange]
                exchange.look_after()
        self.walk()


# It hangs on the loop itself and dies with it, see drivers/asyncio_backend.
_NAME = "_holdfast_patrol"


def _patrol(loop: asyncio.AbstractEventLoop) -> _Patrol:
    patrol: _Patrol = loop.__dict__.setdefault(_NAME, _Patrol(loop))
    return patrol


def _tell_of_the_end(exchange: Exchange) -> None:
    """Report, when it has ended, how long work went on after its request was over.

    Cancelling a task does not stop a thread that it waits for, and nobody waits for that any more. But whatever still works for the
    request holds its deadline, in its context: when that is freed, the last of it has ended.
    """
    now = exchange._now
    over_at = min(exchange.at, now())
    weakref.finalize(exchange, report, exchange.policy, exchange.budget, over_at, now).atexit = False


def report(route: str | None, budget: float, over_at: float, now: Callable[[], float]) -> None:
    """Tell how long work went on after its request was over, unless that is only how long ending takes."""
    outside = now() - over_at
    if outside > OUTRUN_GRACE + SLACK + _PATROL:
        events.publish([events.DeadlineOutrun(route or "", budget, budget + outside, outside)])
