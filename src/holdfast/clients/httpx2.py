"""httpx2 behind policies.

    with holdfast.clients.httpx2.Client(policy=billing) as client:
        client.get("https://billing.internal/tax")

`Client` and `AsyncClient` take everything that httpx2's do. `Transport` and `AsyncTransport` put a policy under a client that exists; they
do not know whether the caller streams, so every response counts as streamed: a failure in the middle of its body is not retried.

Errors are httpx2's as well as ours: `except httpx2.TimeoutException` catches DeadlineExceeded, `except httpx2.ConnectError` a refusal.
"""

from __future__ import annotations

try:
    import httpx2
except ImportError as error:
    raise ImportError("holdfast.clients.httpx2 needs the extra: pip install 'holdfast[httpx2]'") from error

from holdfast import errors
from holdfast.clients import httpx_clients as both
from holdfast.clients.errors import Kinds, Refused
from holdfast.clients.httpx_calls import Library


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


class Transport(both.Transport[httpx2.BaseTransport, httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    """A transport whose requests pass a policy.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        transport: what sends; None makes an `httpx2.HTTPTransport`.
        options: for that one.
    """

    _library = _LIBRARY


class AsyncTransport(both.AsyncTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    """The same for async clients. The arguments are those of `Transport`, with an async transport."""

    _library = _LIBRARY


class Client(both.Client[httpx2.URL, httpx2.Request, httpx2.Response], httpx2.Client):
    """`httpx2.Client` behind a policy. A response that is not streamed is read within its attempt, so failures in its body are retried too.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        options: those of `httpx2.Client`; where no `timeout` is given it is 5 s to connect and 10 s for each read.
    """

    _library = _LIBRARY


class AsyncClient(both.AsyncClient[httpx2.URL, httpx2.Request, httpx2.Response], httpx2.AsyncClient):
    """`httpx2.AsyncClient` behind a policy; see `Client`."""

    _library = _LIBRARY
