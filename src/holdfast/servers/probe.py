"""The answer to a probe of an ASGI application."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.servers.interfaces import Scope, Send
    from holdfast.servers.readiness import Readiness

HEADERS = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))


class Probe:
    """What it is told, found out when it is sent.

    Args:
        readiness: who knows.
        question: "live", "ready" or "startup".
        scope: of its request.
    """

    def __init__(self, readiness: Readiness, question: str, scope: Scope) -> None:
        self._readiness = readiness
        self._question = question
        self._scope = scope

    async def send(self, send: Send) -> None:
        """See `Answer.send`."""
        readiness, scope = self._readiness, self._scope
        checks = await readiness.checks.alook() if self._question == "ready" else {}
        client = scope.get("client")
        status, body = readiness.says(self._question, checks, client[0] if client else None)
        headers = [(name.lower().encode(), value.encode()) for name, value in (*HEADERS, ("Content-Length", str(len(body))))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body, "more_body": False})
