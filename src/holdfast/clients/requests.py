"""requests behind policies.

    with holdfast.clients.requests.Session(policy=billing) as session:
        session.get("https://billing.internal/tax")

`Session` is requests' own. `Adapter` puts a policy under a session that exists (`session.mount("https://", Adapter(policy=billing))`); it
sees one hop at a time, so there the deadline is each hop's, and a streamed response's.

Where the caller gives no timeout, or None, it is 5 s to connect and 10 s for each read.

Errors are requests' as well as ours: `except requests.Timeout` catches DeadlineExceeded, `except requests.ConnectionError` a refusal.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment

try:
    import requests
except ImportError as error:
    raise ImportError("holdfast.clients.requests needs the extra: pip install 'holdfast[requests]'") from error
import requests.adapters
import requests.cookies
import urllib3.exceptions
from requests import exceptions
from requests.sessions import merge_setting

from holdfast import errors
from holdfast.clients import urllib3 as pools
from holdfast.clients.errors import Kinds, Refused
from holdfast.clients.exchange import TIMEOUT, Exchange, is_failure, own_error, running
from holdfast.clients.logical_call import REQUEST_ID, Policies, mint_id, whole_call
from holdfast.clients.urllib3 import OURS, POOLS, repeatable
from holdfast.clients.urllib3_network import lend, read_failure
from holdfast.deadlines import ambient
from holdfast.drivers import threads
from holdfast.flow import Call
from holdfast.policy import Policy

_OURS = (*OURS, exceptions.UnrewindableBodyError)

# On a prepared request: the id that we gave it, so that sending it a second time is a call of its own.
_MINTED = "_holdfast_id"


class _Error:
    request: requests.Request | requests.PreparedRequest | None = None
    response: requests.Response | None = None


class DeadlineExceeded(_Error, errors.DeadlineExceeded, exceptions.Timeout):
    """The time ran out; also a `requests.Timeout`."""

    def __reduce__(self) -> tuple[object, ...]:
        kind, args, state = super().__reduce__()
        return kind, args, _without_request(state)


class ConnectDeadlineExceeded(DeadlineExceeded, exceptions.ConnectTimeout):
    """The time ran out before anything was sent; also a `requests.ConnectTimeout`."""


class ReadDeadlineExceeded(DeadlineExceeded, exceptions.ReadTimeout):
    """The time ran out when the request, or a part of it, had been sent; also a `requests.ReadTimeout`."""


class _Refused(_Error, Refused, exceptions.ConnectionError):
    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args, _without_request(self.__dict__)


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also a `requests.ConnectionError`: nothing was sent."""


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also a `requests.ConnectionError`: nothing was sent."""


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also a `requests.ConnectionError`: nothing was sent."""


def _without_request(state: Any) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name not in {"request", "response", "_source"}}


_REFUSALS = (BreakerOpen, BulkheadFull, RateLimited)
_UNSENT = Kinds(ConnectDeadlineExceeded, *_REFUSALS)
_SENT = Kinds(ReadDeadlineExceeded, *_REFUSALS)


class Adapter(requests.adapters.HTTPAdapter):
    """A transport adapter whose requests pass a policy. A response that is not streamed is read within its attempt.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        pool_connections: for how many hosts connections are kept.
        pool_maxsize: how many connections are kept for each.
        pool_block: whether there are never more than those; who needs one waits, up to 10 s.
    """

    __attrs__ = [*requests.adapters.HTTPAdapter.__attrs__, "_policies"]  # noqa: RUF012  (requests' own way of pickling)

    def __init__(
        self,
        policy: Policy | Mapping[str, Policy] | None = None,
        *,
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        pool_block: bool = False,
    ) -> None:
        self._policies = Policies(policy)
        super().__init__(pool_connections, pool_maxsize, 0, pool_block)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """See requests."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """See requests."""
        manager = super().proxy_manager_for(proxy, **options)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = POOLS
        return manager

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send the request through the policy of its host."""
        again, rewind = repeatable(request.body)
        _name(request)
        exchange = _Exchange(request.method or "", request.headers, again, _OURS, request=request, rewind=rewind)
        plan = self._policies.only or self._policies.plan(_host(request.url))
        given = pools.TIMEOUTS if timeout is None else timeout
        response: Any = None
        try:
            response = threads.run(plan, self._attempt, (exchange, stream, given, verify, cert, proxies), {}, exchange)
        except Exception as error:
            raise_ours(error, exchange, request)
            raise
        finally:
            for lost in exchange.over(response):
                lost.close()
        return cast("requests.Response", response)

    def _attempt(self, exchange: Exchange, stream: bool, *options: Any) -> requests.Response:
        exchange.begin()
        token = running.set(exchange)
        try:
            response = super().send(exchange.request, stream, *options)
            exchange.failed = is_failure(response.status_code)
            if not stream:
                exchange.whole = _read(response)
            elif exchange.failed and exchange.may_repeat:
                exchange.whole = _read_failure(response)
            return response
        finally:
            running.reset(token)


class _Exchange(Exchange):
    __slots__ = ()

    def lend(self, response: requests.Response, call: Call) -> None:
        lend(response.raw, call, self, partial(raise_ours, request=self.request))


def _read(response: requests.Response) -> bool:
    try:
        response.content  # noqa: B018  (reads it, and keeps it)
    except (exceptions.ChunkedEncodingError, exceptions.ContentDecodingError):
        if not response.is_redirect:  # nobody looks at that body, and requests follows it all the same
            raise
    return True


def _read_failure(response: requests.Response) -> bool:
    try:
        return read_failure(response.raw)
    except urllib3.exceptions.ProtocolError as error:  # as requests names them where it reads
        raise exceptions.ChunkedEncodingError(error, request=response.request) from error
    except urllib3.exceptions.ReadTimeoutError as error:
        raise exceptions.ConnectionError(error, request=response.request) from error
    except urllib3.exceptions.SSLError as error:
        raise exceptions.SSLError(error, request=response.request) from error


class _QuietJar(requests.cookies.RequestsCookieJar):
    """Cookies that are looked for where there are some: the parser of cookies takes its time to find none."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        if response.info().get("Set-Cookie") is not None or response.info().get("Set-Cookie2") is not None:
            super().extract_cookies(response, request)


class Session(requests.Session):
    """`requests.Session` behind a policy.

    Args:
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
    """

    __attrs__ = [*requests.Session.__attrs__, "_policies"]  # noqa: RUF012  (requests' own way of pickling)

    def __init__(self, policy: Policy | Mapping[str, Policy] | None = None) -> None:
        super().__init__()
        self._policies = Policies(policy)
        self.cookies = _QuietJar()
        adapter = Adapter(policy)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """See requests. The policy's deadline is for all of it: redirects, authentication, attempts and the body."""
        token = ambient.set(whole_call(self._policies.only or self._policies.plan(_host(request.url))))
        try:
            return super().send(request, **options)
        finally:
            ambient.reset(token)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """See requests, which looks for proxies through the whole environment, twice and with every request: a fifth of its time."""
        if not self.trust_env or _names_proxies():
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        if verify is True or verify is None:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or verify
        return {
            "proxies": merge_setting(proxies, self.proxies),
            "stream": merge_setting(stream, self.stream),
            "verify": merge_setting(verify, self.verify),
            "cert": merge_setting(cert, self.cert),
        }


def _names_proxies() -> bool:
    """Whether the environment says anything about proxies. Other systems than the usual ones have more to ask, so there it may."""
    if getproxies is not getproxies_environment or not hasattr(os, "environb"):
        return True
    return any(name[-6:].lower() == b"_proxy" for name in os.environb)


@lru_cache(512)
def _host(url: object) -> str:
    return urlsplit(str(url)).hostname or ""


def _name(request: requests.PreparedRequest) -> None:
    """Give the logical call its name, which stays with the copies that redirects and authentication make of the request."""
    headers, kept = request.headers, vars(request)
    if _MINTED in kept and headers.get(REQUEST_ID) == kept[_MINTED]:
        del headers[REQUEST_ID]
        headers.pop(TIMEOUT, None)
    if REQUEST_ID not in headers:
        mint_id(headers)
        kept[_MINTED] = headers[REQUEST_ID]


def raise_ours(error: Exception, exchange: Exchange, request: requests.PreparedRequest) -> None:
    """Raise the error that is ours and requests' both, where `error` is ours; return where it is not."""
    sent = any(each.sent or each.attempt > 1 for each in exchange.attempts)
    raised: Any = own_error(error, exchange, _SENT if sent else _UNSENT)
    if raised is None:
        if not isinstance(error, urllib3.exceptions.EmptyPoolError):
            return
        raised = exceptions.ConnectTimeout(error)  # requests lets urllib3's own error out
    raised.request = request
    try:
        raise raised from error
    finally:
        del raised
