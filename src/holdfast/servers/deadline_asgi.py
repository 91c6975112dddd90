"""Requests of an ASGI application under their deadlines: which event loop runs them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from holdfast.deadlines import ambient, restore
from holdfast.drivers.clock import current
from holdfast.servers.deadline_asyncio import AsyncioExchange
from holdfast.servers.incoming import timeout_of_scope
from holdfast.servers.refusal import late

if TYPE_CHECKING:
    from holdfast.servers.deadline import Deadline
    from holdfast.servers.interfaces import ASGIApp, Receive, Scope, Send

WAITED = "holdfast.waited"  # in a scope or environ: seconds that the request had waited when it came to us


def bounded(part: Deadline, app: ASGIApp) -> ASGIApp:
    """The app, each of its HTTP requests under a deadline. WebSockets have none: they are open for as long as both sides like."""

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        route, budget = part.budget(scope["path"], timeout_of_scope(scope))
        clock = current.get().now
        now = clock()
        at = now - scope.get(WAITED, 0.0) + budget
        outer = ambient.get()
        if outer is not None:
            at = outer.tighten(at)
        if now >= at:
            await late(budget).send(send)
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            from holdfast.servers.deadline_trio import TrioExchange, run

            await run(TrioExchange(at, budget, route, outer, clock, scope, receive, send), app)
            return
        exchange = AsyncioExchange(at, budget, route, outer, clock, scope, receive, send)
        young = exchange.begin(loop, at - now)
        token = ambient.set(exchange)
        error = None
        try:
            await app(scope, exchange.receive, exchange.send)
        except BaseException as raised:
            error = raised
        restore(token)
        if young.pop(exchange, exchange) is exchange or error is not None or not exchange.complete:
            try:
                await exchange.end(error)
            finally:
                del error

    return within
