"""What the HTTP clients share: which policy, what may be done again, how answers count, which headers go out.

1. 5xx, 429, connection errors and timeouts are failures; every other answer is a success for the breaker: 404 says that the server is well.
2. Done again is what can do no harm twice: a method that is idempotent (RFC 9110, 9.2.2), any method with an `Idempotency-Key`, and
   whatever failed before the first byte was written. A body that cannot be sent twice is sent once.
3. `Retry-After` replaces the backoff, up to `Retry.delay_max`.
4. Out go `X-Request-Id` (one per logical call, the same in all its attempts), `X-Request-Attempt` (from 1) and `X-Request-Timeout-Ms`
   (what is left of the deadline).
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any, cast

from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock
from holdfast.flow import Call, Plan
from holdfast.headers import format_milliseconds, parse_retry_after
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict
from holdfast.policy import Policy

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

# Where the user gives none: a connection takes milliseconds, and whoever needs more than this says so.
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 10.0

# The body of a failure that may be followed by another attempt is read, so that its connection is free meanwhile; a longer one is not
# worth it, and is the answer.
FAILURE_BODY = 256 * 1024

REQUEST_ID = "X-Request-Id"
ATTEMPT = "X-Request-Attempt"
TIMEOUT = "X-Request-Timeout-Ms"


class Policies:
    """Which policy guards which host.

    Args:
        policy: one for all, or a mapping of host to policy in which "*" stands for every other; None for timeouts only.

    Raises:
        TypeError: it is neither.
    """

    __slots__ = ("_by_host", "_others")

    def __init__(self, policy: Policy | Mapping[str, Policy] | None) -> None:
        by_host: Mapping[str, Policy] = policy if isinstance(policy, Mapping) else {} if policy is None else {"*": policy}
        self._by_host: dict[str, Policy] = {}
        for host, each in by_host.items():
            if not isinstance(cast("object", host), str) or not isinstance(cast("object", each), Policy):
                raise TypeError(f"policy must be a Policy or a mapping of host to Policy, got {host!r}: {each!r}")
            self._by_host[host.lower()] = each
        self._others = self._by_host.get("*") or Policy("http")

    def plan(self, host: str) -> Plan:
        """What guards calls to this host."""
        return self._by_host.get(host.lower(), self._others)._plan


def whole_call(plan: Plan) -> Deadline | None:
    """The deadline of a logical call that begins now: redirects, attempts and the reading of the response, all together."""
    outer = ambient.get()
    if plan.deadline is None:
        return outer
    end = clock.now() + plan.deadline
    return Deadline(end, plan.deadline, plan.name, outer) if outer is None or end < outer.at else outer


def is_failure(status: int) -> bool:
    """Whether the server, and not the request, is to blame."""
    return status >= 500 or status == 429


def mint_id(headers: MutableMapping[str, Any]) -> None:
    """Give the logical call its name, unless the caller has named it."""
    if REQUEST_ID not in headers:
        headers[REQUEST_ID] = uuid.uuid4().hex


class Exchange:
    """One request and its attempts; the `Reading` by which the flow judges them.

    Args:
        method: of the request.
        headers: of the request; each attempt writes its own into them.
        again: whether the body can be sent twice.
        ours: the client's own errors that are nobody's failure but the caller's (a bad URL, a bad request).
    """

    __slots__ = ("_again", "_headers", "_idempotent", "_ours", "answered", "attempt", "call", "sent", "whole")

    def __init__(self, method: str, headers: MutableMapping[str, Any], again: bool, ours: tuple[type[BaseException], ...] = ()) -> None:
        self._headers = headers
        self._again = again
        self._idempotent = method.upper() in IDEMPOTENT or "Idempotency-Key" in headers
        self._ours = ours
        self.attempt = 0
        self.answered = 0  # the status of this attempt's response
        self.sent = False  # a byte of this attempt was written
        self.whole = False  # its response has been read to the end
        self.call: Call | None = None  # a response that is still being read

    @property
    def may_repeat(self) -> bool:
        """Whether another attempt could follow this one, as far as the request goes."""
        return not self.sent or (self._idempotent and self._again)

    def begin(self) -> None:
        """An attempt begins."""
        self.attempt += 1
        self.answered = 0
        self.sent = False
        self.whole = False
        self._headers[ATTEMPT] = str(self.attempt)
        limit = ambient.get()
        if limit is not None and limit.at < math.inf:
            self._headers[TIMEOUT] = format_milliseconds(limit.remaining(clock.now()))

    # The flow's questions.

    def error(self, error: Exception) -> tuple[Verdict, bool]:
        """See `Reading.error`."""
        if isinstance(error, self._ours):
            return IGNORED, False
        return FAILURE, self.may_repeat

    def result(self, _result: Any) -> tuple[Verdict | None, bool]:
        """See `Reading.result`."""
        if not self.whole:
            return None, False
        failed = is_failure(self.answered)
        return FAILURE if failed else SUCCESS, failed and self._idempotent and self._again

    def unfinished(self, call: Call) -> None:
        """See `Reading.unfinished`."""
        self.call = call

    def delay(self, failure: Any) -> float | None:
        """See `Reading.delay`."""
        if isinstance(failure, BaseException):
            return None
        asked = failure.headers.get("Retry-After")
        return None if asked is None else parse_retry_after(str(asked), time.time())


# The exchange that this code is in, for the streams below: they see the first byte that is written.
running: ContextVar[Exchange | None] = ContextVar("holdfast.exchange", default=None)


def wrote() -> None:
    """A byte of the running attempt goes out."""
    exchange = running.get()
    if exchange is not None:
        exchange.sent = True
