"""Asking several servers the same, until one answers: each has its share of the time, so one that says nothing does not take all of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from redis import exceptions

from holdfast import errors
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.scope import deadline, remaining

S = TypeVar("S")
R = TypeVar("R")

# With these the next is asked.
_NO_ANSWER = (exceptions.RedisError, exceptions.RedisClusterException, OSError)


def first_answer(ask: Callable[[S], R], servers: Iterable[S], seconds: float) -> R:
    """What the first says that answers.

    Args:
        ask: asks one.
        servers: in the order in which they are asked.
        seconds: for all of them, where the ambient deadline does not end sooner.

    Raises:
        DeadlineExceeded: the ambient deadline passed.
        redis.RedisError, OSError: of the last one that was asked.
    """
    turns = _Turns([*servers], seconds)
    while turns.left:
        server, share = turns.next()
        try:
            with deadline(share):
                return ask(server)
        except _NO_ANSWER as error:
            turns.failed(error)
    raise turns.failure


async def afirst_answer(ask: Callable[[S], Awaitable[R]], servers: Iterable[S], seconds: float) -> R:
    """The same for async code."""
    turns = _Turns([*servers], seconds)
    while turns.left:
        server, share = turns.next()
        try:
            async with deadline(share):
                return await ask(server)
        except _NO_ANSWER as error:
            turns.failed(error)
    raise turns.failure


class _Turns(Generic[S]):
    """Whose turn it is, and how long it may take."""

    def __init__(self, servers: list[S], seconds: float) -> None:
        self.left = servers
        self._end = clock.now() + min(seconds, remaining())
        self.failure: Exception = exceptions.ConnectionError("there is nobody to ask")

    def next(self) -> tuple[S, float]:
        """The next, and its share in seconds."""
        share = (self._end - clock.now()) / len(self.left)
        return self.left.pop(0), share

    def failed(self, error: Exception) -> None:
        """It did not answer. Raises DeadlineExceeded where the time of all is over."""
        limit, now = ambient.get(), clock.now()
        if limit is not None and now >= limit.at:
            raise limit.exceeded(now) from error
        if isinstance(error, errors.DeadlineExceeded):  # its share was over, which is no deadline of the caller's
            error = exceptions.TimeoutError("no answer in time")
        self.failure = error
