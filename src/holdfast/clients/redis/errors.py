"""The errors of `redis`: ours that are redis-py's as well, and how redis-py's count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions

from holdfast import errors
from holdfast.clients.operation import as_kind, is_untrusted, refusal_kind
from holdfast.deadlines import ambient
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict, deadline_behind

# redis-py 6 and later looks at these, on errors of its own.
_TYPES: Any = getattr(exceptions, "ExceptionType", None)
_NETWORK: Any = None if _TYPES is None else _TYPES.NETWORK


class DeadlineExceeded(errors.DeadlineExceeded, exceptions.TimeoutError):
    """The time ran out; also a `redis.TimeoutError`."""

    error_type = _NETWORK
    status_code = None


class _Refused(errors.Rejected, exceptions.ConnectionError):
    error_type = _NETWORK
    status_code = None

    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        Exception.__init__(self, policy, retry_after)


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also a `redis.ConnectionError`: nothing was sent."""

    reason = errors.BreakerOpen.reason


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also a `redis.ConnectionError`: nothing was sent."""

    reason = errors.BulkheadFull.reason


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also a `redis.ConnectionError`: nothing was sent."""

    reason = errors.RateLimited.reason


_REFUSALS: dict[type[errors.Rejected], type[errors.Rejected]] = {
    errors.BreakerOpen: BreakerOpen,
    errors.BulkheadFull: BulkheadFull,
    errors.RateLimited: RateLimited,
}

# Answers of a server that cannot serve anybody just now.
_SERVER_FAILS = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.TryAgainError,
)

# With these it has not begun, so whatever it was may be sent again: it loads its data, or has become a replica.
NOT_BEGUN = (exceptions.BusyLoadingError, exceptions.ClusterDownError, exceptions.ReadOnlyError, exceptions.TryAgainError)

# Of redis-py, ConnectionErrors by class and yet no failure of the server: a wrong password; a pool of ours that is empty.
_NO_FAILURES: dict[type[Exception], Verdict] = {
    exceptions.AuthenticationError: SUCCESS,
    exceptions.AuthorizationError: SUCCESS,
    exceptions.MaxConnectionsError: IGNORED,
}


def judge(error: Exception) -> tuple[Verdict, bool]:
    """How an error counts for the server, and whether doing the same again is worth it."""
    for kind, verdict in _NO_FAILURES.items():
        if isinstance(error, kind):
            return verdict, False
    if isinstance(error, _SERVER_FAILS):
        return FAILURE, isinstance(error, NOT_BEGUN)
    if isinstance(error, (exceptions.ConnectionError, exceptions.TimeoutError, OSError)):
        return FAILURE, not is_untrusted(error)
    if isinstance(error, exceptions.ResponseError):
        return SUCCESS, False
    return IGNORED, False


def casts_doubt(error: BaseException) -> bool:
    """Whether an attempt ended so that the server may not be the one to ask any more."""
    lost = isinstance(error, (errors.DeadlineExceeded, exceptions.ConnectionError, exceptions.TimeoutError, *NOT_BEGUN))
    return lost and not isinstance(error, tuple(_NO_FAILURES))


@contextmanager
def deadlines_seen() -> Iterator[None]:
    """Around an attempt: raise DeadlineExceeded where redis-py has made another error of it."""
    try:
        yield
    except (exceptions.RedisError, exceptions.RedisClusterException) as error:
        limit, cut = ambient.get(), deadline_behind(error)
        if isinstance(error, errors.DeadlineExceeded) or limit is None or cut is None or not limit.encloses(cut):
            raise
        raise as_kind(DeadlineExceeded, cut) from error


@contextmanager
def translated() -> Iterator[None]:
    """Around a call: raise our errors as redis-py's too."""
    try:
        yield
    except (DeadlineExceeded, _Refused):
        raise
    except errors.DeadlineExceeded as cut:
        raise as_kind(DeadlineExceeded, cut) from cut
    except errors.Rejected as refusal:
        raise refusal_kind(refusal, _REFUSALS) from refusal
