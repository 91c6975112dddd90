"""Readiness where an ASGI server starts and ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from holdfast.scope import carry, deadline
from holdfast.servers import draining, supervised
from holdfast.servers.loops import on_asyncio, sleep

if TYPE_CHECKING:
    from holdfast.servers.interfaces import ASGIApp, Message, Receive, Scope, Send
    from holdfast.servers.readiness import Readiness

# How often the end of the warm-ups is looked for, and how long those that obey their deadline take to end.
_LOOK, _GRACE = 0.01, 0.5


def beside_lifespans(readiness: Readiness, app: ASGIApp) -> ASGIApp:
    """What is no HTTP request: the server's start and end, and WebSockets."""

    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _Lifespan(readiness, app).run(scope, receive, send)
        elif readiness.is_warm():
            await app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1013})  # try again later

    return other


class _Lifespan:
    """The server starts and ends. Warm-ups run before it serves; whether the app knows of lifespans or not."""

    def __init__(self, readiness: Readiness, app: ASGIApp) -> None:
        self._readiness = readiness
        self._app = app
        self._told = False  # the server was told that the app has started, or that it could not
        self._undo: Callable[[], None] | None = None

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        first: list[Message] = [await receive()]
        supervised.end_with_supervisor()
        try:
            await self._warm()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": f"a warm-up failed: {type(error).__name__}"})
            raise
        if not supervised.drain_first(self._readiness.drain) and on_asyncio():
            self._undo = self._drain_at_sigterm()

        async def receive_again() -> Message:
            return first.pop() if first else await receive()

        async def tell(message: Message) -> None:
            if not str(message["type"]).startswith("lifespan."):
                raise RuntimeError("a lifespan is not to be answered like a request")  # by an app that does not look what it is asked
            self._told = True
            await send(message)

        try:
            await self._app(scope, receive_again, tell)
        except Exception:
            if self._told:
                raise
            # An app that knows nothing of lifespans raises at the sight of one.
        try:
            if not self._told:
                await self._without_app(receive, send)
        finally:
            if self._undo is not None:
                self._undo()

    async def _warm(self) -> None:
        """Wait for the warm-ups, in a thread that does not keep the process from ending: one may hang for ever."""
        warming = self._readiness.warming
        failed: list[Exception] = []

        def run() -> None:
            try:
                warming.run()
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=carry(run), name="holdfast-warm-up", daemon=True)
        thread.start()
        async with deadline(warming.within + _GRACE):
            while thread.is_alive():
                await sleep(_LOOK)
        if failed:
            raise failed.pop()

    def _drain_at_sigterm(self) -> Callable[[], None] | None:
        loop = asyncio.get_running_loop()

        def later(seconds: float, end: Callable[[], object]) -> None:
            # From a signal's handler, which may have interrupted the loop itself.
            loop.call_soon_threadsafe(lambda: loop.call_later(seconds, end))

        return draining.on_sigterm(self._readiness.drain, self._readiness.stop_within, later)

    async def _without_app(self, receive: Receive, send: Send) -> None:
        await send({"type": "lifespan.startup.complete"})
        while (await receive())["type"] != "lifespan.shutdown":
            pass
        await send({"type": "lifespan.shutdown.complete"})
