"""What a store of answers promises, in words that fit requests and messages alike.

A store holds one entry per key. Whoever claims a free key runs the work, and ends its claim in one of three ways: `keep` an answer,
which every later claim of the key is given; `free` the key, as if nobody had asked; or `abandon` it, when the work was stopped and nobody
knows what it did. Keys and fingerprints are digests made by the caller
(see `keys`); an answer is bytes that only the caller reads, and checks when they come back, since others may write to the store.

Two kinds of stores:

| | transactional (`SQLStore`) | leasing (`RedisStore`, `MemoryStore`) |
|---|---|---|
| the work's effects | are written through `connection`, and are committed by `keep` together with the answer | are elsewhere |
| worker killed while it works | the database rolls back both: the key is free at once | the key is held until its lease has run out |
| so the effect happens | exactly once | at least once, or at most once: see `interrupted` of the store |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class Record:
    """The work was done before.

    Args:
        fingerprint: of the request that did it; another one under the same key is a misuse.
        answer: what was kept.
    """

    fingerprint: str
    answer: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """Somebody works on it right now.

    Args:
        fingerprint: of the request that runs; empty where the store cannot see it yet.
        left: seconds until its lease ends at the latest; 0 where the store needs none.
    """

    fingerprint: str
    left: float


@dataclass(frozen=True, slots=True)
class Interrupted:
    """Somebody worked on it and never came back, and the store was told not to let it be run again: nobody knows what was done."""

    fingerprint: str


@dataclass(frozen=True, slots=True)
class Full:
    """The store has no place for another key now, and nothing in it may be dropped."""


# What becomes of work that was stopped, where the store cannot roll it back: "repeat" runs it again when it is asked for again (at least
# once), "refuse" never does (at most once).
WhenInterrupted: TypeAlias = Literal["repeat", "refuse"]
INTERRUPTED: tuple[WhenInterrupted, ...] = ("repeat", "refuse")

Held: TypeAlias = Record | Running | Interrupted | Full


class Claim(Protocol):
    """The right to do the work of a key, and the duty to end it, once, whichever way the work ends."""

    @property
    def connection(self) -> object | None:
        """The database connection in whose transaction the effects belong; None where the store is not transactional."""
        ...

    @property
    def lease(self) -> float | None:
        """Seconds that the work may take; None where nothing ends the claim but the work itself."""
        ...

    def keep(self, answer: bytes, *, effects: bool = True) -> bool:
        """Keep the answer, and commit the effects.

        Args:
            answer: what later claims are given.
            effects: False rolls the effects back and keeps only the answer (transactional stores).

        Returns:
            Whether it is kept. False: the claim was lost meanwhile (its lease ended); in a transactional store the effects are
            rolled back then.
        """
        ...

    def free(self) -> None:
        """Nothing was done: let the next claim of the key run. A transactional store rolls the effects back."""
        ...

    def abandon(self) -> None:
        """The work was stopped. A transactional store rolls it back and frees the key; others do what their `interrupted` says."""
        ...


class Store(Protocol):
    """Where answers are, for blocking code."""

    @property
    def transactional(self) -> bool:
        """Whether effects and answer are committed together."""
        ...

    def claim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> Claim | Held:
        """Take the key, or learn who has it.

        Args:
            key: a digest; None, in transactional stores only, for a transaction of which no answer is kept.
            fingerprint: a digest of what is asked for; empty where it is the key that says it.
            lease: seconds that the work may take, for stores that lease.
            ttl: seconds for which the answer is kept.
        """
        ...


class AsyncClaim(Protocol):
    """`Claim` for async code."""

    @property
    def connection(self) -> object | None:
        """See `Claim.connection`."""
        ...

    @property
    def lease(self) -> float | None:
        """See `Claim.lease`."""
        ...

    async def akeep(self, answer: bytes, *, effects: bool = True) -> bool:
        """See `Claim.keep`."""
        ...

    async def afree(self) -> None:
        """See `Claim.free`."""
        ...

    async def aabandon(self) -> None:
        """See `Claim.abandon`."""
        ...


class AsyncStore(Protocol):
    """Where answers are, for async code."""

    @property
    def transactional(self) -> bool:
        """See `Store.transactional`."""
        ...

    async def aclaim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> AsyncClaim | Held:
        """See `Store.claim`."""
        ...
