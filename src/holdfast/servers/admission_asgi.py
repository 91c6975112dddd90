"""Admission around an ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from holdfast import priority
from holdfast.drivers import clock
from holdfast.drivers.backends import backend
from holdfast.errors import Overloaded
from holdfast.servers.admission import refusal
from holdfast.servers.request import from_scope

if TYPE_CHECKING:
    from holdfast.servers.admission import Admission, Group
    from holdfast.servers.interfaces import ASGIApp, Receive, Scope, Send

_HEADER = priority.HEADER.lower().encode()


def admitted(part: Admission, app: ASGIApp) -> ASGIApp:
    """The app, asked by as many at once as it can serve. Only HTTP: a WebSocket would keep its place for hours."""

    async def within(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        level = _level(part, scope)
        group = part.group(scope["path"])
        if group is None:
            await _served(level, app, scope, receive, send)
            return
        permit = group.places.enter()
        if not permit:
            try:
                permit = await _wait(group, level)
            except Overloaded as error:
                await refusal(error).send(send)
                return
        time = clock.current.get()
        began = time.now()
        failure: BaseException | None = None
        try:
            await _served(level, app, scope, receive, send)
        except BaseException as error:
            failure = error
            raise
        finally:
            now = time.now()
            group.leave(permit, now - began, failure, now)
            failure = None

    return within


def _level(part: Admission, scope: Scope) -> int:
    header = None
    for name, value in scope["headers"]:
        if name == _HEADER:
            text = value.decode("latin-1")
            header = text if header is None else f"{header},{text}"  # as WSGI's servers join them
    client = scope.get("client")
    return part.level(scope["path"], from_scope, scope, header, client[0] if client else None)


def _served(level: int, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
    """The app, and all calls made for it, at this level."""
    return app(scope, receive, send) if level == priority.NORMAL else _served_at(level, app, scope, receive, send)


async def _served_at(level: int, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    token = priority.ambient.set(level)
    try:
        await app(scope, receive, send)
    finally:
        priority.ambient.reset(token)


async def _wait(group: Group, level: int) -> int:
    time, loop = clock.current.get(), backend()
    gate, waiter = group.join(level, time.now())
    try:
        while not waiter.permit and not waiter.shed:
            left = group.until(gate, waiter) - time.now()
            if left <= 0:
                break
            await loop.wait(waiter, time.delay(left))
    except BaseException:
        permit = gate.leave(waiter)  # it may have come just now
        if permit:
            gate.release(permit)
        raise
    permit = gate.leave(waiter)
    if not permit:
        raise group.overloaded()
    return permit
