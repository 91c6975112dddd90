"""Answers in the memory of one process: for one worker, for tests. Several workers need a store that they share."""

from __future__ import annotations

from collections import OrderedDict

from holdfast.drivers import clock
from holdfast.locks import Guarded
from holdfast.servers.idempotency.store import INTERRUPTED, Full, Held, Interrupted, Record, Running, WhenInterrupted
from holdfast.validation import choice, count


class MemoryStore(Guarded):
    """Answers in memory.

    Args:
        entries: how many keys there may be. The oldest answer makes room for a new one; what runs is never dropped, and when
            all of it runs, further keys are refused (503).
        size: bytes that all answers together may have.
        interrupted: what becomes of work that was stopped: "repeat" or "refuse".

    Raises:
        ValueError: a number is below 1, or the word is another.
    """

    __slots__ = ("_bytes", "_done", "_entries", "_interrupted", "_running", "_size")

    transactional = False

    def __init__(self, *, entries: int = 10_000, size: int = 64 * 1024 * 1024, interrupted: WhenInterrupted = "repeat") -> None:
        super().__init__()
        self._entries = count("MemoryStore.entries", entries)
        self._size = count("MemoryStore.size", size)
        self._interrupted = choice("MemoryStore.interrupted", interrupted, INTERRUPTED)
        self._running: dict[str, _Claim] = {}
        self._done: OrderedDict[str, tuple[float, Record | Interrupted]] = OrderedDict()  # with the end of its time, oldest first
        self._bytes = 0

    @property
    def held(self) -> int:
        """How many keys there are."""
        with self._lock:
            return len(self._running) + len(self._done)

    def claim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> _Claim | Held:  # noqa: ARG002  (nobody else can die)
        """See `Store.claim`."""
        if key is None:
            raise TypeError("MemoryStore has no transactions, so a claim needs a key")
        now = clock.now()
        with self._lock:
            runs = self._running.get(key)
            if runs is not None:
                return Running(runs.fingerprint, 0.0)
            self._expire(now)
            found = self._done.get(key)
            if found is not None and found[0] > now:
                return found[1]
            self._drop(key)
            if len(self._running) >= self._entries:
                return Full()
            claim = self._running[key] = _Claim(self, key, fingerprint, ttl)
            self._make_room(0)
            return claim

    async def aclaim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> _Claim | Held:
        """See `Store.claim`."""
        return self.claim(key, fingerprint, lease=lease, ttl=ttl)

    def _end(self, claim: _Claim, record: Record | Interrupted | None) -> bool:
        now = clock.now()
        with self._lock:
            if self._running.get(claim.key) is not claim:  # ended already, or made before a fork
                return False
            del self._running[claim.key]
            if record is not None:
                size = _size(record)
                self._make_room(size)
                self._done[claim.key] = (now + claim.ttl, record)
                self._bytes += size
            return True

    def _expire(self, now: float) -> None:
        # Times to live are usually the same for all, so what expires first stands first; others wait for their turn.
        while self._done:
            key, (until, _) = next(iter(self._done.items()))
            if until > now:
                return
            self._drop(key)

    def _make_room(self, size: int) -> None:
        while self._done and (self._bytes + size > self._size or len(self._running) + len(self._done) > self._entries):
            self._drop(next(iter(self._done)))

    def _drop(self, key: str) -> None:
        found = self._done.pop(key, None)
        if found is not None:
            self._bytes -= _size(found[1])

    def _after_fork(self) -> None:
        self._running.clear()


def _size(record: Record | Interrupted) -> int:
    return len(record.answer) if isinstance(record, Record) else 0


class _Claim:
    """One that runs."""

    __slots__ = ("_store", "fingerprint", "key", "ttl")

    connection = None
    lease = None

    def __init__(self, store: MemoryStore, key: str, fingerprint: str, ttl: float) -> None:
        self._store = store
        self.key = key
        self.fingerprint = fingerprint
        self.ttl = ttl

    def keep(self, answer: bytes, *, effects: bool = True) -> bool:  # noqa: ARG002  (they are elsewhere)
        return self._store._end(self, Record(self.fingerprint, answer))

    def free(self) -> None:
        self._store._end(self, None)

    def abandon(self) -> None:
        refused = self._store._interrupted == "refuse"
        self._store._end(self, Interrupted(self.fingerprint) if refused else None)

    async def akeep(self, answer: bytes, *, effects: bool = True) -> bool:
        return self.keep(answer, effects=effects)

    async def afree(self) -> None:
        self.free()

    async def aabandon(self) -> None:
        self.abandon()
