"""What becomes of a message that was delivered: pure, for blocking and async consumers alike.

1. A message whose handler has returned is acknowledged. One that was handled before (its id is in the inbox) is acknowledged unhandled.
2. One whose handler failed goes back to the end of its queue, with one attempt more in its headers, after a wait that grows; after the last
   attempt it goes to the dead-letter queue. `Poison` goes there at once, and so does a message without an id where an inbox needs one.
3. The copy is confirmed before the original is acknowledged, so nothing is lost in between; what is there twice meanwhile has one id.
4. A message that was delivered before and not acknowledged has lost its consumer or its connection, once more than its headers say.
   Quorum queues count that themselves. After many such losses it is what kills consumers, and goes to the dead-letter queue as well.
5. One that another consumer handles right now, or whose inbox cannot be asked, goes back after a wait as well, and no attempt is counted.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

from holdfast.backoff import Backoff
from holdfast.clients.amqp.message import Message
from holdfast.errors import Rejected
from holdfast.servers.idempotency.inbox import Delivery, InProgress, OutcomeUnknown

C = TypeVar("C")

ATTEMPTS = "x-holdfast-attempts"
LOSSES = "x-holdfast-losses"
REASON = "x-holdfast-reason"
EXCHANGE = "x-holdfast-exchange"
ROUTING_KEY = "x-holdfast-routing-key"
_QUORUM = "x-delivery-count"

# Headers come from whoever can publish; a number beyond this is none of ours.
_MOST = 1_000_000

# What an error says may be long, and goes into a header.
_REASON_LENGTH = 200


class Poison(Exception):
    """Raised by a handler: this message will never be handled, so it goes to the dead-letter queue at once."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """A message as its handler gets it.

    Args:
        body: the message.
        message_id: given by whoever published it; empty where nobody did.
        exchange: where it was published first.
        routing_key: likewise.
        headers: of whoever published it.
        redelivered: whether the broker has delivered it before.
        attempts: how often a handler has failed on it.
        losses: how often it was delivered and its consumer or connection was lost.
        content_type, content_encoding, correlation_id, reply_to, kind, priority, expiration: AMQP's properties.
    """

    body: bytes
    message_id: str = ""
    exchange: str = ""
    routing_key: str = ""
    headers: Mapping[str, object] = field(default_factory=dict)
    redelivered: bool = False
    attempts: int = 0
    losses: int = 0
    counted: bool = True
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    kind: str | None = None
    priority: int | None = None
    expiration: str | None = None
    _delivery: Delivery | None = None

    def connection(self, kind: type[C]) -> C:
        """The database connection in whose transaction the handler's effects belong; see `Inbox` with a `SQLStore`.

        Raises:
            LookupError: there is none.
            TypeError: it is of another class.
        """
        if self._delivery is None:
            raise LookupError("no transaction here: the consumer has no inbox")
        return self._delivery.connection(kind)


def read(headers: Mapping[str, object] | None, delivered: Delivered) -> Delivered:
    """The message with what its headers say of earlier deliveries."""
    found = dict(headers or {})
    quorum = found.pop(_QUORUM, None)
    losses = _count(found.pop(LOSSES, 0))
    return replace(
        delivered,
        attempts=_count(found.pop(ATTEMPTS, 0)),
        losses=_count(quorum) if quorum is not None else losses + delivered.redelivered,
        counted=quorum is not None or not delivered.redelivered,
        exchange=_text(found.pop(EXCHANGE, delivered.exchange)),
        routing_key=_text(found.pop(ROUTING_KEY, delivered.routing_key)),
        headers=found,
    )


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MOST else 0


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Done:
    """Acknowledge it."""


@dataclass(frozen=True, slots=True)
class Move:
    """Publish this copy after so many seconds, and acknowledge the original when it is confirmed."""

    message: Message
    delay: float = 0.0


Step: TypeAlias = Done | Move


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a consumer treats what it is given; checked by `Consumer`."""

    queue: str
    dead_letter: str
    attempts: int
    losses: int
    backoff: Backoff
    needs_id: bool

    def before(self, delivered: Delivered) -> Step | None:
        """What is to be done instead of handling it; None: handle it."""
        if self.needs_id and not delivered.message_id:
            return Move(self._copy(delivered, self.dead_letter, "it has no message id"))
        if delivered.losses > self.losses:
            return Move(self._copy(delivered, self.dead_letter, f"its consumer was lost {delivered.losses} times"))
        return None if delivered.counted else Move(self._copy(delivered, self.queue, None))

    def after(self, delivered: Delivered, error: Exception, claimed: bool, rng: random.Random) -> Step:
        """What is to be done after an error.

        Args:
            delivered: the message.
            error: the handler's, or the inbox's.
            claimed: whether the handler ran.
            rng: draws the jitter.
        """
        if isinstance(error, OutcomeUnknown):
            return Move(self._copy(delivered, self.dead_letter, _reason(error)))
        if isinstance(error, InProgress) or not claimed:
            asked = error.retry_after if isinstance(error, Rejected) else None
            cap = self.backoff.delay(10, 0.0, rng)
            return Move(self._copy(delivered, self.queue, None), cap if asked is None else min(asked, cap))
        tried = replace(delivered, attempts=delivered.attempts + 1)
        if isinstance(error, Poison) or tried.attempts >= self.attempts:
            return Move(self._copy(tried, self.dead_letter, _reason(error)))
        return Move(self._copy(tried, self.queue, None), self.backoff.delay(tried.attempts, 0.0, rng))

    def _copy(self, delivered: Delivered, queue: str, reason: str | None) -> Message:
        headers: dict[str, object] = {**delivered.headers, EXCHANGE: delivered.exchange, ROUTING_KEY: delivered.routing_key}
        if delivered.attempts:
            headers[ATTEMPTS] = delivered.attempts
        if delivered.losses:
            headers[LOSSES] = delivered.losses
        if reason is not None:
            headers[REASON] = reason
        return Message(
            body=delivered.body,
            exchange="",
            routing_key=queue,
            message_id=delivered.message_id,
            mandatory=True,
            content_type=delivered.content_type,
            content_encoding=delivered.content_encoding,
            correlation_id=delivered.correlation_id,
            reply_to=delivered.reply_to,
            kind=delivered.kind,
            headers=headers,
            priority=delivered.priority,
            # What is put aside waits for a person.
            expiration=None if queue == self.dead_letter else delivered.expiration,
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_REASON_LENGTH]
