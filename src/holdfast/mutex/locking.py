"""`holdfast.lock`: one holder at a time across processes and hosts, for a bounded time.

    with holdfast.lock("order:42", ttl=30.0, store="redis://...", wait=5.0) as held:
        table.execute("update ... where token <= :token", token=held.token)

The block that takes the lock, renews it while it runs, gives it back, and says so when the work has outrun it. `held` has the rules.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING

from holdfast import events
from holdfast.deadlines import Deadline, ambient, restore
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded, HoldfastError
from holdfast.mutex.held import Held, Lease, LockDeadline, is_from
from holdfast.mutex.store import Grant, Store, store_for
from holdfast.scope import shield
from holdfast.validation import Seconds, positive_seconds, wait_seconds

if TYPE_CHECKING:
    from holdfast.drivers.backends import Cutoff
    from holdfast.mutex.renewal import AsyncRenewal, Renewal

# Of the ttl, where renewals have no maximum of their own.
_MOST = 10
_NOT_OURS = "it was not ours any more when it was given back"
# Seconds for giving it back; after them it ends by its ttl.
_RELEASE_WITHIN = 1.0


def lock(name: str, ttl: Seconds, store: object, *, wait: Seconds = 0.0, renew: bool = False, max_hold: Seconds | None = None) -> LockBlock:
    """Hold a lock for the length of a block, `with` or `async with`.

    Inside, the lock's time left is the ambient deadline. Where the work goes on past it all the same, LockOverrun says so at the end of the
    block; an exception of the work itself is never replaced, and gets a note.

    Args:
        name: what is locked, such as "order:42".
        ttl: seconds, > 0, after which the store gives it to another, whatever became of us.
        store: a URL (`redis://`, `rediss://`, `unix://`, `postgresql://`), a client of redis-py, or a store such as
            `holdfast.mutex.MemoryStore()`.
        wait: seconds to wait for it; 0 asks once. The ambient deadline bounds it too.
        renew: whether to renew it while the block runs. Blocking code gets a thread for it, async code a task (asyncio only).
        max_hold: seconds, >= ttl, after which it is not renewed any more; with `renew` only. 10 x ttl where it is not given.

    Raises:
        LockTaken: when the block is entered: another holds it, and the wait is over.
        StoreUnavailable: when the block is entered: whether it is ours could not be found out.
        DeadlineExceeded: when the block is entered: the ambient deadline passed; inside: the lock's time, where the work asks.
        LockOverrun: at the end of the block: the work went on after the lock had run out, or was lost.
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """
    if not is_text(name):
        raise ValueError(f"lock.name must be a text that is not empty, got {name!r}")
    seconds = positive_seconds("lock.ttl", ttl)
    if max_hold is not None and not renew:
        raise ValueError("lock.max_hold goes with renew=True; without, ttl is the most")
    most = seconds if not renew else seconds * _MOST if max_hold is None else positive_seconds("lock.max_hold", max_hold)
    if most < seconds:
        raise ValueError(f"lock.max_hold must be >= ttl ({seconds:g} s), got {max_hold!r}")
    return LockBlock(name, seconds, store_for(store), wait_seconds("lock.wait", wait), most)


class LockBlock:
    """What `lock` returns: a context manager of both kinds, which may be entered again when it has ended."""

    __slots__ = (
        "_async_renewal",
        "_cutoff",
        "_grant",
        "_lease",
        "_limit",
        "_most",
        "_name",
        "_process",
        "_renewal",
        "_store",
        "_token",
        "_ttl",
        "_wait",
    )

    def __init__(self, name: str, ttl: float, store: Store, wait: float, most: float) -> None:
        self._name = name
        self._ttl = ttl
        self._store = store
        self._wait = wait
        self._most = most
        self._grant: Grant | None = None
        self._lease: Lease | None = None
        self._limit: LockDeadline | None = None
        self._token: Token[Deadline | None] | None = None
        self._renewal: Renewal | None = None
        self._async_renewal: AsyncRenewal | None = None
        self._cutoff: Cutoff | None = None
        self._process = 0

    # Blocking code.

    def __enter__(self) -> Held:
        self._refuse_again()
        began = clock.now()
        grant = self._store.take(self._name, self._ttl, self._wait)
        lease = self._begin(grant, began)
        if self._most > self._ttl:
            from holdfast.mutex.renewal import Renewal

            renewal = Renewal(lease, grant)
            try:
                renewal.start()
            except RuntimeError:  # the system gives no more threads
                self._end()
                grant.release()
                raise
            self._renewal = renewal
        return Held(lease)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        grant, lease, now = self._end()
        renewal, self._renewal = self._renewal, None
        if self._process != os.getpid():
            return  # the child of a fork: the lock is its parent's, who goes on
        try:
            if renewal is not None:
                renewal.stop()
        finally:
            self._give_back(grant, lease, now)
        self._conclude(lease, error, now)

    def _give_back(self, grant: Grant, lease: Lease, now: float) -> None:
        try:
            with shield(_RELEASE_WITHIN):
                ours = grant.release()
            self._tell_lost(lease, None if ours else _NOT_OURS, now)
        except (HoldfastError, OSError) as failure:
            self._tell_lost(lease, f"giving it back failed: {failure}", now)

    # Async code.

    async def __aenter__(self) -> Held:
        from holdfast.drivers.backends import backend
        from holdfast.mutex.renewal import AsyncRenewal, require_asyncio

        self._refuse_again()
        renews = self._most > self._ttl
        if renews:
            require_asyncio()
        began = clock.now()
        grant = await self._store.atake(self._name, self._ttl, self._wait)
        lease = self._begin(grant, began)
        cutoff = self._cutoff = backend().cutoff(self._limit, clock.current.get())
        cutoff.__enter__()
        if renews:
            self._async_renewal = AsyncRenewal(lease, grant, cutoff)
        return Held(lease)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        grant, lease, now = self._end()
        renewal, self._async_renewal = self._async_renewal, None
        stopped: BaseException | None = error
        try:
            if self._cutoff is not None:
                self._cutoff.__exit__(kind, error, trace)
        except DeadlineExceeded as cut:
            stopped = cut
        try:
            if renewal is not None:
                await renewal.astop()
        finally:
            await self._agive_back(grant, lease, now)
        self._conclude(lease, stopped, now)
        if stopped is not None and stopped is not error:
            raise stopped from error

    async def _agive_back(self, grant: Grant, lease: Lease, now: float) -> None:
        try:
            async with shield(_RELEASE_WITHIN):
                ours = await grant.arelease()
            self._tell_lost(lease, None if ours else _NOT_OURS, now)
        except (HoldfastError, OSError) as failure:
            self._tell_lost(lease, f"giving it back failed: {failure}", now)

    # Both.

    def _refuse_again(self) -> None:
        if self._lease is not None:
            raise RuntimeError(f"lock {self._name!r} is entered already; make another with holdfast.lock(...)")

    def _begin(self, grant: Grant, began: float) -> Lease:
        self._process = os.getpid()
        lease = self._lease = Lease(self._name, grant.token, self._ttl, grant.asked, self._most)
        self._grant = grant
        self._limit = LockDeadline(lease, ambient.get())
        self._token = ambient.set(self._limit)
        _publish(lambda: events.LockTook(self._name, grant.asked - began, grant.token))
        return lease

    def _end(self) -> tuple[Grant, Lease, float]:
        grant, lease, token = self._grant, self._lease, self._token
        if grant is None or lease is None or token is None:
            raise RuntimeError(f"lock {self._name!r} was not entered")
        self._grant = self._lease = self._token = None
        restore(token)
        return grant, lease, clock.now()

    def _tell_lost(self, lease: Lease, reason: str | None, now: float) -> None:
        """Tell where the store did not have it any more although its time was not over."""
        if reason is not None and now < lease.until:
            lease.lost = True
            _publish(lambda: events.LockLost(self._name, reason))

    def _conclude(self, lease: Lease, error: BaseException | None, now: float) -> None:
        """Say so where the work has outrun the lock."""
        overrun = lease.overrun(now)
        if overrun is None:
            return
        _publish(lambda: events.LockOverran(self._name, overrun.ran, overrun.allowed, overrun.outside))
        if error is None:
            raise overrun
        if self._limit is not None and is_from(error, self._limit):  # it says the same, with less
            raise overrun from error
        error.add_note(str(overrun))


def _publish(make: Callable[[], events.Event]) -> None:
    if events.listeners:
        events.publish([make()])


def is_text(value: object) -> bool:
    """Whether it is a text that is not empty."""
    return isinstance(value, str) and bool(value)
