"""Open transactions of SQLAlchemy and psycopg, blocking and async, behind one face each.

1. A session ends once, by `commit` or `roll_back`, and its connection goes back to where it came from.
2. One that could not be ended in order, or was cut off in the middle of a statement, is closed and not given back: nobody else is to
   find its transaction, or an answer that was meant for it.
3. The handler works in the transaction and cannot end it: a commit in the middle would part the effects from their record.
"""

from __future__ import annotations

from typing import Protocol

from holdfast.errors import StoreUnavailable
from holdfast.servers.idempotency.sql_words import Values

Rows = list[tuple[object, ...]]


class Session(Protocol):
    """An open transaction."""

    connection: object

    def under_ambient(self) -> None:
        """What follows is bound by the deadline that surrounds it now."""
        ...

    def execute(self, words: str, values: Values) -> Rows:
        """One statement; the rows that it returns."""
        ...

    def commit(self) -> None:
        """End it so."""
        ...

    def roll_back(self) -> None:
        """End it so; raises nothing, and does nothing where it has ended."""
        ...


class AsyncSession(Protocol):
    """The same for async code."""

    connection: object

    def under_ambient(self) -> None:
        """See `Session`."""
        ...

    async def execute(self, words: str, values: Values) -> Rows:
        """See `Session`."""
        ...

    async def commit(self) -> None:
        """See `Session`."""
        ...

    async def roll_back(self) -> None:
        """See `Session`."""
        ...


class Errors(Protocol):
    """What the errors of a library mean."""

    def is_duplicate(self, error: BaseException) -> bool:
        """Whether the key is there already."""
        ...

    def is_locked(self, error: BaseException) -> bool:
        """Whether another transaction had the lock for too long."""
        ...

    def translated(self, error: BaseException) -> BaseException:
        """`StoreUnavailable` where the database could not be used, else the error itself."""
        ...


class Source(Errors, Protocol):
    """Where transactions are begun."""

    def begin(self) -> Session:
        """Begin one."""
        ...


class AsyncSource(Errors, Protocol):
    """The same for async code."""

    async def begin(self) -> AsyncSession:
        """Begin one."""
        ...


def unavailable(error: BaseException) -> StoreUnavailable:
    """The error of a library, for callers who know none. Only its class: messages of drivers may have connection strings in them."""
    return StoreUnavailable(f"the database of the idempotency store cannot be used: {type(error).__name__}")
