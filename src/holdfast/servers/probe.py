"""The answer to a probe."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from holdfast.servers.problem import reason

if TYPE_CHECKING:
    from holdfast.servers.interfaces import Environ, Send, StartResponse
    from holdfast.servers.readiness import Readiness


class Probe:
    """What it is told, found out when it is sent.

    Args:
        readiness: who knows.
        question: "live", "ready" or "startup".
        method: GET or HEAD.
        peer: the address that asks.
    """

    def __init__(self, readiness: Readiness, question: str, method: str, peer: str | None) -> None:
        self._readiness = readiness
        self._question = question
        self._method = method
        self._peer = peer

    async def send(self, send: Send) -> None:
        """See `Answer.send`."""
        readiness = self._readiness
        checks = await readiness.checks.alook() if self._question == "ready" else {}
        status, body = readiness.says(self._question, checks, self._peer)
        headers = [(name.lower().encode(), value.encode()) for name, value in _headers(body)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": self._of(body), "more_body": False})

    def start(self, _environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """See `Answer.start`."""
        readiness = self._readiness
        checks = readiness.checks.look() if self._question == "ready" else {}
        status, body = readiness.says(self._question, checks, self._peer)
        start_response(f"{status} {reason(status)}", _headers(body))
        return [self._of(body)]

    def _of(self, body: bytes) -> bytes:
        return b"" if self._method == "HEAD" else body


def _headers(body: bytes) -> list[tuple[str, str]]:
    return [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("Content-Length", str(len(body)))]
