"""The errors of `psycopg`: ours that are psycopg's as well, and how psycopg's count."""

from __future__ import annotations

try:
    import psycopg
except ImportError as error:
    raise ImportError("holdfast.clients.postgres needs the extra: pip install 'holdfast[postgres]'") from error

from holdfast import errors
from holdfast.clients.errors import Kinds, Refused
from holdfast.clients.postgres.codes import is_for_good, judge_code, lacks_trust
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict


class DeadlineExceeded(errors.DeadlineExceeded, psycopg.OperationalError):
    """The time ran out; also a `psycopg.OperationalError`."""

    _info = None
    _encoding = "utf-8"
    _pgconn = None


class _Refused(Refused, psycopg.OperationalError):
    _info = None
    _encoding = "utf-8"
    _pgconn = None


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also a `psycopg.OperationalError`: nothing was sent."""


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also a `psycopg.OperationalError`: nothing was sent."""


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also a `psycopg.OperationalError`: nothing was sent."""


KINDS = Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited)


def judge(error: Exception) -> tuple[Verdict, bool]:
    """How an error counts for the server, and whether doing the same again is worth it."""
    if not isinstance(error, psycopg.Error):
        return (FAILURE if isinstance(error, OSError) else IGNORED), isinstance(error, OSError)
    if error.sqlstate:
        return judge_code(error.sqlstate)
    if isinstance(error, psycopg.OperationalError):
        # Without a code: the connection was lost, or could not be made.
        message = str(error)
        return (SUCCESS, False) if is_for_good(message) else (FAILURE, not lacks_trust(message))
    return IGNORED, False  # the caller used psycopg in a way that it refuses
