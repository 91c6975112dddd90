"""What consumers, for blocking and for async code, are told alike."""

from __future__ import annotations

import logging
import random
import signal
from typing import Any, cast

from holdfast.backoff import Backoff
from holdfast.clients.amqp.delivery import Delivered, Rules, read
from holdfast.errors import HoldfastError
from holdfast.policy import Policy
from holdfast.servers.idempotency.inbox import Inbox
from holdfast.validation import Seconds, count, positive_seconds, wait_seconds

# How long nobody asks the broker again after the policy gave up on it.
PAUSE = 1.0

# With these a consumer in the main thread is drained.
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_LOG = logging.getLogger("holdfast.amqp")


class ConsumerSettings:
    """Checked arguments of a consumer; see `Consumer`.

    Raises:
        ValueError, TypeError: one is out of its range.
    """

    def __init__(
        self,
        queue: str,
        handler: object,
        *,
        inbox: Inbox | None,
        prefetch: int,
        deadline: Seconds,
        attempts: int,
        losses: int,
        backoff: Backoff,
        dead_letter: str | None,
        drain: Seconds,
        policy: Policy | None,
    ) -> None:
        if not isinstance(cast("object", queue), str) or not queue:
            raise ValueError(f"queue must be a text that is not empty, got {queue!r}")
        if not callable(handler):
            raise TypeError(f"handler must be callable with one message, got {handler!r}")
        if inbox is not None and not isinstance(inbox, Inbox):
            raise TypeError(f"inbox must be an Inbox or None, got {inbox!r}")
        if not isinstance(backoff, Backoff):
            raise TypeError(f"backoff must be a Backoff, got {backoff!r}")
        self.queue = queue
        self.inbox = inbox
        self.prefetch = count("prefetch", prefetch)
        if self.prefetch > 65_535:
            raise ValueError(f"prefetch must be a whole number in [1, 65535], got {prefetch!r}")
        self.deadline = positive_seconds("deadline", deadline)
        self.drain = wait_seconds("drain", drain)
        self.policy = policy
        self.rng = random.Random()
        self.rules = Rules(
            queue=queue,
            dead_letter=f"{queue}.dead" if dead_letter is None else dead_letter,
            attempts=count("attempts", attempts),
            losses=count("losses", losses),
            backoff=backoff,
            needs_id=inbox is not None,
        )

    def report(self, message: Delivered, error: BaseException, claimed: bool) -> None:
        """Tell the log of a failure, with the handler's traceback."""
        if claimed:
            attempt = message.attempts + 1
            _LOG.warning(
                "%s: message %r: attempt %d of %d failed", self.queue, message.message_id, attempt, self.rules.attempts, exc_info=error
            )
        else:
            _LOG.info("%s: message %r is not handled now: %s", self.queue, message.message_id, error)


class Stopped(HoldfastError):
    """The consumer was stopped while it connected."""


def delivered(method: Any, properties: Any, body: bytes, kind: str | None) -> Delivered:
    """A message as the libraries deliver it. What others wrote into it is taken for what it is, and for nothing else."""
    return read(
        properties.headers,
        Delivered(
            body=body,
            message_id=_text(properties.message_id) or "",
            exchange=_text(method.exchange) or "",
            routing_key=_text(method.routing_key) or "",
            redelivered=bool(method.redelivered),
            content_type=_text(properties.content_type),
            content_encoding=_text(properties.content_encoding),
            correlation_id=_text(properties.correlation_id),
            reply_to=_text(properties.reply_to),
            kind=_text(kind),
            priority=properties.priority if isinstance(properties.priority, int) else None,
            expiration=_text(properties.expiration),
        ),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
