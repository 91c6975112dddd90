"""httpx2 behind policies.

    with holdfast.clients.httpx2.Client(policy=billing) as client:
        client.get("https://billing.internal/tax")

`Client` and `AsyncClient` take everything that httpx2's do. `Transport` and `AsyncTransport` put a policy under a client that exists; they
do not know whether the caller streams, so every response counts as streamed: a failure in the middle of its body is not retried.

Errors are httpx2's as well as ours: `except httpx2.TimeoutException` catches DeadlineExceeded, `except httpx2.ConnectError` a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

try:
    import httpx2
except ImportError as error:
    raise ImportError("holdfast.clients.httpx2 needs the extra: pip install 'holdfast[httpx2]'") from error

from holdfast import errors
from holdfast.clients.errors import Kinds, Refused
from holdfast.clients.exchange import CONNECT_TIMEOUT, READ_TIMEOUT
from holdfast.clients.httpx_backend import AsyncBackend, Backend
from holdfast.clients.httpx_calls import AsyncCalls, Calls, Library
from holdfast.deadlines import ambient
from holdfast.policy import Policy

TIMEOUTS = httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)


class DeadlineExceeded(errors.DeadlineExceeded, httpx2.TimeoutException):
    """The time ran out; also an `httpx2.TimeoutException`."""

    _request: httpx2.Request | None = None


class _Refused(Refused, httpx2.ConnectError):
    _request: httpx2.Request | None = None


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also an `httpx2.ConnectError`: nothing was sent."""


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also an `httpx2.ConnectError`: nothing was sent."""


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also an `httpx2.ConnectError`: nothing was sent."""


_LIBRARY = Library(httpx2, "httpcore2", Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited))


class Transport(httpx2.BaseTransport):
    """A transport whose requests pass a policy.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        transport: what sends; None makes an `httpx2.HTTPTransport`.
        options: for that one.
    """

    def __init__(
        self, policy: Policy | Mapping[str, Policy] | None = None, *, transport: httpx2.BaseTransport | None = None, **options: Any
    ) -> None:
        self._inner = httpx2.HTTPTransport(**options) if transport is None else transport
        self._calls = Calls(_LIBRARY, policy, [self._inner], Backend(_LIBRARY.core))
        self._holdfast_watched = not self._calls.blind

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request through the policy of its host."""
        made = self._calls.make(request, self._inner.handle_request, blind=not self._holdfast_watched, streamed=True)
        return cast("httpx2.Response", made)

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class AsyncTransport(httpx2.AsyncBaseTransport):
    """The same for async clients. The arguments are those of `Transport`, with an async transport."""

    def __init__(
        self, policy: Policy | Mapping[str, Policy] | None = None, *, transport: httpx2.AsyncBaseTransport | None = None, **options: Any
    ) -> None:
        self._inner = httpx2.AsyncHTTPTransport(**options) if transport is None else transport
        self._calls = AsyncCalls(_LIBRARY, policy, [self._inner], AsyncBackend(_LIBRARY.core))
        self._holdfast_watched = not self._calls.blind

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send the request through the policy of its host."""
        made = await self._calls.make(request, self._inner.handle_async_request, blind=not self._holdfast_watched, streamed=True)
        return cast("httpx2.Response", made)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class Client(httpx2.Client):
    """`httpx2.Client` behind a policy. A response that is not streamed is read within its attempt, so failures in its body are retried too.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        options: those of `httpx2.Client`; where no `timeout` is given it is 5 s to connect and 10 s for each read.
    """

    def __init__(self, *, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        options.setdefault("timeout", TIMEOUTS)
        super().__init__(**options)
        self._calls = Calls(_LIBRARY, policy, [self._transport, *self._mounts.values()], Backend(_LIBRARY.core))
        self._cookies = _LIBRARY.jar(self._cookies.jar)

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """See httpx2. An address that was asked for before is not taken apart again."""
        return super().build_request(method, _LIBRARY.url(url), **options)

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """See httpx2. The policy's deadline is for all of it: redirects, authentication, attempts and the body."""
        token = ambient.set(self._calls.begin(request, stream))
        try:
            return super().send(request, stream=stream, **options)
        finally:
            ambient.reset(token)

    # Above this httpx2 redirects, authenticates and calls hooks; below it sends, once.
    def _send_single_request(self, request: httpx2.Request) -> httpx2.Response:
        blind = self._calls.blind
        unseen = bool(blind) and self._transport_for_url(request.url) in blind
        return cast("httpx2.Response", self._calls.make(request, super()._send_single_request, blind=unseen))


class AsyncClient(httpx2.AsyncClient):
    """`httpx2.AsyncClient` behind a policy; see `Client`."""

    def __init__(self, *, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        options.setdefault("timeout", TIMEOUTS)
        super().__init__(**options)
        self._calls = AsyncCalls(_LIBRARY, policy, [self._transport, *self._mounts.values()], AsyncBackend(_LIBRARY.core))
        self._cookies = _LIBRARY.jar(self._cookies.jar)

    def build_request(self, method: str, url: httpx2.URL | str, **options: Any) -> httpx2.Request:
        """See httpx2. An address that was asked for before is not taken apart again."""
        return super().build_request(method, _LIBRARY.url(url), **options)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """See httpx2. The policy's deadline is for all of it: redirects, authentication, attempts and the body."""
        token = ambient.set(self._calls.begin(request, stream))
        try:
            return await super().send(request, stream=stream, **options)
        finally:
            ambient.reset(token)

    async def _send_single_request(self, request: httpx2.Request) -> httpx2.Response:
        blind = self._calls.blind
        unseen = bool(blind) and self._transport_for_url(request.url) in blind
        return cast("httpx2.Response", await self._calls.make(request, super()._send_single_request, blind=unseen))
