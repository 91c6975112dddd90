"""Parts that only say before the work whether there is to be any: several of them cost a request little more than one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from holdfast.servers.calling import call_app

if TYPE_CHECKING:
    from holdfast.servers.interfaces import ASGIApp, Environ, Gatekeeper, Receive, Scope, Send, StartResponse, WSGIApp


class Guarded:
    """An ASGI application behind gatekeepers, which are asked one after the other.

    Args:
        gatekeepers: the first of them is the outermost.
        app: where HTTP requests go that may pass.
        other: where everything else goes: lifespans and WebSockets.
    """

    __slots__ = ("_app", "_ask", "_other")

    def __init__(self, gatekeepers: Iterable[Gatekeeper], app: ASGIApp, other: ASGIApp) -> None:
        self._ask = tuple(gatekeeper.answer for gatekeeper in gatekeepers)
        self._app = app
        self._other = other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's scope."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        for ask in self._ask:
            answer = ask(scope)
            if answer is not None:
                await answer.send(send)
                return
        await self._app(scope, receive, send)


class GuardedWSGI:
    """A WSGI application behind gatekeepers, which are asked one after the other.

    Args:
        gatekeepers: the first of them is the outermost.
        app: where requests go that may pass.
    """

    __slots__ = ("_app", "_ask")

    def __init__(self, gatekeepers: Iterable[Gatekeeper], app: WSGIApp) -> None:
        self._ask = tuple(gatekeeper.answer_wsgi for gatekeeper in gatekeepers)
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        for ask in self._ask:
            answer = ask(environ)
            if answer is not None:
                return answer.start(environ, start_response)
        return call_app(self._app, environ, start_response)
