"""A store for blocking code, used by async code: each of its calls runs in a thread.

1. These are not the threads of the event loop: claims may wait for a connection, and whoever has it may need those to get on.
2. What ends a claim never stands in a queue behind claims, which may wait for just that; so it has a thread to itself.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

from holdfast.scope import carry
from holdfast.servers.idempotency.store import AsyncStore, Claim, Held, Store

T = TypeVar("T")

# How many claims may be asked for at once; the others wait for their turn.
_CLAIMS = 32


def awaited(store: Store | AsyncStore) -> AsyncStore:
    """The store for async code: itself, where it can be awaited."""
    if callable(getattr(store, "aclaim", None)) and not getattr(store, "only_blocking", False):
        return cast("AsyncStore", store)
    return Threaded(cast("Store", store))


class Threaded:
    """`AsyncStore` made of a `Store`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads: tuple[int, ThreadPoolExecutor] | None = None

    @property
    def transactional(self) -> bool:
        """See `Store.transactional`."""
        return self._store.transactional

    async def aclaim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> ThreadedClaim | Held:
        """See `Store.claim`."""
        work = carry(lambda: self._store.claim(key, fingerprint, lease=lease, ttl=ttl))
        asked = asyncio.get_running_loop().run_in_executor(self._pool(), work)
        try:
            claim = await asyncio.shield(asked)
        except asyncio.CancelledError:
            # The thread goes on, and what it claims nobody would end.
            asked.add_done_callback(_give_back)
            raise
        return claim if isinstance(claim, Held) else ThreadedClaim(claim)

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None or self._threads[0] != os.getpid():  # a fork has none of its parent's threads
            self._threads = (os.getpid(), ThreadPoolExecutor(_CLAIMS, "holdfast-claim"))
        return self._threads[1]


def _give_back(asked: asyncio.Future[Claim | Held]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        claim = asked.result()
        if not isinstance(claim, Held):
            _begin(claim.free)


def _begin(work: Callable[[], T]) -> Future[T]:
    """Run it in a thread of its own."""
    ended: Future[T] = Future()
    ended.set_running_or_notify_cancel()  # it ends, whoever waits for it

    def run() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=carry(run), name="holdfast-claim-end").start()
    return ended


class ThreadedClaim:
    """`AsyncClaim` made of a `Claim`."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self.connection = claim.connection
        self.lease = claim.lease

    async def akeep(self, answer: bytes, *, effects: bool = True) -> bool:
        """See `Claim.keep`."""
        return await asyncio.wrap_future(_begin(lambda: self._claim.keep(answer, effects=effects)))

    async def afree(self) -> None:
        """See `Claim.free`."""
        await asyncio.wrap_future(_begin(self._claim.free))

    async def aabandon(self) -> None:
        """See `Claim.abandon`."""
        await asyncio.wrap_future(_begin(self._claim.abandon))
