"""aiohttp behind policies.

    async with holdfast.clients.aiohttp.ClientSession(policy=billing) as session:
        async with session.get("https://billing.internal/tax") as response:
            print(await response.json())

1. `ClientSession` is aiohttp's and takes everything that it takes. Each request that leaves (after each redirect, each step of an
   authentication, each middleware of the user) passes the policy of its host; the deadline is for all of them and for the body.
2. Timeouts are never none by accident: where the caller gives none, 5 s to get a connection (queue, look-up, connect and TLS together),
   10 s for each read, and aiohttp's 300 s in all unless the policy has a deadline. `ClientTimeout(sock_read=0)` says none on purpose.
   `total` is enforced as a deadline, so no attempt follows it.
3. aiohttp hands a response out before its body has come, so a failure in the middle of a body is not retried. Until the body has come
   the response holds its place and permit; it gives them back when it is closed, released or forgotten, and when the deadline passes.
4. Names are looked up by `holdfast.net.agetaddrinfo`, so that a look-up that hangs holds neither the deadline nor the process's exit. A
   `connector` that is given is left as it is: give it `resolver=Resolver()` for the same.
5. aiohttp's silent second try of an idempotent request whose connection broke is off: `Retry` does it, counted.
6. A websocket's handshake passes the policy; the websocket then lives for as long as it likes.

Errors are aiohttp's as well as ours: `except aiohttp.ServerTimeoutError` catches DeadlineExceeded, `except aiohttp.ClientConnectionError`
that and a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, cast

try:
    import aiohttp
except ImportError as error:
    raise ImportError("holdfast.clients.aiohttp needs the extra: pip install 'holdfast[aiohttp]'") from error
from aiohttp.hdrs import SET_COOKIE
from aiohttp.helpers import sentinel
from multidict import istr
from yarl import URL

from holdfast import errors
from holdfast.clients import exchange
from holdfast.clients.aiohttp_connections import Connector, Resolver
from holdfast.clients.aiohttp_reading import Reading
from holdfast.clients.aiohttp_requests import Marked, Prototypes, Response, Written, can_repeat, can_share, kind_of, marked
from holdfast.clients.aiohttp_times import Times
from holdfast.clients.errors import Kinds, noted
from holdfast.clients.exchange import FAILURE_BODY, is_failure
from holdfast.clients.logical_call import REQUEST_ID, Policies, new_id, whole_call
from holdfast.deadlines import Deadline, ambient, restore
from holdfast.drivers import aio, clock
from holdfast.flow import Call
from holdfast.plan import Plan
from holdfast.policy import Policy

_REQUEST_ID = istr(REQUEST_ID)

_OURS = (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError)

# Seconds between looks at how long the body of a failure has become: streams tell when they end, and not when they are full.
_LOOK = 0.02


class DeadlineExceeded(errors.DeadlineExceeded, aiohttp.ServerTimeoutError):
    """The time ran out; also an `aiohttp.ServerTimeoutError`."""


class BreakerOpen(errors.BreakerOpen, aiohttp.ClientConnectionError):
    """The breaker is open; also an `aiohttp.ClientConnectionError`: nothing was sent."""


class BulkheadFull(errors.BulkheadFull, aiohttp.ClientConnectionError):
    """The bulkhead is full; also an `aiohttp.ClientConnectionError`: nothing was sent."""


class RateLimited(errors.RateLimited, aiohttp.ClientConnectionError):
    """The rate is used up; also an `aiohttp.ClientConnectionError`: nothing was sent."""


_KINDS = Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited)


class _Plain:
    # aiohttp warns of every subclass, since its attributes may change; ours are registered in ATTRS.
    def __init_subclass__(cls) -> None:
        pass


class ClientSession(_Plain, aiohttp.ClientSession):
    """`aiohttp.ClientSession` behind a policy.

    Args:
        base_url: see aiohttp.
        policy: one for all hosts, or a mapping of host to policy with "*" for the others; None for timeouts only.
        options: those of `aiohttp.ClientSession`.
    """

    ATTRS = aiohttp.ClientSession.ATTRS | {"_policies", "_prototypes", "_times"}

    def __init__(self, base_url: str | URL | None = None, *, policy: Policy | Mapping[str, Policy] | None = None, **options: Any) -> None:
        self._policies = Policies(policy)
        if options.get("connector") is None:
            shared = {name: options[name] for name in ("loop",) if options.get(name) is not None}
            if "ssl_shutdown_timeout" in options:
                shared["ssl_shutdown_timeout"] = options.pop("ssl_shutdown_timeout")
            options["connector"] = Connector(resolver=Resolver(), **shared)
        options.setdefault("response_class", Response)
        options["request_class"] = marked(options.get("request_class", aiohttp.ClientRequest))
        super().__init__(base_url, **options)
        unsaid = options.get("timeout", sentinel) in (sentinel, None) and "read_timeout" not in options and "conn_timeout" not in options
        self._times = Times(self._timeout, None if unsaid else self._timeout)
        self._timeout = self._times.shown
        # aiohttp sends an idempotent request once more when its connection breaks, without a word and whatever came of it: one attempt of
        # ours would be two on the wire, and neither the budget nor the breaker would know. The policy's retries do the same, counted.
        self._retry_connection = False
        self._prototypes = Prototypes(self)

    async def _request(self, method: str, str_or_url: Any, **options: Any) -> aiohttp.ClientResponse:
        usual = self._prototypes.serve(self, options)
        url = self._url(str_or_url, options.get("params") if usual else None) if usual or self._policies.only is None else None
        plan = self._policies.only or self._policies.plan("" if url is None else url.host or "")
        total, options["timeout"] = self._times.of(options.get("timeout", sentinel), plan)
        limit = whole_call(plan)
        token = ambient.set(limit if not total else _tightened(limit, total, plan))
        try:
            learn = answer = None
            if usual and url is not None:
                kind = kind_of(method, url, options)
                prototype = self._prototypes.find(self, kind)
                if prototype is None:
                    learn = partial(self._prototypes.learn, kind, url, options["timeout"])
                else:
                    answer = await _answer(prototype.copy(self, url, options), prototype.send, plan)
                    if answer.status < 300:
                        if SET_COOKIE in answer.headers:
                            self._cookie_jar.update_cookies_from_headers(answer.headers.getall(SET_COOKIE), answer.url)
                        return answer
            given = options.get("middlewares")
            # The innermost of all, so that what the user's middlewares do (authentication, signatures) is part of the logical call.
            call = _LogicalCall(self._policies, learn, answer)
            options["middlewares"] = (*(self._middlewares if given is None else given), call)
            return await aiohttp.ClientSession._request(self, method, str_or_url, **options)
        except Exception as error:
            _raise_ours(error)
            raise
        finally:
            restore(token)

    def _url(self, url: Any, params: Any) -> URL | None:
        try:
            built = self._build_url(url)
            return built.extend_query(params) if params else built
        except (TypeError, ValueError):
            return None  # aiohttp says what is wrong with it


def _tightened(limit: Deadline | None, total: float, plan: Plan) -> Deadline | None:
    """The deadline with aiohttp's total, which is one as well, and named like the policy's: the server was slow."""
    end = clock.now() + total
    return Deadline(end, total, plan.name, limit) if total > 0 and (limit is None or end < limit.at) else limit


class _LogicalCall:
    """The middleware that makes the attempts; one for each call of the user, over its redirects.

    Args:
        policies: of the hosts.
        learn: is shown the first request, as aiohttp has made it.
        answer: that to the first request, where there is one already: aiohttp goes on from there.
    """

    __slots__ = ("_answer", "_learn", "_name", "_policies")

    def __init__(
        self, policies: Policies, learn: Callable[[aiohttp.ClientRequest], None] | None, answer: aiohttp.ClientResponse | None
    ) -> None:
        self._policies = policies
        self._learn = learn
        self._answer = answer
        self._name = None if answer is None else answer.request_info.headers[_REQUEST_ID]

    async def __call__(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        answer, self._answer = self._answer, None
        if answer is not None:
            return answer
        learn, self._learn = self._learn, None
        if learn is not None:
            learn(request)
        headers = request.headers
        if self._name is not None:
            headers.setdefault(_REQUEST_ID, self._name)
        elif _REQUEST_ID not in headers:
            headers[_REQUEST_ID] = new_id()
        self._name = headers[_REQUEST_ID]
        try:
            return await _answer(request, handler, self._policies.only or self._policies.plan(request.url.host or ""))
        except Exception as error:
            _raise_ours(error)
            raise


def _answer(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType, plan: Plan) -> Coroutine[Any, Any, aiohttp.ClientResponse]:
    """The answer to one request, behind the policy."""
    headers = request.headers
    if _REQUEST_ID not in headers:
        headers[_REQUEST_ID] = new_id()
    reading = _Exchange(request)
    answer = aio.run(plan, _attempt, (handler, reading), {}, reading)
    return answer if plan.hedge is None else _first(answer, reading)


async def _first(answer: Coroutine[Any, Any, aiohttp.ClientResponse], reading: _Exchange) -> aiohttp.ClientResponse:
    response: Any = None
    try:
        response = await answer
    finally:
        for lost in reading.over(response):
            lost.close()
    return cast("aiohttp.ClientResponse", response)


async def _attempt(handler: aiohttp.ClientHandlerType, reading: _Exchange) -> aiohttp.ClientResponse:
    request = reading.request
    if reading.attempt:
        await request.close()  # the last attempt's writer, which may not have let go of the body yet
    reading.begin()
    reading.transport = None  # the last attempt's may be somebody else's by now
    cast("Marked", request)._exchange = reading
    try:
        response = await handler(request)
    except BaseException:
        if reading.transport is not None:
            reading.transport.abort()  # aiohttp has closed it, and TLS would wait for the last word of a peer that may be silent
        raise
    finally:
        cast("Marked", request)._exchange = None  # no ring of the two
    reading.failed = is_failure(response.status)
    if reading.failed and reading.may_repeat:
        try:
            await _read(response.content)
        except BaseException:
            response.close()
            raise
    reading.whole = response.content.is_eof()
    return response


async def _read(content: aiohttp.StreamReader) -> None:
    """Wait until a body has come, or is longer than is worth it. It stays in the stream, for whoever gets the response."""
    most = min(FAILURE_BODY, content.get_read_buffer_limits()[1])  # beyond this aiohttp stops reading
    while not content.is_eof() and content.total_bytes <= most:
        error = content.exception()
        if error is not None:
            raise error
        try:
            async with asyncio.timeout(_LOOK):
                await content.wait_eof()
        except TimeoutError:
            continue  # a look; or the stream's own, which is its exception then


class _Exchange(Written):
    """The exchange of a request, whose response may be handed on while its body still comes."""

    __slots__ = ()

    attempt_header = istr(exchange.ATTEMPT)
    timeout_header = istr(exchange.TIMEOUT)

    def __init__(self, request: aiohttp.ClientRequest) -> None:
        super().__init__(request.method, request.headers, True, _OURS, request=request)
        self.transport = None

    @property
    def again(self) -> bool:
        return can_repeat(self.request.body)

    @property
    def may_race(self) -> bool:
        return self.request._continue is None and can_share(self.request.body) and self.harmless

    def lend(self, response: aiohttp.ClientResponse, call: Call) -> None:
        Reading(response, call, _KINDS.exceeded)
        self.request = None  # it has the response, and no ring is to keep one that is forgotten


def _raise_ours(error: Exception) -> None:
    """Raise the error that is aiohttp's as well, where `error` is ours or the system's; return where it is one already, or nobody's."""
    if isinstance(error, aiohttp.ClientError):
        return
    raised: Exception | None = _KINDS.of(error)
    if raised is None and isinstance(error, OSError) and (error.errno is not None or not isinstance(error, TimeoutError)):
        raised = noted(aiohttp.ClientOSError(*error.args), error)  # as aiohttp does
    if raised is None:
        return
    try:
        raise raised from error
    finally:
        del raised
