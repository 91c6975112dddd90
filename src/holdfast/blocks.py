"""The block forms of a policy: `policy.attempts()` and `policy.guard()`, each for blocking and for async code."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from holdfast.drivers import aio, threads
    from holdfast.plan import Plan


class Attempt(Protocol):
    """One attempt of `Policy.attempts()`, to be made in its block."""

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        ...


class Attempts:
    """What `Policy.attempts` returns: iterate over it once."""

    __slots__ = ("_plan",)

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __iter__(self) -> Iterator[threads.Block]:
        from holdfast.drivers import threads

        return threads.attempts(self._plan)

    def __aiter__(self) -> AsyncIterator[aio.Block]:
        from holdfast.drivers import aio

        return aio.Attempts(self._plan)


class Guard:
    """What `Policy.guard` returns: a context manager of both kinds, for one block."""

    __slots__ = ("_async", "_plan", "_sync")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sync: threads.Block | None = None
        self._async: aio.Block | None = None

    def __enter__(self) -> Attempt:
        from holdfast.drivers import threads

        self._refuse_again()
        self._sync = threads.Block(self._plan)
        return self._sync.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._sync is not None:
            self._sync.__exit__(kind, error, trace)

    async def __aenter__(self) -> Attempt:
        from holdfast.drivers import aio

        self._refuse_again()
        self._async = aio.Block(self._plan)
        return await self._async.__aenter__()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._async is not None:
            await self._async.__aexit__(kind, error, trace)

    def _refuse_again(self) -> None:
        if self._sync is not None or self._async is not None:
            raise RuntimeError(f"{self._plan.name}: a guard is for one block; call policy.guard() for each")
