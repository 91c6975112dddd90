"""httpx behind policies.

    with holdfast.clients.httpx.Client(policy=billing) as client:
        client.get("https://billing.internal/tax")

`Client` and `AsyncClient` take everything that httpx's do. `Transport` and `AsyncTransport` put a policy under a client that exists; they
do not know whether the caller streams, so every response counts as streamed: a failure in the middle of its body is not retried.

Errors are httpx's as well as ours: `except httpx.TimeoutException` catches DeadlineExceeded, `except httpx.ConnectError` a refusal.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, cast

import httpx

from holdfast import errors
from holdfast.clients.exchange import (
    CONNECT_TIMEOUT,
    FAILURE_BODY,
    READ_TIMEOUT,
    Exchange,
    Policies,
    is_failure,
    mint_id,
    running,
    whole_call,
)
from holdfast.clients.httpx_backend import AsyncBackend, Backend
from holdfast.deadlines import ambient
from holdfast.drivers import aio, clock, threads
from holdfast.drivers.backends import backend
from holdfast.flow import Call
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict, deadline_behind
from holdfast.policy import Policy

TIMEOUTS = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)

# Timers ring a rounding early.
_GRAIN = 1e-3

_OURS = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.StreamError, httpx.CookieConflict)
# What httpx raises before anything was sent.
_UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_BUFFERED = "holdfast.buffered"


class DeadlineExceeded(errors.DeadlineExceeded, httpx.TimeoutException):
    """The time ran out; also an `httpx.TimeoutException`."""

    _request: httpx.Request | None = None


class _Refused(errors.Rejected, httpx.ConnectError):
    _request: httpx.Request | None = None

    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        Exception.__init__(self, policy, retry_after)


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also an `httpx.ConnectError`: nothing was sent."""

    reason = errors.BreakerOpen.reason


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also an `httpx.ConnectError`: nothing was sent."""

    reason = errors.BulkheadFull.reason


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also an `httpx.ConnectError`: nothing was sent."""

    reason = errors.RateLimited.reason


_REFUSALS: dict[type[errors.Rejected], type[_Refused]] = {
    errors.BreakerOpen: BreakerOpen,
    errors.BulkheadFull: BulkheadFull,
    errors.RateLimited: RateLimited,
}


class Transport(httpx.BaseTransport):
    """A transport whose requests pass a policy.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        transport: what sends; None makes an `httpx.HTTPTransport`.
        options: for that one.
    """

    def __init__(
        self, policy: Policy | Mapping[str, Policy] | None = None, *, transport: httpx.BaseTransport | None = None, **options: Any
    ) -> None:
        self._policies = Policies(policy)
        self._inner = httpx.HTTPTransport(**options) if transport is None else transport
        self._watched = _set_backend(self._inner, Backend())

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request through the policy of its host."""
        plan = self._policies.plan(request.url.host)
        exchange = _exchange(request, self._watched)
        handled = sys.exception()
        try:
            response = threads.run(plan, self._attempt, (request, exchange), {}, exchange)
        except Exception as error:
            raise_ours(error, request, exchange, handled)
            raise
        if exchange.call is not None:
            response.stream = _Stream(response.stream, exchange.call, request, exchange)
        return response

    def _attempt(self, request: httpx.Request, exchange: Exchange) -> httpx.Response:
        exchange.begin()
        token = running.set(exchange)
        try:
            response = self._send(request)
            exchange.answered = response.status_code
            if request.extensions.get(_BUFFERED) or (is_failure(response.status_code) and exchange.may_repeat):
                self._read(request, response, exchange)
            return response
        finally:
            running.reset(token)

    def _send(self, request: httpx.Request) -> httpx.Response:
        limit = ambient.get()
        if limit is None:
            return self._inner.handle_request(request)
        # A thread that waits for a free connection waits on no socket, so that the pool's own timeout has to end it.
        extensions = request.extensions
        timeout = extensions.get("timeout", {})
        left, own = limit.remaining(clock.now()), timeout.get("pool")
        request.extensions = {**extensions, "timeout": {**timeout, "pool": left if own is None else min(own, left)}}
        try:
            return self._inner.handle_request(request)
        except httpx.PoolTimeout as error:
            raise_if_late(error)
            raise
        finally:
            request.extensions = extensions

    def _read(self, request: httpx.Request, response: httpx.Response, exchange: Exchange) -> None:
        most = None if request.extensions.get(_BUFFERED) else FAILURE_BODY
        chunks: list[bytes] = []
        size = 0
        stream = cast("httpx.SyncByteStream", response.stream)
        body = iter(stream)
        try:
            for chunk in body:
                chunks.append(chunk)
                size += len(chunk)
                if most is not None and size > most:
                    response.stream = _Rest(chunks, body, stream)
                    return
        except BaseException:
            stream.close()
            raise
        stream.close()
        response.stream = httpx.ByteStream(b"".join(chunks))
        exchange.whole = True

    def close(self) -> None:
        """Close the connections."""
        self._inner.close()


class _Rest(httpx.SyncByteStream):
    """A body whose beginning was read already."""

    def __init__(self, chunks: list[bytes], rest: Iterator[bytes], stream: httpx.SyncByteStream) -> None:
        self._chunks = chunks
        self._rest = rest
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        yield from self._rest

    def close(self) -> None:
        self._stream.close()


class _Stream(httpx.SyncByteStream):
    """A response that is still being read: under the call's deadline, and with its place and permit until it is closed."""

    def __init__(self, inner: Any, call: Call, request: httpx.Request, exchange: Exchange) -> None:
        self._inner = inner
        self._call: Call | None = call
        self._limit = call.deadline
        self._request = request
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._inner)
        while True:
            token = ambient.set(self._limit)
            try:
                chunk = next(chunks)
            except StopIteration:
                self._end(SUCCESS)
                return
            except Exception as error:
                self._end(FAILURE, error)
                raise_ours(error, self._request, self._exchange)
                raise
            finally:
                ambient.reset(token)
            yield chunk

    def close(self) -> None:
        self._end(SUCCESS)
        self._inner.close()

    def _end(self, verdict: Verdict, error: Exception | None = None) -> None:
        call, self._call = self._call, None
        if call is not None:
            finish(call, self._exchange, verdict, error)

    def __del__(self) -> None:
        self._end(IGNORED)  # nobody closed it: that says nothing about the server, but its place is needed


class AsyncTransport(httpx.AsyncBaseTransport):
    """The same for async clients. The arguments are those of `Transport`, with an async transport."""

    def __init__(
        self, policy: Policy | Mapping[str, Policy] | None = None, *, transport: httpx.AsyncBaseTransport | None = None, **options: Any
    ) -> None:
        self._policies = Policies(policy)
        self._inner = httpx.AsyncHTTPTransport(**options) if transport is None else transport
        self._watched = _set_backend(self._inner, AsyncBackend())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request through the policy of its host."""
        plan = self._policies.plan(request.url.host)
        exchange = _exchange(request, self._watched)
        handled = sys.exception()
        try:
            response = await aio.run(plan, self._attempt, (request, exchange), {}, exchange)
        except Exception as error:
            raise_ours(error, request, exchange, handled)
            raise
        if exchange.call is not None:
            response.stream = _AsyncStream(response.stream, exchange.call, request, exchange)
        return response

    async def _attempt(self, request: httpx.Request, exchange: Exchange) -> httpx.Response:
        exchange.begin()
        token = running.set(exchange)
        try:
            response = await self._inner.handle_async_request(request)
            exchange.answered = response.status_code
            if request.extensions.get(_BUFFERED) or (is_failure(response.status_code) and exchange.may_repeat):
                await self._read(request, response, exchange)
            return response
        finally:
            running.reset(token)

    async def _read(self, request: httpx.Request, response: httpx.Response, exchange: Exchange) -> None:
        most = None if request.extensions.get(_BUFFERED) else FAILURE_BODY
        chunks: list[bytes] = []
        size = 0
        stream = cast("httpx.AsyncByteStream", response.stream)
        body = stream.__aiter__()
        try:
            async for chunk in body:
                chunks.append(chunk)
                size += len(chunk)
                if most is not None and size > most:
                    response.stream = _AsyncRest(chunks, body, stream)
                    return
        except BaseException:
            await stream.aclose()
            raise
        await stream.aclose()
        response.stream = httpx.ByteStream(b"".join(chunks))
        exchange.whole = True

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _AsyncRest(httpx.AsyncByteStream):
    """A body whose beginning was read already."""

    def __init__(self, chunks: list[bytes], rest: AsyncIterator[bytes], stream: httpx.AsyncByteStream) -> None:
        self._chunks = chunks
        self._rest = rest
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        async for chunk in self._rest:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _AsyncStream(httpx.AsyncByteStream):
    """See `_Stream`."""

    def __init__(self, inner: Any, call: Call, request: httpx.Request, exchange: Exchange) -> None:
        self._inner = inner
        self._call: Call | None = call
        self._limit = call.deadline
        self._request = request
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = self._inner.__aiter__()
        loop = backend()
        while True:
            try:
                with loop.cutoff(self._limit, clock.current.get()):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                self._end(SUCCESS)
                return
            except Exception as error:
                self._end(FAILURE, error)
                raise_ours(error, self._request, self._exchange)
                raise
            yield chunk

    async def aclose(self) -> None:
        self._end(SUCCESS)
        await self._inner.aclose()

    def _end(self, verdict: Verdict, error: Exception | None = None) -> None:
        call, self._call = self._call, None
        if call is not None:
            finish(call, self._exchange, verdict, error)

    def __del__(self) -> None:
        self._end(IGNORED)


class Client(httpx.Client):
    """`httpx.Client` behind a policy. A response that is not streamed is read within its attempt, so failures in its body are retried too.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        options: those of `httpx.Client`; where no `timeout` is given it is 5 s to connect and 10 s for each read.
    """

    def __init__(self, *, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        options.setdefault("timeout", TIMEOUTS)
        super().__init__(**options)
        self._policies = Policies(policy)
        self._transport = Transport(policy, transport=self._transport)
        self._mounts = {
            pattern: None if mounted is None else Transport(policy, transport=mounted) for pattern, mounted in self._mounts.items()
        }

    def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """See httpx. The policy's deadline is for all of it: redirects, authentication, attempts and the body."""
        begin_call(request, stream)
        token = ambient.set(whole_call(self._policies.plan(request.url.host)))
        try:
            return super().send(request, stream=stream, **options)
        finally:
            ambient.reset(token)


class AsyncClient(httpx.AsyncClient):
    """`httpx.AsyncClient` behind a policy; see `Client`."""

    def __init__(self, *, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        options.setdefault("timeout", TIMEOUTS)
        super().__init__(**options)
        self._policies = Policies(policy)
        self._transport = AsyncTransport(policy, transport=self._transport)
        self._mounts = {
            pattern: None if mounted is None else AsyncTransport(policy, transport=mounted) for pattern, mounted in self._mounts.items()
        }

    async def send(self, request: httpx.Request, *, stream: bool = False, **options: Any) -> httpx.Response:
        """See httpx. The policy's deadline is for all of it: redirects, authentication, attempts and the body."""
        begin_call(request, stream)
        token = ambient.set(whole_call(self._policies.plan(request.url.host)))
        try:
            return await super().send(request, stream=stream, **options)
        finally:
            ambient.reset(token)


def _exchange(request: httpx.Request, watched: bool) -> Exchange:
    if _BUFFERED not in request.extensions:  # no client of ours has named it already
        mint_id(request.headers)
    again = isinstance(request.stream, httpx.ByteStream)
    return Exchange(request.method, request.headers, again, _OURS, unsent=_UNSENT, watched=watched)


def begin_call(request: httpx.Request, stream: bool) -> None:
    """Give the logical call its name, and tell the transport how it is read; both stay with the request over redirects."""
    mint_id(request.headers)
    request.extensions = {**request.extensions, _BUFFERED: not stream}


def finish(call: Call, exchange: Exchange, verdict: Verdict, error: Exception | None) -> None:
    """End an attempt whose response was streamed."""
    now = clock.now()
    if error is not None and call.cut_by_caller(error, now):
        verdict = IGNORED
    elif verdict is SUCCESS and is_failure(exchange.answered):
        verdict = FAILURE
    call.close(verdict, now, error)


def raise_if_late(error: Exception) -> None:
    """Raise DeadlineExceeded where a timeout came because of the ambient deadline."""
    limit, now = ambient.get(), clock.now()
    if limit is not None and now >= limit.at - _GRAIN:
        raise limit.exceeded(now) from error


def raise_ours(error: Exception, request: httpx.Request, exchange: Exchange, handled: BaseException | None = None) -> None:
    """Raise the error that is ours and httpx's both, where `error` is ours; return where it is not.

    `handled` is what the caller was handling when the call began: Python chains it to whatever is raised then, and it is no part of it.
    """
    raised: DeadlineExceeded | _Refused
    if isinstance(error, (DeadlineExceeded, _Refused)):
        return
    if isinstance(error, errors.Rejected):
        kind = _REFUSALS.get(type(error))
        if kind is None:
            return
        raised = kind(error.policy, error.retry_after)
    else:
        cut = deadline_behind(error)
        if cut is None or (handled is not None and cut is deadline_behind(handled)):
            return
        raised = DeadlineExceeded(cut.policy, cut.budget, cut.elapsed, cut.started, cut.attempt or exchange.attempt, cut.what)
        raised._source = cut._source
    raised._request = request
    for line in getattr(error, "__notes__", ()):
        raised.add_note(line)
    try:
        raise raised from error
    finally:
        del raised


def _set_backend(transport: object, network: object) -> bool:
    # httpx hands httpcore's `network_backend` argument to nobody, so it is put where httpcore keeps it.
    pool = getattr(transport, "_pool", None)
    if pool is None or not hasattr(pool, "_network_backend"):
        return isinstance(transport, (Transport, AsyncTransport)) and transport._watched
    pool._network_backend = network
    return True
