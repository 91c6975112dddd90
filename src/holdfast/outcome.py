"""What became of an attempt, in the three words that policies understand."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

from holdfast.errors import DeadlineExceeded

# Which exceptions: types, or a question asked of the exception.
Matcher: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]"

T = TypeVar("T")


class Verdict(enum.Enum):
    """How an attempt counts for the dependency that it called.

    SUCCESS: it answered. FAILURE: it failed. IGNORED: it says nothing about the dependency (cancelled, interrupted,
    cut off by the caller's own deadline, refused before it began); the place that it held is given back all the same.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"


SUCCESS = Verdict.SUCCESS
FAILURE = Verdict.FAILURE
IGNORED = Verdict.IGNORED


class Reading(Protocol):
    """How a client reads what became of an attempt, where more is known than a type of exception: the request, the status, how far it got.

    It stands in for `Retry.on`, `Retry.on_result`, `Retry.delay_from`, `Breaker.ignore` and `Breaker.on_result`; attempts,
    waits, budget and refusals stay the policy's.
    """

    @property
    def may_race(self) -> bool:
        """Whether attempts of it may run at once: it does no harm twice, and nothing of it is used up by one of them."""
        ...

    def rival(self, args: tuple[Any, ...], /) -> tuple[tuple[Any, ...], Reading]:
        """For one of the attempts that run at once: the arguments of the call and a reading, neither of which another one changes."""
        ...

    def error(self, error: Exception, /) -> tuple[Verdict, bool]:
        """How a failure counts, and whether the call may be done again."""
        ...

    def result(self, result: Any, /) -> tuple[Verdict | None, bool]:
        """The same for a result. None for how it counts: that is not known yet, and `unfinished` is told next."""
        ...

    def unfinished(self, call: Any) -> None:
        """The result is handed on though it has not ended, like a response that is still being read; `call.close` ends it."""
        ...

    def delay(self, failure: Any, /) -> float | None:
        """Seconds that the other side wants us to wait after this failure, or None."""
        ...


def matches(matcher: Matcher, error: BaseException) -> bool:
    """Whether `error` is one of the types, or the predicate says so."""
    if isinstance(matcher, (type, tuple)):
        return isinstance(error, matcher)
    return bool(matcher(error))


def check_matcher(field: str, matcher: object) -> None:
    """Raise TypeError unless `matcher` is an exception type, a tuple of them, or a callable."""
    types = matcher if isinstance(matcher, tuple) else (matcher,)
    if all(isinstance(item, type) and issubclass(item, BaseException) for item in types):
        return
    if isinstance(matcher, (tuple, type)) or not callable(matcher):
        raise TypeError(f"{field} must be an exception type, a tuple of them, or a predicate on the exception, got {matcher!r}")


def describe_matcher(matcher: Matcher) -> str:
    """`ConnectionError, TimeoutError`, or the predicate's name."""
    if isinstance(matcher, tuple):
        return ", ".join(item.__name__ for item in matcher) or "nothing"
    return getattr(matcher, "__name__", repr(matcher))


# A client library wraps what its socket raised once or twice (urllib3 three times); the bound only guards
# against a chain that somebody built into a ring.
_DEEPEST_CHAIN = 16


def deadline_behind(error: BaseException) -> DeadlineExceeded | None:
    """The DeadlineExceeded that `error` is, or that it was raised from; None where there is none."""
    link: BaseException | None = error
    for _ in range(_DEEPEST_CHAIN):
        if link is None or isinstance(link, DeadlineExceeded):
            return link
        link = link.__cause__ or link.__context__  # httpcore raises `from None` what it only passes on
    return None
