"""urllib3 behind policies.

    with holdfast.clients.urllib3.PoolManager(policy=billing) as http:
        http.request("GET", "https://billing.internal/tax")

`PoolManager` takes everything that urllib3's does, but `retries` only counts redirects: attempts are the policy's. Where the caller gives
no timeout, or None, it is 5 s to connect and 10 s for each read and for a place in a pool that is full (`block=True`).

Errors are urllib3's as well as ours: `except urllib3.exceptions.TimeoutError` catches DeadlineExceeded, `HTTPError` a refusal too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

try:
    import urllib3
except ImportError as error:
    raise ImportError("holdfast.clients.urllib3 needs the extra: pip install 'holdfast[requests]'") from error
from urllib3.connection import port_by_scheme
from urllib3.connectionpool import HTTPConnectionPool as PlainPool
from urllib3.connectionpool import HTTPSConnectionPool as TLSPool
from urllib3.exceptions import ClosedPoolError, EmptyPoolError, FullPoolError, HTTPError, LocationValueError, UnrewindableBodyError
from urllib3.exceptions import TimeoutError as HTTPTimeout
from urllib3.util import Retry, parse_url

from holdfast import errors
from holdfast.clients.errors import Kinds
from holdfast.clients.exchange import ATTEMPT, CONNECT_TIMEOUT, READ_TIMEOUT, TIMEOUT, Exchange, is_failure, own_error, running
from holdfast.clients.logical_call import Policies, mint_id, whole_call
from holdfast.clients.urllib3_network import HTTPConnection, HTTPSConnection, lend, read_failure
from holdfast.deadlines import ambient
from holdfast.drivers import clock, threads
from holdfast.flow import Call
from holdfast.policy import Policy

TIMEOUTS = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)

# What says nothing about the server: a bad request, or our own pool.
OURS = (LocationValueError, ValueError, TypeError, UnrewindableBodyError, EmptyPoolError, ClosedPoolError, FullPoolError)

# The headers that are ours alone to write, in lower case.
_WRITTEN = frozenset({ATTEMPT.lower(), TIMEOUT.lower()})

# Hosts whose pools' keys are kept.
_HOSTS = 256

_ONCE = Retry(0, respect_retry_after_header=False)


class DeadlineExceeded(errors.DeadlineExceeded, HTTPTimeout):
    """The time ran out; also an `urllib3.exceptions.TimeoutError`."""


class BreakerOpen(errors.BreakerOpen, HTTPError):
    """The breaker is open; also an `urllib3.exceptions.HTTPError`: nothing was sent."""


class BulkheadFull(errors.BulkheadFull, HTTPError):
    """The bulkhead is full; also an `urllib3.exceptions.HTTPError`: nothing was sent."""


class RateLimited(errors.RateLimited, HTTPError):
    """The rate is used up; also an `urllib3.exceptions.HTTPError`: nothing was sent."""


_KINDS = Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited)


class _Headers(dict[str, Any]):
    """Of one hop, named, and ours to write to: what urllib3's own would be, in a tenth of the time."""

    def __contains__(self, name: object) -> bool:
        wanted = str(name).lower()
        return any(key.lower() == wanted for key in self)


class _Repeated(urllib3.HTTPHeaderDict):
    """The same where a header may be there twice."""


def _named(headers: Mapping[str, str]) -> _Headers | _Repeated:
    if isinstance(headers, (_Headers, _Repeated)):
        return headers
    if isinstance(headers, urllib3.HTTPHeaderDict) or any(not isinstance(cast("object", name), str) for name in headers):
        ours: _Headers | _Repeated = _Repeated(headers)
    else:
        ours = _Headers(headers)
        for name in [name for name in ours if name.lower() in _WRITTEN]:
            del ours[name]  # in whatever case
    mint_id(ours)
    return ours


def with_defaults(timeout: urllib3.Timeout) -> urllib3.Timeout:
    """The timeout, with ours where none is given."""
    connect, read = timeout.connect_timeout, timeout.read_timeout
    if timeout.total is not None or (isinstance(connect, (int, float)) and read is not None):
        return timeout
    ours = TIMEOUTS
    return urllib3.Timeout(
        connect=connect if isinstance(connect, (int, float)) else ours.connect_timeout, read=ours.read_timeout if read is None else read
    )


class _Pool(PlainPool):
    """Connections to one host that obey the ambient deadline."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.timeout = with_defaults(self.timeout)

    def _get_timeout(self, timeout: Any) -> urllib3.Timeout:
        own = super()._get_timeout(timeout)
        return own if timeout is urllib3.Timeout.DEFAULT_TIMEOUT else with_defaults(own)

    def _get_conn(self, timeout: float | None = None) -> Any:
        if not self.block:
            return super()._get_conn(timeout)
        limit = ambient.get()
        own = READ_TIMEOUT if timeout is None else timeout
        try:
            return super()._get_conn(own if limit is None else min(own, limit.remaining(clock.now())))
        except EmptyPoolError:
            now = clock.now()
            if limit is None or now < limit.at:
                raise
            # Not raised itself: urllib3 would give a place back that it never had.
            raise EmptyPoolError(self, "the deadline passed before a connection was free") from limit.exceeded(now)


class _Guarded(PlainPool):
    """Requests to one host that pass its policy."""

    policies = Policies(None)

    def urlopen(  # type: ignore[override]  # what it does not look at goes on as it came
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        retries: Retry | bool | int | None = None,
        redirect: bool = True,
        assert_same_host: bool = True,
        **options: Any,
    ) -> urllib3.BaseHTTPResponse:
        """See urllib3. What a PoolManager asks for goes through the policy; it follows redirects itself."""
        send = partial(super().urlopen, method, url, body, redirect=redirect, assert_same_host=assert_same_host)
        if redirect:
            return send(headers=headers, retries=retries, **options)
        again, rewind = repeatable(body)
        own = Retry.from_int(retries, redirect=redirect, default=self.retries)
        named = _named(self.headers if headers is None else headers)
        exchange = _Exchange(method, named, again, OURS, rewind=rewind)
        options["release_conn"] = False
        send = partial(send, retries=False if own.total is False else _ONCE, **{**options, "preload_content": False})
        host = parse_url(url).host if self.proxy is not None else None
        response: Any = None
        try:
            buffered = options.get("preload_content", True)
            plan = self.policies.only or self.policies.plan(host or self.host)
            response = threads.run(plan, _attempt, (exchange, send, buffered), {}, exchange)
        except Exception as error:
            raise_ours(error, exchange)
            raise
        finally:
            for lost in exchange.over(response):
                exchange.drop(lost)
        response.retries = own
        return cast("urllib3.BaseHTTPResponse", response)


class _Exchange(Exchange):
    __slots__ = ()

    def lend(self, response: urllib3.BaseHTTPResponse, call: Call) -> None:
        lend(response, call, self, raise_ours)

    def drop(self, response: urllib3.BaseHTTPResponse) -> None:
        response.release_conn()  # and closes one that was not read


def _attempt(exchange: Exchange, send: Callable[..., urllib3.BaseHTTPResponse], buffered: bool) -> urllib3.BaseHTTPResponse:
    exchange.begin()
    token = running.set(exchange)
    try:
        response = send(headers=exchange.headers)
        exchange.failed = is_failure(response.status)
        if buffered:
            response.read(cache_content=True)
            exchange.whole = True
        elif exchange.failed and exchange.may_repeat:
            exchange.whole = read_failure(response)
        return response
    finally:
        running.reset(token)


class HTTPConnectionPool(_Pool):
    """Connections that obey the ambient deadline."""

    ConnectionCls = HTTPConnection  # pyright: ignore[reportAssignmentType]  # nor is urllib3's own


class HTTPSConnectionPool(_Pool, TLSPool):
    """The same with TLS."""

    ConnectionCls = HTTPSConnection  # pyright: ignore[reportAssignmentType]


class _GuardedHTTP(_Guarded, HTTPConnectionPool):  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
    pass


class _GuardedHTTPS(_Guarded, HTTPSConnectionPool):  # pyright: ignore[reportIncompatibleMethodOverride]  # as above
    pass


POOLS: dict[str, Any] = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
_GUARDED: dict[str, Any] = {"http": _GuardedHTTP, "https": _GuardedHTTPS}


class PoolManager(urllib3.PoolManager):
    """`urllib3.PoolManager` behind a policy. A response that is preloaded is read within its attempt, so failures in its body are retried.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        options: those of `urllib3.PoolManager`.
    """

    def __init__(self, *args: Any, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        self._policies = Policies(policy)
        self._keys: dict[tuple[str | None, int | None, str | None], tuple[Any, dict[str, Any], dict[str, Any]]] = {}
        super().__init__(*args, **options)
        self.pool_classes_by_scheme = _GUARDED

    def _new_pool(self, *args: Any, **options: Any) -> urllib3.HTTPConnectionPool:
        pool = super()._new_pool(*args, **options)
        if isinstance(pool, _Guarded):
            pool.policies = self._policies
        return pool

    def connection_from_host(
        self, host: str | None, port: int | None = None, scheme: str | None = "http", pool_kwargs: dict[str, Any] | None = None
    ) -> urllib3.HTTPConnectionPool:
        """See urllib3, which puts together the key of a pool from 25 parts for each request; here it is kept for each host."""
        if pool_kwargs is not None or self.proxy is not None or not host:
            return super().connection_from_host(host, port, scheme, pool_kwargs)
        known = self._keys.get((host, port, scheme))
        if known is None or known[2] != self.connection_pool_kw:
            context = {**self.connection_pool_kw, "scheme": scheme or "http", "host": host}
            context["port"] = port or port_by_scheme.get((scheme or "http").lower(), 80)
            make_key = self.key_fn_by_scheme.get(context["scheme"].lower())
            if make_key is None:
                return super().connection_from_host(host, port, scheme)  # which says what is wrong
            if len(self._keys) >= _HOSTS:
                self._keys.clear()
            known = self._keys[host, port, scheme] = (make_key(dict(context)), context, dict(self.connection_pool_kw))
        return self.connection_from_pool_key(known[0], dict(known[1]))

    def urlopen(  # type: ignore[override]  # what it does not look at goes on as it came
        self, method: str, url: str, redirect: bool = True, **options: Any
    ) -> urllib3.BaseHTTPResponse:
        """See urllib3. The policy's deadline is for all of it: redirects, attempts and the body."""
        given = options.get("headers")
        options["headers"] = _named(self.headers if given is None else given)
        token = ambient.set(whole_call(self._policies.only or self._policies.plan(_host(url))))
        try:
            return super().urlopen(method, url, redirect, **options)
        finally:
            ambient.reset(token)


def _host(url: str) -> str:
    return urlsplit(url).hostname or parse_url(url).host or ""  # the first is quicker, the second knows more


class ProxyManager(PoolManager, urllib3.ProxyManager):
    """`urllib3.ProxyManager` behind a policy; see `PoolManager`. Policies are found by the host that is asked, not by the proxy."""


def repeatable(body: Any) -> tuple[bool, Callable[[], object] | None]:
    """Whether a body can be sent again, and what is to be done before."""
    if body is None or isinstance(body, (str, bytes, bytearray, memoryview, list, tuple)):
        return True, None
    try:
        if not getattr(body, "seekable", lambda: True)():
            return False, None
        return True, partial(body.seek, body.tell())
    except (AttributeError, OSError, ValueError):  # no file, or one that does not say where it is
        return False, None


def raise_ours(error: Exception, exchange: Exchange) -> None:
    """Raise the error that is ours and urllib3's both, where `error` is ours; return where it is not."""
    raised = own_error(error, exchange, _KINDS)
    if raised is not None:
        try:
            raise raised from error
        finally:
            del raised
