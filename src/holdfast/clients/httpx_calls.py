"""Requests of httpx and of httpx2 behind the policies of their hosts: what the clients and transports of both share.

httpx2 has httpx's classes under names of its own, so here they are what the given module says.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http.cookiejar import CookieJar
from typing import Any

from holdfast.clients.errors import Kinds
from holdfast.clients.exchange import CONNECT_TIMEOUT, FAILURE_BODY, READ_TIMEOUT, Exchange, is_failure, own_error, running
from holdfast.clients.httpx_backend import AsyncBackend, Backend
from holdfast.clients.httpx_bodies import AsyncLent, AsyncRest, Lent, Rest, over
from holdfast.clients.httpx_errors import Core
from holdfast.clients.httpx_http2 import noticed, separate, share, unprocessed
from holdfast.clients.httpx_pools import heal
from holdfast.clients.logical_call import Policies, mint_id, whole_call
from holdfast.deadlines import Deadline
from holdfast.drivers import aio, clock, threads
from holdfast.errors import DeadlineExceeded
from holdfast.flow import Call
from holdfast.outcome import Verdict
from holdfast.policy import Policy

# Addresses that are kept in the form that the library takes them apart into, which takes it a twentieth of a request.
_ADDRESSES = 512

_BUFFERED = "holdfast.buffered"
# On a transport: what is written below it is noticed.
_WATCHED = "_holdfast_watched"


class Library:
    """httpx or httpx2, and what is ours for it.

    Args:
        httpx: the module.
        core: the name of the module of its connections.
        kinds: its kinds of our errors.
    """

    def __init__(self, httpx: Any, core: str, kinds: Kinds[DeadlineExceeded]) -> None:
        self.httpx = httpx
        self.core = Core(importlib.import_module(core))
        self._kinds = kinds
        self.ours = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.StreamError, httpx.CookieConflict)
        self.timeouts = httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT)  # where the user gives none
        self.unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)  # raised before anything was sent
        self.jar = over(httpx.Cookies, _QuietJar)
        self._parsed = functools.lru_cache(_ADDRESSES)(httpx.URL)  # they do not change

    def url(self, url: Any) -> Any:
        """The URL, taken apart."""
        return self._parsed(url) if type(url) is str else url

    def raise_ours(self, error: Exception, request: Any, exchange: Exchange) -> None:
        """Raise the error that is ours and the library's both, where `error` is ours; return where it is not."""
        raised: Any = own_error(error, exchange, self._kinds)
        if raised is None:
            return
        raised._request = request
        try:
            raise raised from error
        finally:
            del raised


class _QuietJar:
    """Cookies that are looked for where there are some: the library turns each response and request into urllib's first."""

    def extract_cookies(self, response: Any) -> None:
        if "set-cookie" in response.headers or type(self.jar) is not CookieJar:  # type: ignore[attr-defined]  # the library's comes behind it
            super().extract_cookies(response)  # type: ignore[misc]  # see there


class _Calls:
    """The requests of one client or transport.

    Args:
        library: whose they are.
        policy: one for all hosts, or a mapping.
        transports: what sends them.
        backend: the network below those.
        lent: the class of bodies that are handed on.
    """

    def __init__(
        self,
        library: Library,
        policy: Policy | Mapping[str, Policy] | None,
        transports: Iterable[Any],
        backend: Backend | AsyncBackend,
        lent: type[Any],
    ) -> None:
        self._library = library
        self._policies = Policies(policy)
        self._lent = lent
        transports = [transport for transport in transports if transport is not None]
        self._pools = [transport._pool for transport in transports if hasattr(transport, "_pool")]
        self.blind = [transport for transport in transports if not _watch(transport, backend, library.core)]
        self._multiplexed = [pool for pool in self._pools if getattr(pool, "_http2", False)]

    def begin(self, request: Any, stream: bool) -> Deadline | None:
        """A logical call begins. How it is read stays with the request over redirects, and is told to the attempts.

        Returns:
            Its deadline.
        """
        request.extensions = {**request.extensions, _BUFFERED: not stream}
        return whole_call(self._policies.only or self._policies.plan(request.url.host))

    def _exchange(self, request: Any, blind: bool) -> _Exchange:
        mint_id(request.headers)
        return _Exchange(self._library, self._lent, self._pools, request, blind)

    def _keep(self, response: Any, stream: Any, chunks: list[bytes]) -> None:
        response.stream = self._library.httpx.ByteStream(b"".join(chunks))
        if getattr(stream, "elapsed", None) is not None:  # httpx2 asks its streams
            response.elapsed = stream.elapsed


class _Exchange(Exchange):
    __slots__ = ("_lent", "_library", "_pools")

    def __init__(self, library: Library, lent: type[Any], pools: list[Any], request: Any, blind: bool) -> None:
        again = isinstance(request.stream, library.httpx.ByteStream)
        super().__init__(request.method, request.headers, again, library.ours, request=request, unsent=library.unsent, watched=not blind)
        self._library = library
        self._lent = lent
        self._pools = pools

    def error(self, error: Exception) -> tuple[Verdict, bool]:
        if unprocessed(error.__cause__):
            self.sent = False
        return super().error(error)

    def lend(self, response: Any, call: Call) -> None:
        response.stream = self._lent(response.stream, self, call, self.raise_ours, self._pools)

    def raise_ours(self, error: Exception) -> None:
        self._library.raise_ours(error, self.request, self)


class Calls(_Calls):
    """Blocking ones; the arguments are those of `_Calls`, without the class of bodies."""

    def __init__(self, library: Library, policy: Policy | Mapping[str, Policy] | None, transports: Iterable[Any], backend: Backend) -> None:
        super().__init__(library, policy, transports, backend, over(library.httpx.SyncByteStream, Lent))
        self._rest = over(library.httpx.SyncByteStream, Rest)
        for pool in self._multiplexed:
            separate(pool, library.core.library)

    def make(self, request: Any, send: Callable[[Any], Any], *, blind: bool = False, streamed: bool = False) -> Any:
        """Send a request through the policy of its host.

        Args:
            request: the request.
            send: makes one attempt.
            blind: whether nobody below tells what was written.
            streamed: whether the body is somebody else's to read, whatever the caller wants.
        """
        plan = self._policies.only or self._policies.plan(request.url.host)
        exchange = self._exchange(request, blind)
        response: Any = None
        try:
            response = threads.run(plan, self._attempt, (exchange, send, streamed), {}, exchange)
        except Exception as error:
            exchange.raise_ours(error)
            raise
        finally:
            for lost in exchange.over(response):
                lost.close()
        return response

    def _attempt(self, exchange: Exchange, send: Callable[[Any], Any], streamed: bool) -> Any:
        request = exchange.request
        exchange.begin()
        token = running.set(exchange)
        try:
            response = self._send(request, exchange, send)
            exchange.failed = is_failure(response.status_code)
            if not streamed and request.extensions.get(_BUFFERED):
                stream = response.stream
                response.stream = self._rest([], iter(stream), stream)
                try:
                    response.read()
                except BaseException:
                    response.close()
                    raise
                exchange.whole = True
            elif exchange.failed and exchange.may_repeat:
                exchange.whole = self._read_failure(response)
            return response
        finally:
            running.reset(token)

    def _send(self, request: Any, exchange: Exchange, send: Callable[[Any], Any]) -> Any:
        limit = exchange.limit
        if limit is None or limit.at == math.inf:
            return send(request)
        # A thread that waits for a free connection waits on no socket, so that the pool's own timeout has to end it.
        extensions = request.extensions
        timeout = extensions.get("timeout", {})
        left, own = limit.remaining(clock.now()), timeout.get("pool")
        request.extensions = {**extensions, "timeout": {**timeout, "pool": left if own is None or left < own else own}}
        try:
            return send(request)
        except self._library.httpx.PoolTimeout as error:
            now = clock.now()
            if now >= limit.at:
                raise limit.exceeded(now) from error
            raise
        finally:
            request.extensions = extensions

    def _read_failure(self, response: Any) -> bool:
        chunks: list[bytes] = []
        size = 0
        stream = response.stream
        body = iter(stream)
        try:
            for chunk in body:
                chunks.append(chunk)
                size += len(chunk)
                if size > FAILURE_BODY:
                    response.stream = self._rest(chunks, body, stream)
                    return False
        except BaseException:
            stream.close()
            raise
        stream.close()
        self._keep(response, stream, chunks)
        return True


class AsyncCalls(_Calls):
    """Those of asyncio and trio; see `Calls`."""

    def __init__(
        self, library: Library, policy: Policy | Mapping[str, Policy] | None, transports: Iterable[Any], backend: AsyncBackend
    ) -> None:
        super().__init__(library, policy, transports, backend, over(library.httpx.AsyncByteStream, AsyncLent))
        self._rest = over(library.httpx.AsyncByteStream, AsyncRest)
        for pool in self._multiplexed:
            share(pool, library.core.library)

    def _exchange(self, request: Any, blind: bool) -> _Exchange:
        if self._multiplexed:
            request.extensions = noticed(request.extensions)
        return super()._exchange(request, blind)

    async def make(self, request: Any, send: Callable[[Any], Awaitable[Any]], *, blind: bool = False, streamed: bool = False) -> Any:
        """Send a request through the policy of its host; see `Calls.make`."""
        plan = self._policies.only or self._policies.plan(request.url.host)
        exchange = self._exchange(request, blind)
        response: Any = None
        try:
            response = await aio.run(plan, self._attempt, (exchange, send, streamed), {}, exchange)
        except Exception as error:
            exchange.raise_ours(error)
            raise
        finally:
            for lost in exchange.over(response):
                await lost.aclose()
        return response

    async def _attempt(self, exchange: Exchange, send: Callable[[Any], Awaitable[Any]], streamed: bool) -> Any:
        request = exchange.request
        exchange.begin()
        token = running.set(exchange)
        response: Any = None
        try:
            response = await send(request)
            exchange.failed = is_failure(response.status_code)
            if not streamed and request.extensions.get(_BUFFERED):
                stream = response.stream
                response.stream = self._rest([], stream.__aiter__(), stream)
                try:
                    await response.aread()
                except BaseException:
                    await response.aclose()
                    raise
                exchange.whole = True
            elif exchange.failed and exchange.may_repeat:
                exchange.whole = await self._read_failure(response)
        except BaseException:
            await heal(self._pools, None if response is None else response.stream)
            raise
        else:
            return response
        finally:
            running.reset(token)

    async def _read_failure(self, response: Any) -> bool:
        chunks: list[bytes] = []
        size = 0
        stream = response.stream
        body = stream.__aiter__()
        try:
            async for chunk in body:
                chunks.append(chunk)
                size += len(chunk)
                if size > FAILURE_BODY:
                    response.stream = self._rest(chunks, body, stream)
                    return False
        except BaseException:
            await stream.aclose()
            raise
        await stream.aclose()
        self._keep(response, stream, chunks)
        return True


def _watch(transport: Any, network: Backend | AsyncBackend, core: Core) -> bool:
    # httpx hands httpcore's `network_backend` argument to nobody, so it is put where httpcore keeps it.
    pool = getattr(transport, "_pool", None)
    if pool is not None and hasattr(pool, "_network_backend"):
        through_socks = isinstance(pool, (core.library.SOCKSProxy, core.library.AsyncSOCKSProxy))
        pool._network_backend = network.for_socks() if through_socks else network
        return True
    return bool(getattr(transport, _WATCHED, False))
