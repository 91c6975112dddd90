"""httpx behind policies.

    with holdfast.clients.httpx.Client(policy=billing) as client:
        client.get("https://billing.internal/tax")

`Client` and `AsyncClient` take everything that httpx's do. `Transport` and `AsyncTransport` put a policy under a client that exists; they
do not know whether the caller streams, so every response counts as streamed: a failure in the middle of its body is not retried.

Errors are httpx's as well as ours: `except httpx.TimeoutException` catches DeadlineExceeded, `except httpx.ConnectError` a refusal.
"""

from __future__ import annotations

try:
    import httpx
except ImportError as error:
    raise ImportError("holdfast.clients.httpx needs the extra: pip install 'holdfast[httpx]'") from error

from holdfast import errors
from holdfast.clients import httpx_clients as both
from holdfast.clients.errors import Kinds, Refused
from holdfast.clients.httpx_calls import Library


class DeadlineExceeded(errors.DeadlineExceeded, httpx.TimeoutException):
    """The time ran out; also an `httpx.TimeoutException`."""

    _request: httpx.Request | None = None


class _Refused(Refused, httpx.ConnectError):
    _request: httpx.Request | None = None


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also an `httpx.ConnectError`: nothing was sent."""


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also an `httpx.ConnectError`: nothing was sent."""


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also an `httpx.ConnectError`: nothing was sent."""


_LIBRARY = Library(httpx, "httpcore", Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited))


class Transport(both.Transport[httpx.BaseTransport, httpx.Request, httpx.Response], httpx.BaseTransport):
    """A transport whose requests pass a policy.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        transport: what sends; None makes an `httpx.HTTPTransport`.
        options: for that one.
    """

    _library = _LIBRARY


class AsyncTransport(both.AsyncTransport[httpx.AsyncBaseTransport, httpx.Request, httpx.Response], httpx.AsyncBaseTransport):
    """The same for async clients. The arguments are those of `Transport`, with an async transport."""

    _library = _LIBRARY


class Client(both.Client[httpx.URL, httpx.Request, httpx.Response], httpx.Client):
    """`httpx.Client` behind a policy. A response that is not streamed is read within its attempt, so failures in its body are retried too.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        options: those of `httpx.Client`; where no `timeout` is given it is 5 s to connect and 10 s for each read.
    """

    _library = _LIBRARY


class AsyncClient(both.AsyncClient[httpx.URL, httpx.Request, httpx.Response], httpx.AsyncClient):
    """`httpx.AsyncClient` behind a policy; see `Client`."""

    _library = _LIBRARY
