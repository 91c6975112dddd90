"""What the HTTP clients share: what may be done again, how answers count, which headers go out.

1. 5xx, 429, connection errors and timeouts are failures; every other answer is a success for the breaker: 404 says that the server is well.
2. Done again is what can do no harm twice: a method that is idempotent (RFC 9110, 9.2.2), any method with an `Idempotency-Key`, and
   whatever failed before the first byte was written. A body that cannot be sent twice is sent once.
3. `Retry-After` replaces the backoff, up to `Retry.delay_max`.
4. Out go `X-Request-Id` (one per logical call, the same in all its attempts), `X-Request-Attempt` (from 1) and `X-Request-Timeout-Ms`
   (what is left of the deadline); and within a server's request that is not of the usual importance `X-Request-Priority`.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, MutableMapping
from contextvars import ContextVar
from copy import copy
from itertools import count
from typing import Any

from holdfast import priority
from holdfast.clients.errors import Kinds, noted
from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded, Rejected
from holdfast.flow import Call
from holdfast.headers import format_milliseconds, parse_retry_after
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict, deadline_behind

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

# Where the user gives none: a connection takes milliseconds, and whoever needs more than this says so.
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 10.0

# The body of a failure that may be followed by another attempt is read, so that its connection is free meanwhile; a longer one is not
# worth it, and is the answer.
FAILURE_BODY = 256 * 1024

ATTEMPT = "X-Request-Attempt"
TIMEOUT = "X-Request-Timeout-Ms"


def is_failure(status: int) -> bool:
    """Whether the server, and not the request, is to blame."""
    return status >= 500 or status == 429


class Exchange(ABC):
    """One request and its attempts; the `Reading` by which the flow judges them.

    Args:
        method: of the request.
        headers: of the request; each attempt writes its own into them.
        again: whether the body can be sent twice.
        request: the client's own, where it has one; with these headers.
        rewind: what is to be done before the body is sent again.
        ours: the client's own errors that are nobody's failure but the caller's (a bad URL, a bad request).
        unsent: those that say that nothing was sent.
        watched: whether the stream below tells what is written (`wrote`). Where none does, every attempt counts as sent unless its
            error is one of `unsent`.
    """

    # Their names, which a client may have in a form of its own that is quicker to look up.
    attempt_header = ATTEMPT
    timeout_header = TIMEOUT

    __slots__ = (
        "_again",
        "_method",
        "_ours",
        "_rewind",
        "_unsent",
        "_watched",
        "attempt",
        "failed",
        "headers",
        "limit",
        "outer",
        "race",
        "request",
        "response",
        "sent",
        "whole",
    )

    def __init__(
        self,
        method: str,
        headers: MutableMapping[str, Any],
        again: bool,
        ours: tuple[type[BaseException], ...] = (),
        *,
        request: Any = None,
        rewind: Callable[[], object] | None = None,
        unsent: tuple[type[BaseException], ...] = (),
        watched: bool = True,
    ) -> None:
        self._method = method
        self.headers = headers
        self.request = request
        self._again = again
        self._rewind = rewind
        self._ours = ours
        self._unsent = unsent
        self._watched = watched
        self.outer = running.get()  # a client behind a policy on top of a transport behind another: what is sent is sent for both
        self.attempt = 0
        self.failed = False  # this attempt was answered, and its status is the server's failure
        self.sent = False  # a byte of this attempt was written
        self.whole = False  # its response has been read to the end
        self.limit: Deadline | None = None  # of this attempt
        self.response: Any = None
        self.race: _Race | None = None  # with the attempts that run at once, where there are some

    # Asked when something has failed, and not before.

    @property
    def harmless(self) -> bool:
        """Whether the request may be sent although it has been sent before."""
        return self.again and (self._method.upper() in IDEMPOTENT or "Idempotency-Key" in self.headers)

    @property
    def again(self) -> bool:
        """Whether the body can be sent twice."""
        return self._again

    @property
    def may_race(self) -> bool:
        """See `Reading.may_race`. Two cannot read one file."""
        return self._rewind is None and self.harmless

    @property
    def may_repeat(self) -> bool:
        """Whether another attempt could follow this one, as far as the request goes."""
        return not self.sent or self.harmless

    def begin(self) -> None:
        """An attempt begins."""
        self.attempt += 1
        if self.attempt > 1:
            self.failed = self.sent = self.whole = False
            if self._rewind is not None:
                self._rewind()
        if not self._watched:
            wrote(self)
        headers = self.headers
        headers[self.attempt_header] = str(self.attempt)
        limit = self.limit = ambient.get()
        if limit is not None and limit.at < math.inf:
            headers[self.timeout_header] = format_milliseconds(limit.at - clock.current.get().now())
        level = priority.ambient.get()
        if level is not None and priority.HEADER not in headers:
            headers[priority.HEADER] = priority.LEVELS[level]

    def cut(self, error: BaseException) -> DeadlineExceeded | None:
        """The deadline that ended this call, where `error` is due to one. Not one that had ended another call, whose error the caller
        was handling when this one began: Python links that to whatever is raised meanwhile.
        """
        if isinstance(error, DeadlineExceeded):
            return error
        cut = deadline_behind(error)
        limits = (ambient.get(), *(each.limit for each in self.attempts))
        return cut if cut is not None and any(limit is not None and limit.encloses(cut) for limit in limits) else None

    # Attempts that run at once: each has an exchange of its own, a copy of the one that the call began with.

    @property
    def attempts(self) -> Iterable[Exchange]:
        """This one, or those that run at once."""
        return (self,) if self.race is None else tuple(self.race.rivals)

    def rival(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Exchange]:
        """See `Reading.rival`."""
        race = self.race
        if race is None:
            race = self.race = _Race()
        mine = copy(self)
        mine.attempt = next(race.numbers)
        mine.headers = type(self.headers)(self.headers)  # type: ignore[call-arg]  # every client's copies another one
        if self.request is not None:
            mine.request = object.__new__(type(self.request))
            vars(mine.request).update(vars(self.request), headers=mine.headers)
        race.rivals.append(mine)
        return tuple(mine if each is self else each for each in args), mine

    def over(self, answer: Any) -> list[Any]:
        """The call is over. The answers that nobody gets, to be closed; those that come later are closed as they come.

        Args:
            answer: the one that was taken, if any.
        """
        race = self.race
        if race is None:
            return []
        race.over = True
        rivals, race.rivals = race.rivals, []
        answers = [each.response for each in rivals]
        for each in rivals:
            each.response = None
        return [each for each in answers if each is not None and each is not answer]

    # The flow's questions.

    def error(self, error: Exception) -> tuple[Verdict, bool]:
        """See `Reading.error`."""
        if isinstance(error, self._ours):
            return IGNORED, False
        if not self._watched and isinstance(error, self._unsent):
            self.sent = False
        return FAILURE, self.may_repeat

    def result(self, result: Any) -> tuple[Verdict | None, bool]:
        """See `Reading.result`."""
        self.response = result
        if not self.whole:
            return None, False
        return (FAILURE, self.harmless) if self.failed else (SUCCESS, False)

    def unfinished(self, call: Call) -> None:
        """See `Reading.unfinished`."""
        response = self.response
        self.lend(response, call)
        if self.race is None:
            self.response = None  # no ring of the two: a response that is forgotten is gone at once
        elif self.race.over:
            self.drop(response)

    @abstractmethod
    def lend(self, response: Any, call: Call) -> None:
        """Hand on a response that is still to be read, and with it what its call holds."""

    def drop(self, response: Any) -> None:
        """Close a response that nobody gets."""
        response.close()

    def delay(self, failure: Any) -> float | None:
        """See `Reading.delay`."""
        if isinstance(failure, BaseException):
            return None
        asked = failure.headers.get("Retry-After")
        return None if asked is None else parse_retry_after(str(asked), time.time())


class _Race:
    """The attempts of one call that run at once."""

    __slots__ = ("numbers", "over", "rivals")

    def __init__(self) -> None:
        self.numbers = count()
        self.rivals: list[Exchange] = []
        self.over = False


def finish(call: Call, failed: bool, verdict: Verdict, error: Exception | None = None) -> None:
    """End an attempt whose response was streamed.

    Args:
        call: whose attempt.
        failed: whether the status was the server's failure.
        verdict: what came of the body.
        error: what ended it, if anything did.
    """
    now = clock.now()
    if error is not None and call.cut_by_caller(error, now):
        verdict = IGNORED
    elif verdict is SUCCESS and failed:
        verdict = FAILURE
    call.close(verdict, now, error)


def own_error(error: Exception, exchange: Exchange, kinds: Kinds[DeadlineExceeded]) -> DeadlineExceeded | Rejected | None:
    """The error that is ours and the client's both, to be raised from `error`; None where `error` is not ours, or both already.

    Args:
        error: what the call came to.
        exchange: the call.
        kinds: the client's kinds of our errors.
    """
    ours = error if isinstance(error, Rejected) else exchange.cut(error)
    raised = None if ours is None else kinds.of(ours, exchange.attempt)
    return raised if raised is None or ours is error else noted(raised, error)


# The exchange that this code is in, for the streams below: they see the first byte that is written.
running: ContextVar[Exchange | None] = ContextVar("holdfast.exchange", default=None)


def wrote(by: Exchange | None = None) -> None:
    """A byte of an attempt goes out: of this one, or of the running one."""
    exchange = by or running.get()
    while exchange is not None:
        exchange.sent = True
        exchange = exchange.outer
