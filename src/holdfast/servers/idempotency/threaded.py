"""A store for blocking code, used by async code: each of its calls runs in a thread of asyncio's."""

from __future__ import annotations

import asyncio
from typing import cast

from holdfast.servers.idempotency.store import AsyncStore, Claim, Held, Store


def awaited(store: Store | AsyncStore) -> AsyncStore:
    """The store for async code: itself, where it can be awaited."""
    if callable(getattr(store, "aclaim", None)) and not getattr(store, "only_blocking", False):
        return cast("AsyncStore", store)
    return Threaded(cast("Store", store))


class Threaded:
    """`AsyncStore` made of a `Store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def transactional(self) -> bool:
        """See `Store.transactional`."""
        return self._store.transactional

    async def aclaim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> ThreadedClaim | Held:
        """See `Store.claim`."""
        asked = asyncio.ensure_future(asyncio.to_thread(self._store.claim, key, fingerprint, lease=lease, ttl=ttl))
        try:
            claim = await asyncio.shield(asked)
        except asyncio.CancelledError:
            # The thread goes on, and what it claims nobody would end.
            asked.add_done_callback(_give_back)
            raise
        return claim if isinstance(claim, Held) else ThreadedClaim(claim)


def _give_back(asked: asyncio.Future[Claim | Held]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        claim = asked.result()
        if not isinstance(claim, Held):
            asyncio.get_running_loop().run_in_executor(None, claim.free)


class ThreadedClaim:
    """`AsyncClaim` made of a `Claim`."""

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self.connection = claim.connection
        self.lease = claim.lease

    async def akeep(self, answer: bytes, *, effects: bool = True) -> bool:
        """See `Claim.keep`."""
        return await asyncio.to_thread(self._claim.keep, answer, effects=effects)

    async def afree(self) -> None:
        """See `Claim.free`."""
        await asyncio.to_thread(self._claim.free)

    async def aabandon(self) -> None:
        """See `Claim.abandon`."""
        await asyncio.to_thread(self._claim.abandon)
