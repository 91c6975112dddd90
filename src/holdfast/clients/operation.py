"""What the clients of connections that live long share: one operation on a connection, and how its end is read.

1. An operation whose server answered, with whatever error, says that the server is well; lost connections and silence are failures.
2. It is done again only where it cannot have run (connecting), or where its user said that it may run twice.
3. Operations of a policy inside of an operation of the same policy are part of it: they take no second place, and count no second time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from ssl import SSLCertVerificationError
from typing import Any, ParamSpec, TypeVar

from holdfast.drivers import threads
from holdfast.errors import DeadlineExceeded
from holdfast.flow import Call
from holdfast.outcome import FAILURE, SUCCESS, Verdict
from holdfast.plan import Plan
from holdfast.policy import Policy

P = ParamSpec("P")
R = TypeVar("R")

# How an error counts for the dependency, and whether the same thing may be done again although it may have run.
Judge = Callable[[Exception], tuple[Verdict, bool]]

# How many errors may lie between what a client raises and what TLS said.
_DEEPEST = 5

_running: ContextVar[Plan | None] = ContextVar("holdfast.operation", default=None)


class Operation:
    """The `Reading` of one operation.

    Args:
        judge: how an error counts, and whether doing it again is worth it.
        repeatable: whether the operation may be done again.
    """

    __slots__ = ("_judge", "_repeatable")

    def __init__(self, judge: Judge, *, repeatable: bool) -> None:
        self._judge = judge
        self._repeatable = repeatable

    @property
    def may_race(self) -> bool:
        """See `Reading.may_race`: a connection is used by one at a time."""
        return False

    def rival(self, args: tuple[Any, ...]) -> tuple[tuple[Any, ...], Operation]:
        """See `Reading.rival`."""
        return args, self

    def error(self, error: Exception) -> tuple[Verdict, bool]:
        """See `Reading.error`."""
        if isinstance(error, DeadlineExceeded):
            return FAILURE, self._repeatable
        verdict, again = self._judge(error)
        return verdict, again and self._repeatable

    def _worth_it(self, error: Exception) -> bool:
        """Whether doing it again makes sense, if it may be done again."""
        return isinstance(error, DeadlineExceeded) or self._judge(error)[1]

    def result(self, _result: object) -> tuple[Verdict | None, bool]:
        """See `Reading.result`: whatever the server answers is an answer."""
        return SUCCESS, False

    def unfinished(self, call: Call) -> None:
        """See `Reading.unfinished`: there is no such thing here."""

    def delay(self, _failure: object) -> float | None:
        """See `Reading.delay`: these servers do not say when to come back."""
        return None


class Guarding:
    """A policy as connections use it.

    Args:
        policy: None for deadlines only.
        name: who they call, where there is no policy.
        judge: how errors count.

    Raises:
        TypeError: it is no policy.
    """

    __slots__ = ("_judge", "_repeating", "_single", "name")

    def __init__(self, policy: Policy | None, name: str, judge: Judge) -> None:
        if policy is not None and not isinstance(policy, Policy):
            raise TypeError(f"policy must be a Policy or None, got {policy!r}")
        self.name = name if policy is None else policy.name
        self._judge = judge
        self._single: Plan | None = None if policy is None else policy._single
        # A connection has no substitute and no rival: fallback and hedge are for calls with results.
        whole = None if policy is None else policy._plan
        self._repeating = self._single if whole is None or whole.hedge is not None else whole.but(fallback=None)

    def once(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do something that may have run when it fails, and so is not done again."""
        return self._run(self._single, self._operation(False), fn, args, kwargs)

    def repeatedly(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Do something that can be done again, like connecting, as often as the policy's retry says."""
        return self._run(self._repeating, self._operation(True), fn, args, kwargs)

    def do(self, operation: Operation, fn: Callable[[], R]) -> R:
        """Do something that knows by itself whether it may be done again."""
        return self._run(self._repeating, operation, fn, (), {})

    async def ado(self, operation: Operation, fn: Callable[[], Awaitable[R]]) -> R:
        """`do` for async code."""
        return await self._arun(self._repeating, operation, fn, (), {})

    async def aonce(self, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """`once` for async code."""
        return await self._arun(self._single, self._operation(False), fn, args, kwargs)

    async def arepeatedly(self, fn: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """`repeatedly` for async code."""
        return await self._arun(self._repeating, self._operation(True), fn, args, kwargs)

    def _operation(self, repeatable: bool) -> Operation:
        return Operation(self._judge, repeatable=repeatable)

    def _run(self, plan: Plan | None, operation: Operation, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        if plan is None or _is_part(plan):
            return fn(*args, **kwargs)
        token = _running.set(plan)
        try:
            return threads.run(plan, fn, args, kwargs, operation)
        finally:
            _running.reset(token)

    async def _arun(
        self, plan: Plan | None, operation: Operation, fn: Callable[..., Awaitable[R]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> R:
        if plan is None or _is_part(plan):
            return await fn(*args, **kwargs)
        from holdfast.drivers import aio

        token = _running.set(plan)
        try:
            return await aio.run(plan, fn, args, kwargs, operation)
        finally:
            _running.reset(token)


def _is_part(plan: Plan) -> bool:
    running = _running.get()
    return running is not None and running.name == plan.name


def is_untrusted(error: BaseException | None) -> bool:
    """Whether it was raised since the server's certificate is not to be trusted, which doing the same again does not change."""
    for _ in range(_DEEPEST):
        if error is None or isinstance(error, SSLCertVerificationError):
            break
        error = error.__cause__ or error.__context__
    return isinstance(error, SSLCertVerificationError)
