"""The errors of `redis`: ours that are redis-py's as well, and how redis-py's count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import exceptions

from holdfast import errors
from holdfast.clients.errors import Kinds, Refused
from holdfast.clients.operation import is_untrusted
from holdfast.deadlines import ambient
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict, deadline_behind

# redis-py 6 and later looks at these, on errors of its own.
_TYPES: Any = getattr(exceptions, "ExceptionType", None)
_NETWORK: Any = None if _TYPES is None else _TYPES.NETWORK


class DeadlineExceeded(errors.DeadlineExceeded, exceptions.TimeoutError):
    """The time ran out; also a `redis.TimeoutError`."""

    error_type = _NETWORK
    status_code = None


class _Refused(Refused, exceptions.ConnectionError):
    error_type = _NETWORK
    status_code = None


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also a `redis.ConnectionError`: nothing was sent."""


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also a `redis.ConnectionError`: nothing was sent."""


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also a `redis.ConnectionError`: nothing was sent."""


KINDS = Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited)

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
        raise KINDS.exceeded(cut) from error
