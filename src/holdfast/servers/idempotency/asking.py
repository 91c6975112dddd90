"""How a store is asked for a key: no longer than it makes sense, and not at all while it is away.

1. It has `timeout` seconds to answer, and never all that is left of the request: whether the store was silent must be known in time.
2. After three in a row that it did not answer, all further requests are told so at once (`StoreUnavailable`), and nothing runs.
3. After a second, and then after pauses that grow to five, one of them finds out whether it is back.
4. A store that answered others meanwhile is not away, however long somebody waited: there are more requests than connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf

from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock
from holdfast.errors import Rejected, StoreUnavailable
from holdfast.outcome import deadline_behind
from holdfast.policies.breaker import Breaker
from holdfast.policy import Policy
from holdfast.scope import deadline, remaining

# Of what is left of a request. Where that is less than so many seconds the request was late, whatever the store does.
_SHARE = 0.8
_LEAST = 0.05


class _Crowded(StoreUnavailable):
    """It answered others, and this one not in time."""


_BREAKER = Breaker(
    failure_rate=None,
    consecutive=3,
    open_for=1.0,
    open_for_max=5.0,
    probe_share=1.0,
    max_probes=1,
    probes_to_close=1,
    ignore=lambda error: isinstance(error, _Crowded) or not isinstance(error, StoreUnavailable),
)


class Asking:
    """Of one store, and of one process: a store that a host cannot reach may be well for others.

    Args:
        name: of the policy, in metrics and events.
        timeout: seconds; None where its library has a bound of its own.
    """

    def __init__(self, name: str, timeout: float | None) -> None:
        self._name = name
        self._timeout = timeout
        self._policy = Policy(name, breaker=_BREAKER, shared=False)
        self._answered = -inf

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Ask in the block.

        Raises:
            StoreUnavailable: it is away; the block did not run, or found that out.
        """
        began = clock.now()
        try:
            with self._policy.guard():
                try:
                    yield
                except StoreUnavailable as error:
                    self._blame(error, began)
                    raise
        except Rejected as refusal:
            raise self._away(refusal.retry_after) from refusal
        self._answered = clock.now()

    @asynccontextmanager
    async def aguarded(self) -> AsyncIterator[None]:
        """`guarded` for async code."""
        began = clock.now()
        try:
            async with self._policy.guard():
                try:
                    yield
                except StoreUnavailable as error:
                    self._blame(error, began)
                    raise
        except Rejected as refusal:
            raise self._away(refusal.retry_after) from refusal
        self._answered = clock.now()

    def _blame(self, error: StoreUnavailable, began: float) -> None:
        if self._answered > began:
            raise _Crowded(str(error)) from error

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Wait for its answer in the block.

        Raises:
            StoreUnavailable: it did not answer in time.
            DeadlineExceeded: the request was over before that.
        """
        request, block = ambient.get(), deadline(self._seconds())
        try:
            with block:
                yield
        except Exception as error:
            self._read(error, request, block.limit)
            raise

    @asynccontextmanager
    async def ain_time(self) -> AsyncIterator[None]:
        """`in_time` for async code."""
        request, block = ambient.get(), deadline(self._seconds())
        try:
            async with block:
                yield
        except Exception as error:
            self._read(error, request, block.limit)
            raise

    def _seconds(self) -> float:
        most = _SHARE * remaining()
        return inf if self._timeout is None or most < _LEAST else min(self._timeout, most)

    def _read(self, error: Exception, request: Deadline | None, limit: Deadline | None) -> None:
        """Raise what it is that libraries have made their own errors of: the store's time that is over, or the request's."""
        cut = deadline_behind(error)
        if cut is None or limit is None:
            return
        # A library that only the request's deadline could stop had the store's time all the same.
        if limit is not request and clock.now() >= limit.at:
            raise self._away(None) from error
        if request is not None and request.encloses(cut):
            raise cut from cut.__cause__

    def _away(self, after: float | None) -> StoreUnavailable:
        away = StoreUnavailable(f"{self._name} does not answer")
        away.retry_after = after
        return away
