"""The clients and transports of httpx and of httpx2, but for the names that each library has for its classes.

They come before the library's own class among the bases of the one that users see, which says whose they are (`_library`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from holdfast.clients.httpx_backend import AsyncBackend, Backend
from holdfast.clients.httpx_calls import AsyncCalls, Calls, Library
from holdfast.deadlines import ambient
from holdfast.policy import Policy

Url = TypeVar("Url")
Request = TypeVar("Request")
Response = TypeVar("Response")
Inner = TypeVar("Inner", bound="_Closing")
AsyncInner = TypeVar("AsyncInner", bound="_AsyncClosing")


class _Closing(Protocol):
    def handle_request(self, request: Any) -> Any: ...
    def close(self) -> None: ...


class _AsyncClosing(Protocol):
    async def handle_async_request(self, request: Any) -> Any: ...
    async def aclose(self) -> None: ...


class Transport(Generic[Inner, Request, Response]):
    """A transport whose requests pass a policy; the library's own where none is given."""

    _library: ClassVar[Library]

    def __init__(self, policy: Policy | Mapping[str, Policy] | None = None, *, transport: Inner | None = None, **options: Any) -> None:
        library = self._library
        self._inner: Inner = library.httpx.HTTPTransport(**options) if transport is None else transport
        self._calls = Calls(library, policy, [self._inner], Backend(library.core))
        self._holdfast_watched = not self._calls.blind

    def handle_request(self, request: Request) -> Response:
        """Send the request through the policy of its host."""
        made = self._calls.make(request, self._inner.handle_request, blind=not self._holdfast_watched, streamed=True)
        return cast("Response", made)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class AsyncTransport(Generic[AsyncInner, Request, Response]):
    """`Transport` for async clients."""

    _library: ClassVar[Library]

    def __init__(self, policy: Policy | Mapping[str, Policy] | None = None, *, transport: AsyncInner | None = None, **options: Any) -> None:
        library = self._library
        self._inner: AsyncInner = library.httpx.AsyncHTTPTransport(**options) if transport is None else transport
        self._calls = AsyncCalls(library, policy, [self._inner], AsyncBackend(library.core))
        self._holdfast_watched = not self._calls.blind

    async def handle_async_request(self, request: Request) -> Response:
        """Send the request through the policy of its host."""
        made = await self._calls.make(request, self._inner.handle_async_request, blind=not self._holdfast_watched, streamed=True)
        return cast("Response", made)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _AnyClient(Generic[Url, Request]):
    """What a client for blocking and one for async code have in common; what is not defined here is the library's."""

    _library: ClassVar[Library]
    _cookies: Any
    _mounts: Any
    _transport: Any
    _transport_for_url: Any

    def build_request(self, method: str, url: Url | str, **options: Any) -> Request:
        """See httpx. An address that was asked for before is not taken apart again."""
        return super().build_request(method, self._library.url(url), **options)  # type: ignore[misc, no-any-return]  # the library's

    def _is_unseen(self, request: Any, blind: list[Any]) -> bool:
        """Whether nobody tells what is written of it."""
        return self._transport_for_url(request.url) in blind


class Client(_AnyClient[Url, Request], Generic[Url, Request, Response]):
    """A client behind a policy: the library's, whose requests are made by the policy of their host."""

    def __init__(self, *, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        library = self._library
        options.setdefault("timeout", library.timeouts)
        super().__init__(**options)
        self._calls = Calls(library, policy, [self._transport, *self._mounts.values()], Backend(library.core))
        self._cookies = library.jar(self._cookies.jar)

    def send(self, request: Request, *, stream: bool = False, **options: Any) -> Response:
        """See httpx. The policy's deadline is for all of it: redirects, authentication, attempts and the body."""
        token = ambient.set(self._calls.begin(request, stream))
        try:
            return super().send(request, stream=stream, **options)  # type: ignore[misc, no-any-return]  # the library's
        finally:
            ambient.reset(token)

    # Above this httpx redirects, authenticates and calls hooks; below it sends, once.
    def _send_single_request(self, request: Request) -> Response:
        calls = self._calls
        send = super()._send_single_request  # type: ignore[misc]  # the library's
        return cast("Response", calls.make(request, send, blind=bool(calls.blind) and self._is_unseen(request, calls.blind)))


class AsyncClient(_AnyClient[Url, Request], Generic[Url, Request, Response]):
    """`Client` for async code."""

    def __init__(self, *, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        library = self._library
        options.setdefault("timeout", library.timeouts)
        super().__init__(**options)
        self._calls = AsyncCalls(library, policy, [self._transport, *self._mounts.values()], AsyncBackend(library.core))
        self._cookies = library.jar(self._cookies.jar)

    async def send(self, request: Request, *, stream: bool = False, **options: Any) -> Response:
        """See httpx. The policy's deadline is for all of it: redirects, authentication, attempts and the body."""
        token = ambient.set(self._calls.begin(request, stream))
        try:
            return await super().send(request, stream=stream, **options)  # type: ignore[misc, no-any-return]  # the library's
        finally:
            ambient.reset(token)

    async def _send_single_request(self, request: Request) -> Response:
        calls = self._calls
        send = super()._send_single_request  # type: ignore[misc]  # the library's
        return cast("Response", await calls.make(request, send, blind=bool(calls.blind) and self._is_unseen(request, calls.blind)))
