"""Locks within one process, for tests: the same rules on the clock of the running context, so that a fake clock moves them."""

from __future__ import annotations

import threading
from collections import deque
from itertools import count

from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.errors import LockTaken
from holdfast.policies.places import Ticket


class _Entry:
    """One lock: its last token, who holds it until when, and who waits."""

    __slots__ = ("owner", "queue", "token", "until")

    def __init__(self) -> None:
        self.token = 0
        self.owner = 0
        self.until = 0.0
        self.queue: deque[Ticket] = deque()


class MemoryStore:
    """A store in memory, shared by whoever is given the same object. First come, first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._owners = count(1)

    def take(self, name: str, ttl: float, wait: float) -> MemoryGrant:
        """See `Store.take`."""
        turn = _Turn(self, name, ttl, wait)
        try:
            while (grant := turn.ask()) is None:
                woken = threading.Lock()
                woken.acquire()
                turn.ticket.wake = woken.release
                if not turn.ticket.permit:
                    clock.current.get().wait(woken, turn.pause())
        finally:
            turn.leave()
        return grant

    async def atake(self, name: str, ttl: float, wait: float) -> MemoryGrant:
        """See `Store.take`."""
        from holdfast.drivers.backends import backend

        turn = _Turn(self, name, ttl, wait)
        try:
            while (grant := turn.ask()) is None:
                await backend().wait(turn.ticket, clock.current.get().delay(turn.pause()))
        finally:
            turn.leave()
        return grant

    def flush(self) -> None:
        """Forget who holds what, as a server that loses its data; tokens go on."""
        with self._lock:
            for entry in self._entries.values():
                entry.owner, entry.until = 0, 0.0
                _wake_first(entry)

    def _attempt(self, name: str, ttl: float, ticket: Ticket | None) -> tuple[MemoryGrant | None, float]:
        now = clock.now()
        with self._lock:
            entry = self._entries.setdefault(name, _Entry())
            first = entry.queue[0] if entry.queue else None
            if now < entry.until or (first is not None and first is not ticket):
                return None, entry.until
            entry.token += 1
            entry.owner = next(self._owners)
            entry.until = now + ttl
            return MemoryGrant(self, name, entry.owner, entry.token, now), entry.until

    def _join(self, name: str, ticket: Ticket) -> None:
        with self._lock:
            self._entries[name].queue.append(ticket)

    def _leave(self, name: str, ticket: Ticket) -> None:
        with self._lock:
            entry = self._entries[name]
            was_first = bool(entry.queue) and entry.queue[0] is ticket
            if ticket in entry.queue:
                entry.queue.remove(ticket)
            if was_first:
                _wake_first(entry)

    def _hold(self, name: str, owner: int, ttl: float) -> bool:
        """Hold it for `ttl` seconds from now, 0 to give it back; False where it is another's."""
        now = clock.now()
        with self._lock:
            entry = self._entries[name]
            if entry.owner != owner or now >= entry.until:
                return False
            entry.until = now + ttl
            if not ttl:
                entry.owner = 0
                _wake_first(entry)
            return True


class _Turn:
    """One caller's wait for a lock."""

    def __init__(self, store: MemoryStore, name: str, ttl: float, wait: float) -> None:
        self._store = store
        self._name = name
        self._ttl = ttl
        self._end = clock.now() + wait
        self._free_at = 0.0
        self._joined = False
        self._grant: MemoryGrant | None = None
        self.ticket = Ticket()

    def ask(self) -> MemoryGrant | None:
        """The lock, if it is ours to take. Raises LockTaken and DeadlineExceeded when the time is up."""
        limit, now = ambient.get(), clock.now()
        if limit is not None and now >= limit.at:
            raise limit.exceeded(now, started=False)
        self.ticket.permit, self.ticket.wake = 0, None
        if not self._attempt() and now >= self._end:
            raise LockTaken(self._name, max(0.0, self._free_at - now))
        if self._grant is None and not self._joined:
            self._joined = True
            self._store._join(self._name, self.ticket)
            self._attempt()  # it may have been given back before we were in the queue
        return self._grant

    def _attempt(self) -> bool:
        self._grant, self._free_at = self._store._attempt(self._name, self._ttl, self.ticket)
        return self._grant is not None

    def pause(self) -> float:
        """Seconds to wait: until the holder's time is over, unless somebody wakes us."""
        limit, now = ambient.get(), clock.now()
        free_at = self._free_at if self._free_at > now else self._end
        return max(0.0, min(self._end, free_at, self._end if limit is None else limit.at) - now)

    def leave(self) -> None:
        """Out of the queue, with the lock or without."""
        if self._joined:
            self._store._leave(self._name, self.ticket)


class MemoryGrant:
    """See `Grant`."""

    def __init__(self, store: MemoryStore, name: str, owner: int, token: int, asked: float) -> None:
        self._store = store
        self._name = name
        self._owner = owner
        self.token = token
        self.asked = asked

    def renew(self, ttl: float) -> bool:
        """See `Grant.renew`."""
        return self._store._hold(self._name, self._owner, ttl)

    def release(self) -> bool:
        """See `Grant.release`."""
        return self._store._hold(self._name, self._owner, 0.0)

    async def arenew(self, ttl: float) -> bool:
        """See `Grant.renew`."""
        return self.renew(ttl)

    async def arelease(self) -> bool:
        """See `Grant.release`."""
        return self.release()


def _wake_first(entry: _Entry) -> None:
    if entry.queue:
        ticket = entry.queue[0]
        ticket.permit = 1
        if ticket.wake is not None:
            ticket.wake()
