"""Requests of an ASGI application under their deadlines, on asyncio and on trio.

A request that is answered within a twentieth of a second has no watcher: most are, and a task for each would cost more than all the rest.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from holdfast import events
from holdfast.deadlines import OUTRUN_GRACE, ambient, restore
from holdfast.drivers import clock
from holdfast.drivers.backends import backend
from holdfast.errors import DeadlineExceeded
from holdfast.servers.exchange import Client, Exchange
from holdfast.servers.incoming import timeout_of_scope

if TYPE_CHECKING:
    from holdfast.servers.deadline import Deadline
    from holdfast.servers.interfaces import ASGIApp, Receive, Scope, Send

WAITED = "holdfast.waited"  # in a scope or environ: seconds that the request had waited when it came to us

# After this long a request is watched: whether its client is still there, and whether it ends at its deadline.
_GRACE = 0.05

# Work that can be cancelled has ended this long after its deadline, and its request is answered in the usual way.
_SLACK = 0.02


def bounded(part: Deadline, app: ASGIApp) -> ASGIApp:
    """The app, each of its HTTP requests under a deadline. WebSockets have none: they are open for as long as both sides like."""

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        now = clock.current.get().now
        asked = timeout_of_scope(scope)
        route, budget = part.budget(scope["path"], asked)
        client = Client()
        limit = part.begin(route, budget, scope.get(WAITED, 0.0), now(), client)
        loop = backend()
        on_asyncio = hasattr(loop, "heap")
        cutoff = loop.cutoff(limit, clock.current.get())
        event = asyncio.Event if on_asyncio else _trio_event
        exchange = Exchange(limit, cutoff, client, now, receive, send, event, _hesitant(scope))
        if now() >= limit.at:
            await exchange.answer()
        elif on_asyncio:
            await _on_asyncio(exchange, app, scope)
        else:
            await _on_trio(exchange, app, scope)

    return within


async def _run(exchange: Exchange, app: ASGIApp, scope: Scope) -> None:
    """Run the application, and say at its end what the deadline made of it."""
    limit = exchange.limit
    token = ambient.set(limit)
    try:
        with exchange.cutoff:
            await app(scope, exchange.receive, exchange.send)
    except DeadlineExceeded as error:
        if not exchange.over or not limit.encloses(error):
            raise
    finally:
        restore(token)
        if exchange.over:
            await exchange.answer()


def _tell_of_the_end(exchange: Exchange) -> None:
    """Report, when it has ended, how long work went on after its request was over.

    Cancelling an asyncio task does not stop a thread that it waits for, and nobody waits for that any more. But whatever still works for
    the request holds its deadline, in its context, and with it the client: when that is freed, the last of it has ended.
    """
    limit, now = exchange.limit, clock.current.get().now
    over_at = min(limit.at, now())
    tell = weakref.finalize(exchange.client, _report, limit.policy, limit.budget, over_at, now)
    tell.atexit = False


def _report(route: str | None, budget: float, over_at: float, now: Callable[[], float]) -> None:
    outside = now() - over_at
    if outside > OUTRUN_GRACE + _SLACK:
        events.publish([events.DeadlineOutrun(route or "", budget, budget + outside, outside)])


async def _on_asyncio(exchange: Exchange, app: ASGIApp, scope: Scope) -> None:
    patrol = _patrol()
    patrol.young[exchange] = None
    if not patrol.walking:
        patrol.walk()
    try:
        await _run(exchange, app, scope)
    finally:
        if events.listeners and exchange.over:
            _tell_of_the_end(exchange)
        if exchange in patrol.young:
            del patrol.young[exchange]
        else:
            await patrol.old.pop(exchange).end()


class _Watched:
    """A request that takes long: the task that watches its client, and the one that answers if its work cannot be stopped."""

    __slots__ = ("_answer", "_exchange", "_timer", "_watch")

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self._exchange = exchange
        self._watch = loop.create_task(exchange.watch())
        self._answer: asyncio.Task[None] | None = None
        self._timer = loop.call_later(max(0.0, exchange.limit.remaining(clock.now())) + _SLACK, self._late)

    def _late(self) -> None:
        if self._exchange.over:
            self._answer = asyncio.get_running_loop().create_task(self._exchange.answer())

    async def end(self) -> None:
        """The request has ended."""
        self._timer.cancel()
        self._watch.cancel()
        if self._answer is not None:
            await self._answer


class _Patrol:
    """The running requests of one event loop; one timer for all."""

    __slots__ = ("_loop", "old", "walking", "young")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.young: dict[Exchange, None] = {}  # not looked at yet
        self.old: dict[Exchange, _Watched] = {}
        self.walking = False

    def walk(self) -> None:
        """Look again in a moment."""
        self.walking = True
        self._loop.call_later(_GRACE, self._look, list(self.young))

    def _look(self, seen: list[Exchange]) -> None:
        for exchange in seen:  # who was there the last time has been for long enough
            if exchange in self.young:
                del self.young[exchange]
                self.old[exchange] = _Watched(exchange, self._loop)
        self.walking = bool(self.young)
        if self.walking:
            self.walk()


# It hangs on the loop itself and dies with it, see drivers/asyncio_backend.
_PATROL = "_holdfast_patrol"


def _patrol() -> _Patrol:
    loop = asyncio.get_running_loop()
    patrol: _Patrol | None = loop.__dict__.get(_PATROL)
    if patrol is None:
        patrol = loop.__dict__[_PATROL] = _Patrol(loop)
    return patrol


async def _on_trio(exchange: Exchange, app: ASGIApp, scope: Scope) -> None:
    import trio

    async def answer_late() -> None:
        await trio.sleep(exchange.limit.remaining(clock.now()) + _SLACK)
        if exchange.over:
            await exchange.answer()

    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.watch)
        nursery.start_soon(answer_late)
        try:
            await _run(exchange, app, scope)
        except Exception as error:
            failure = error  # raised outside, so that the nursery does not wrap it
        if events.listeners and exchange.over:
            _report(exchange.limit.policy, exchange.limit.budget, exchange.limit.at, clock.now)  # trio waits for its threads
        nursery.cancel_scope.cancel()
    if failure is not None:
        try:
            raise failure
        finally:
            del failure


def _trio_event() -> Any:
    import trio

    return trio.Event()


def _hesitant(scope: Scope) -> bool:
    return any(name == b"expect" for name, _ in scope["headers"])
