"""What a lock needs from where it is kept, and which store a user means."""

from __future__ import annotations

import importlib
from typing import Protocol, cast

from holdfast.deadlines import Deadline
from holdfast.errors import StoreUnavailable
from holdfast.outcome import deadline_behind

# By scheme of a URL: loaded when one is used, since they build on the clients and on libraries that are not everybody's.
_BY_SCHEME = {
    **dict.fromkeys(("redis", "rediss", "unix"), "holdfast.mutex.redis"),
    **dict.fromkeys(("postgresql", "postgres", "postgresql+psycopg"), "holdfast.mutex.postgres"),
}


class Grant(Protocol):
    """A lock that a store has given. Each method exists for blocking and for async code; they raise StoreUnavailable."""

    token: int
    asked: float  # when the store was asked, in monotonic seconds

    def renew(self, ttl: float) -> bool:
        """Hold it for `ttl` seconds from now; False where it is not ours any more."""
        ...

    def release(self) -> bool:
        """Give it back; False where it is not ours any more. Another's is left alone."""
        ...

    async def arenew(self, ttl: float) -> bool:
        """See `renew`."""
        ...

    async def arelease(self) -> bool:
        """See `release`."""
        ...


class Store(Protocol):
    """Where locks are kept."""

    def take(self, name: str, ttl: float, wait: float) -> Grant:
        """Take a lock for `ttl` seconds, and wait for it at most `wait` seconds and until the ambient deadline.

        Raises:
            LockTaken: another holds it.
            StoreUnavailable: that could not be found out.
            DeadlineExceeded: the ambient deadline passed.
        """
        ...

    async def atake(self, name: str, ttl: float, wait: float) -> Grant:
        """See `take`."""
        ...


def store_for(store: object) -> Store:
    """The store that a user means.

    Raises:
        ValueError, TypeError: none is meant by it.
    """
    if isinstance(store, str):
        scheme = store.partition(":")[0].lower()
        if scheme not in _BY_SCHEME:
            raise ValueError(f"lock.store must be a URL that begins with one of {', '.join(sorted(_BY_SCHEME))}, or a client, or a store")
        return cast("Store", importlib.import_module(_BY_SCHEME[scheme]).from_url(store))
    if callable(getattr(store, "take", None)) and callable(getattr(store, "atake", None)):
        return cast("Store", store)
    if hasattr(store, "connection_pool"):
        return cast("Store", importlib.import_module("holdfast.mutex.redis").from_client(store))
    raise TypeError(f"lock.store must be a URL, a client of redis-py or a store, got {type(store).__name__}")


def as_unavailable(error: Exception, outer: Deadline | None) -> Exception:
    """What to raise where a store did not answer: the caller's deadline, if it has ended the question, else StoreUnavailable.

    Args:
        error: what the store's client raised.
        outer: the deadline of whoever asked.
    """
    cut = deadline_behind(error)
    if cut is not None and outer is not None and outer.encloses(cut):
        return cut
    return StoreUnavailable(f"the lock's store did not answer: {type(error).__name__}")
