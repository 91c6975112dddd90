"""The errors of `psycopg`: ours that are psycopg's as well, and how psycopg's count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

try:
    import psycopg
except ImportError as error:
    raise ImportError("holdfast.clients.postgres needs the extra: pip install 'holdfast[postgres]'") from error

from holdfast import errors
from holdfast.clients.operation import as_kind, refusal_kind
from holdfast.clients.postgres.codes import is_for_good, judge_code
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict


class DeadlineExceeded(errors.DeadlineExceeded, psycopg.OperationalError):
    """The time ran out; also a `psycopg.OperationalError`."""

    _info = None
    _encoding = "utf-8"
    _pgconn = None


class _Refused(errors.Rejected, psycopg.OperationalError):
    _info = None
    _encoding = "utf-8"
    _pgconn = None

    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        Exception.__init__(self, policy, retry_after)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also a `psycopg.OperationalError`: nothing was sent."""

    reason = errors.BreakerOpen.reason


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also a `psycopg.OperationalError`: nothing was sent."""

    reason = errors.BulkheadFull.reason


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also a `psycopg.OperationalError`: nothing was sent."""

    reason = errors.RateLimited.reason


_REFUSALS: dict[type[errors.Rejected], type[errors.Rejected]] = {
    errors.BreakerOpen: BreakerOpen,
    errors.BulkheadFull: BulkheadFull,
    errors.RateLimited: RateLimited,
}


@contextmanager
def translated() -> Iterator[None]:
    """Raise our errors as psycopg's too."""
    try:
        yield
    except (DeadlineExceeded, _Refused):
        raise
    except errors.DeadlineExceeded as cut:
        raise as_kind(DeadlineExceeded, cut) from cut
    except errors.Rejected as refusal:
        raise refusal_kind(refusal, _REFUSALS) from refusal


def judge(error: Exception) -> tuple[Verdict, bool]:
    """How an error counts for the server, and whether doing the same again is worth it."""
    if not isinstance(error, psycopg.Error):
        return (FAILURE if isinstance(error, OSError) else IGNORED), isinstance(error, OSError)
    if error.sqlstate:
        return judge_code(error.sqlstate)
    if isinstance(error, psycopg.OperationalError):
        # Without a code: the connection was lost, or could not be made.
        return (SUCCESS, False) if is_for_good(str(error)) else (FAILURE, True)
    return IGNORED, False  # the caller used psycopg in a way that it refuses
