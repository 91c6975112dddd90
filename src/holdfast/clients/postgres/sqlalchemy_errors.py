"""The errors of `sqlalchemy`: ours that are SQLAlchemy's as well."""

from __future__ import annotations

from typing import Any

try:
    import sqlalchemy.exc
except ImportError as error:
    raise ImportError("holdfast.clients.postgres.sqlalchemy needs SQLAlchemy: pip install 'holdfast[postgres]' sqlalchemy") from error

from holdfast import errors
from holdfast.clients.errors import Kinds, Refused


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


class BreakerOpen(_Statement, Refused, errors.BreakerOpen, sqlalchemy.exc.OperationalError):
    """The breaker is open; also a `sqlalchemy.exc.OperationalError`: nothing was sent."""


class BulkheadFull(_Statement, Refused, errors.BulkheadFull, sqlalchemy.exc.OperationalError):
    """The bulkhead is full; also a `sqlalchemy.exc.OperationalError`: nothing was sent."""


class RateLimited(_Statement, Refused, errors.RateLimited, sqlalchemy.exc.OperationalError):
    """The rate is used up; also a `sqlalchemy.exc.OperationalError`: nothing was sent."""


_KINDS = Kinds(DeadlineExceeded, BreakerOpen, BulkheadFull, RateLimited)


def ours(error: BaseException) -> DeadlineExceeded | errors.Rejected | None:
    """The error to raise in the place of `error`, where it is one of ours."""
    raised = _KINDS.of(error)
    if isinstance(raised, _Statement):
        raised.orig = error
    return raised
