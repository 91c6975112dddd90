"""Answers that a shield gives instead of the application, for both kinds of server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.servers.problem import CONTENT_TYPE, body_of, reason, retry_after

if TYPE_CHECKING:
    from holdfast.servers.interfaces import Environ, Send, StartResponse


@dataclass(frozen=True, slots=True)
class Refusal:
    """A problem document.

    Args:
        status: of HTTP.
        code: what is wrong, for programs.
        detail: the same in words.
        after: seconds until asking again makes sense; None where nobody can tell.
    """

    status: int
    code: str
    detail: str
    after: float | None = None

    def _headers(self, body: bytes) -> list[tuple[str, str]]:
        headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        return headers if self.after is None else [*headers, ("Retry-After", retry_after(self.after))]

    async def send(self, send: Send) -> None:
        """Answer an ASGI request."""
        body = body_of(self.status, self.code, self.detail)
        headers = [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in self._headers(body)]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def start(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a WSGI request."""
        body = body_of(self.status, self.code, self.detail)
        start_response(f"{self.status} {reason(self.status)}", self._headers(body))
        # WSGI servers send what they get: after HEAD a client would take it for the answer to its next request.
        return [] if environ["REQUEST_METHOD"].upper() == "HEAD" else [body]


def late(budget: float) -> Refusal:
    """The time was up."""
    return Refusal(504, "deadline-exceeded", f"The request was not answered within its {budget:.3g} s.")
