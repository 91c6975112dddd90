"""Messages that are delivered twice and handled once.

    inbox = Inbox(SQLStore(engine), name="receipts")

    with inbox.once(message.id) as delivery:      # `async with` in async code
        if delivery.first:
            send_receipt(delivery.connection, message)

Brokers deliver at least once: whoever loses its connection before it has acknowledged gets the message again, and so does another
consumer meanwhile. The block's end is what counts: left in order, the message is done and every later delivery has `first` False;
left by an exception, it is as if it had never been delivered.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self, TypeVar, cast

from holdfast.errors import HoldfastError, Rejected, StoreUnavailable
from holdfast.scope import DeadlineBlock, deadline, shield
from holdfast.servers.idempotency import keys
from holdfast.servers.idempotency.finishing import ENDING, to_the_end
from holdfast.servers.idempotency.part import was_stopped
from holdfast.servers.idempotency.store import AsyncClaim, AsyncStore, Claim, Full, Held, Interrupted, Running, Store
from holdfast.servers.idempotency.threaded import awaited
from holdfast.validation import Seconds, positive_seconds

C = TypeVar("C")


class InProgress(Rejected):
    """Another consumer handles the message right now. Nothing ran: let it be delivered again later."""

    reason = "another consumer handles this message"


class OutcomeUnknown(HoldfastError):
    """A consumer was stopped while it handled the message, and the store was told to refuse it from then on (`interrupted="refuse"`).
    Nothing ran now: put the message aside for somebody to look at.
    """


class Inbox:
    """Which messages a consumer has handled.

    Args:
        store: `SQLStore` for exactly once, where the effects are written through `delivery.connection`; `RedisStore` or `MemoryStore` for
            at least or at most once (see there).
        name: of the consumer: two that get the same message have handled it only when both have.
        ttl: seconds for which a message is remembered, > 0; longer than the broker may take to deliver it again.
        lease: seconds that handling may take in a store that leases; the block's deadline as well.
    """

    def __init__(self, store: Store | AsyncStore, *, name: str = "", ttl: Seconds = 7 * 86400.0, lease: Seconds = 60.0) -> None:
        self.store = store
        self.name = name
        self.ttl = positive_seconds("Inbox.ttl", ttl)
        self.lease = positive_seconds("Inbox.lease", lease)

    def once(self, message_id: str) -> Delivery:
        """The block in which a message is handled.

        Args:
            message_id: given by whoever sent it, and the same in every delivery.

        Raises:
            ValueError: it is empty: then every message would be the same.
        """
        if not message_id:
            raise ValueError("once needs the message's id, got an empty one")
        return Delivery(self, message_id)


class Delivery:
    """What `Inbox.once` returns, for one `with` or `async with`."""

    def __init__(self, inbox: Inbox, message_id: str) -> None:
        self._inbox = inbox
        self._key = keys.digest("message", inbox.name, message_id)
        self._claim: Claim | AsyncClaim | None = None
        self._block: DeadlineBlock | None = None

    @property
    def first(self) -> bool:
        """Whether the message is to be handled now; False where it was."""
        return self._claim is not None

    def connection(self, kind: type[C]) -> C:
        """The connection in whose transaction the effects belong, in a transactional store.

        Raises:
            LookupError: there is none: the store is not transactional, or the message was handled.
            TypeError: it is of another class.
        """
        found = None if self._claim is None else self._claim.connection
        if found is None:
            raise LookupError("no transaction here: is the inbox's store a SQLStore, and delivery.first true?")
        if not isinstance(found, kind):
            raise TypeError(f"the delivery's connection is a {type(found).__qualname__}, not a {kind.__qualname__}")
        return found

    def _taken(self, claim: Claim | AsyncClaim | Held) -> None:
        if isinstance(claim, Running):
            raise InProgress(self._inbox.name or "inbox", claim.left or None)
        if isinstance(claim, Interrupted):
            raise OutcomeUnknown("a consumer was stopped while it handled this message; what it did is not known")
        if isinstance(claim, Full):
            raise StoreUnavailable("the store of the inbox has no place for another message")
        if not isinstance(claim, Held):
            self._claim = claim
            if claim.lease is not None:
                self._block = deadline(claim.lease)

    def __enter__(self) -> Self:
        """Take the message.

        Raises:
            InProgress: another consumer has it.
            StoreUnavailable: the store cannot be asked.
        """
        store = cast("Store", self._inbox.store)
        self._taken(store.claim(self._key, "", lease=self._inbox.lease, ttl=self._inbox.ttl))
        if self._block is not None:
            self._block.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._block is not None:
            self._block.__exit__(kind, error, trace)
        claim, self._claim = cast("Claim | None", self._claim), None
        if claim is None:
            return
        with shield(ENDING):
            if error is None:
                _must_be_kept(claim.keep(b""), claim)
            else:
                # What fails here must not hide the error itself.
                with contextlib.suppress(Exception):
                    claim.abandon() if was_stopped(error) else claim.free()

    async def __aenter__(self) -> Self:
        """See `__enter__`."""
        store = awaited(self._inbox.store)
        self._taken(await store.aclaim(self._key, "", lease=self._inbox.lease, ttl=self._inbox.ttl))
        if self._block is not None:
            await self._block.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        claim, self._claim = cast("AsyncClaim | None", self._claim), None
        if claim is None:
            return
        try:
            if self._block is not None:
                await self._block.__aexit__(kind, error, trace)
        except BaseException:
            await to_the_end(_afree(claim, stopped=True))
            raise
        if error is None:
            _must_be_kept(await to_the_end(claim.akeep(b"")), claim)
        else:
            with contextlib.suppress(Exception):
                await to_the_end(_afree(claim, stopped=was_stopped(error)))


async def _afree(claim: AsyncClaim, *, stopped: bool) -> bool:
    await (claim.aabandon() if stopped else claim.afree())
    return True


def _must_be_kept(kept: bool, claim: Claim | AsyncClaim) -> None:
    if not kept and claim.connection is not None:
        raise InProgress("inbox", None)  # another consumer committed first, and what was done here is rolled back
