"""Renewing a lock while its holder lives: a thread for blocking code, a task for async code."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from holdfast import events
from holdfast.drivers import clock
from holdfast.errors import HoldfastError
from holdfast.mutex.held import Lease
from holdfast.mutex.store import Grant
from holdfast.mutex.whole import whole
from holdfast.scope import deadline

if TYPE_CHECKING:
    from holdfast.drivers.backends import Cutoff

# Between renewals that fail, of the ttl.
_AGAIN = 1 / 20
# A renewal takes at most this share of the ttl, so that there is time for another.
_WITHIN = 1 / 4


class _Rhythm:
    """When to renew, and what came of it; both kinds wait in between in their own way."""

    def __init__(self, lease: Lease, grant: Grant) -> None:
        self._lease = lease
        self._grant = grant

    @property
    def _over(self) -> bool:
        """Whether there is nothing more to renew: it is lost, has run out, or has reached its maximum."""
        lease, now = self._lease, clock.now()
        return lease.lost or now >= lease.until or lease.until >= lease.end

    def _pause(self) -> float:
        lease, now = self._lease, clock.now()
        if lease.unsure:
            return min(lease.ttl * _AGAIN, max(0.0, lease.until - now))
        return max(0.0, lease.renew_at - now)

    def _heard(self, ours: bool, asked: float, ttl: float) -> None:
        if ours:
            self._lease.renewed(asked, ttl)
        else:
            self._lease.gone(clock.now())
            if events.listeners:
                events.publish([events.LockLost(self._lease.name, "it was not ours any more when it was to be renewed")])


class Renewal(_Rhythm):
    """A thread that ends with the block."""

    def __init__(self, lease: Lease, grant: Grant) -> None:
        super().__init__(lease, grant)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"holdfast-lock-{lease.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End it; a renewal that is on its way has a quarter of the ttl at most."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        lease = self._lease
        while not self._over and not self._stopped.wait(self._pause()):
            asked = clock.now()
            ttl = lease.next_ttl(asked)
            try:
                with deadline(lease.ttl * _WITHIN):
                    self._heard(self._grant.renew(ttl), asked, ttl)
            except (HoldfastError, OSError):
                lease.unsure = True


def require_asyncio() -> None:
    """Raise RuntimeError where this is not asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError("lock.renew in async code needs asyncio") from None


class AsyncRenewal(_Rhythm):
    """A task that ends with the block.

    Args:
        lease, grant: of the lock.
        cutoff: of the block, which is cancelled when the lock is lost.
    """

    def __init__(self, lease: Lease, grant: Grant, cutoff: Cutoff) -> None:
        super().__init__(lease, grant)
        self._cutoff: Any = cutoff
        self._stopped = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def astop(self) -> None:
        """End it; a renewal that is on its way has a quarter of the ttl at most."""
        self._stopped.set()
        await whole(self._task)

    async def _is_stopped(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        return self._stopped.is_set()

    async def _run(self) -> None:
        lease = self._lease
        while not self._over and not await self._is_stopped(self._pause()):
            asked = clock.now()
            ttl = lease.next_ttl(asked)
            try:
                async with deadline(lease.ttl * _WITHIN):
                    self._heard(await self._grant.arenew(ttl), asked, ttl)
            except (HoldfastError, OSError):
                lease.unsure = True
        if not await self._is_stopped(max(0.0, lease.until - lease.margin - clock.now())):
            self._cutoff.fire()
