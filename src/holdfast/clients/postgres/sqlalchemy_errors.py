"""The errors of `sqlalchemy`: ours that are SQLAlchemy's as well."""

from __future__ import annotations

from typing import Any

try:
    import sqlalchemy.exc
except ImportError as error:
    raise ImportError("holdfast.clients.postgres.sqlalchemy needs SQLAlchemy: pip install 'holdfast[postgres]' sqlalchemy") from error

from holdfast import errors
from holdfast.clients.operation import as_kind


class _Statement:
    """What SQLAlchemy's errors have, for those who look at it; the statement and its parameters stay out of ours."""

    statement: Any = None
    params: Any = None
    orig: Any = None  # what the driver raised
    hide_parameters = True
    ismulti: Any = None
    connection_invalidated = False


class DeadlineExceeded(_Statement, errors.DeadlineExceeded, sqlalchemy.exc.OperationalError):
    """The time ran out; also a `sqlalchemy.exc.OperationalError`."""


class _Refused(_Statement, errors.Rejected, sqlalchemy.exc.OperationalError):
    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        Exception.__init__(self, policy, retry_after)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self.args


class BreakerOpen(_Refused, errors.BreakerOpen):
    """The breaker is open; also a `sqlalchemy.exc.OperationalError`: nothing was sent."""

    reason = errors.BreakerOpen.reason


class BulkheadFull(_Refused, errors.BulkheadFull):
    """The bulkhead is full; also a `sqlalchemy.exc.OperationalError`: nothing was sent."""

    reason = errors.BulkheadFull.reason


class RateLimited(_Refused, errors.RateLimited):
    """The rate is used up; also a `sqlalchemy.exc.OperationalError`: nothing was sent."""

    reason = errors.RateLimited.reason


_REFUSALS: dict[type[errors.Rejected], type[_Refused]] = {
    errors.BreakerOpen: BreakerOpen,
    errors.BulkheadFull: BulkheadFull,
    errors.RateLimited: RateLimited,
}


def ours(error: BaseException) -> DeadlineExceeded | _Refused | None:
    """The error to raise in the place of `error`, where it is one of ours."""
    raised: DeadlineExceeded | _Refused | None = None
    if isinstance(error, errors.DeadlineExceeded):
        raised = as_kind(DeadlineExceeded, error)
    elif isinstance(error, errors.Rejected):
        kind = next((ours for theirs, ours in _REFUSALS.items() if isinstance(error, theirs)), _Refused)
        raised = kind(error.policy, error.retry_after)
    if raised is not None:
        raised.orig = error
    return raised
