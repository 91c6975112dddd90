"""What servers and applications hand each other, and what a part of the shield is: types only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

# ASGI 3 and PEP 3333 leave the values open.
Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

Environ: TypeAlias = dict[str, Any]
StartResponse: TypeAlias = Callable[..., Callable[[bytes], object]]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]


class Answer(Protocol):
    """What is said instead of the application."""

    async def send(self, send: Send, /) -> None:
        """Answer an ASGI request."""
        ...

    def start(self, environ: Environ, start_response: StartResponse, /) -> Iterable[bytes]:
        """Answer a WSGI request."""
        ...


class Part(Protocol):
    """One part of a shield: a middleware for both kinds of server, usable alone."""

    def asgi(self, app: ASGIApp, /) -> ASGIApp:
        """The app behind this part."""
        ...

    def wsgi(self, app: WSGIApp, /) -> WSGIApp:
        """The app behind this part."""
        ...


@runtime_checkable
class Gatekeeper(Part, Protocol):
    """A part that says before the work whether there is to be any, and then has nothing more to do with the request."""

    def answer(self, scope: Scope, /) -> Answer | None:
        """What an HTTP request is told instead of the application's answer; None where it may pass."""
        ...

    def answer_wsgi(self, environ: Environ, /) -> Answer | None:
        """The same for a WSGI request."""
        ...
