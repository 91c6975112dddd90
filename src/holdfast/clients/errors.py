"""Errors that are ours and a client library's both: `except httpx.TimeoutException` catches `DeadlineExceeded`.

Each client derives its kinds from ours and from its library's, and names them once, in a `Kinds`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from holdfast.errors import BreakerOpen, BulkheadFull, DeadlineExceeded, RateLimited, Rejected

D_co = TypeVar("D_co", bound=DeadlineExceeded, covariant=True)
E = TypeVar("E", bound=BaseException)


class Refused(Rejected):
    """A refusal whose other parent, the library's error, is made and pickled in a way of its own; this one goes by ours."""

    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        Exception.__init__(self, policy, retry_after)

    def __reduce__(self) -> str | tuple[object, ...]:
        return Exception.__reduce__(self)


class Kinds(Generic[D_co]):
    """A client's kinds of our errors.

    Args:
        exceeded: of DeadlineExceeded.
        breaker_open: of BreakerOpen.
        bulkhead_full: of BulkheadFull.
        rate_limited: of RateLimited.
    """

    __slots__ = ("_exceeded", "_refusals")

    def __init__(
        self, exceeded: type[D_co], breaker_open: type[BreakerOpen], bulkhead_full: type[BulkheadFull], rate_limited: type[RateLimited]
    ) -> None:
        self._exceeded = exceeded
        self._refusals: dict[type[BaseException], type[Rejected]] = {
            BreakerOpen: breaker_open,
            BulkheadFull: bulkhead_full,
            RateLimited: rate_limited,
        }

    def of(self, ours: BaseException, attempt: int = 0) -> D_co | Rejected | None:
        """The client's kind of an error, to be raised from it.

        Args:
            ours: the error.
            attempt: the number of the attempt, where a DeadlineExceeded does not say it.

        Returns:
            None where it is of that kind already, or none of ours.
        """
        own = self._refusals.get(type(ours))
        if own is None:
            if isinstance(ours, DeadlineExceeded):
                return None if isinstance(ours, self._exceeded) else self.exceeded(ours, attempt)
            # A refusal that is another client's kind, from code that this client called.
            own = next((own for kind, own in self._refusals.items() if isinstance(ours, kind) and not isinstance(ours, own)), None)
        return noted(own(*ours.args), ours) if own is not None else None

    def exceeded(self, cut: DeadlineExceeded, attempt: int = 0) -> D_co:
        """The client's kind of a DeadlineExceeded; itself, where it is that already. See `of`."""
        if isinstance(cut, self._exceeded):
            return cut
        raised = self._exceeded(cut.policy, cut.budget, cut.elapsed, cut.started, cut.attempt or attempt, cut.what)
        raised._source = cut._source
        return noted(raised, cut)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """A block whose errors of ours are raised as the client's kinds."""
        try:
            yield
        except (DeadlineExceeded, Rejected) as ours:
            raised = self.of(ours)
            if raised is None:
                raise
            raise raised from ours


def noted(error: E, like: BaseException) -> E:
    """`error`, with the notes of the one that it stands for."""
    for line in getattr(like, "__notes__", ()):
        error.add_note(line)
    return error
