"""What is published: pure."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict

from holdfast.validation import Seconds, positive_seconds

# AMQP's short strings have one byte for their length.
_SHORT = 255

PERSISTENT = 2

_CARRIED = (bool, int, float, str, bytes, Decimal, datetime)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message as it goes out; made by `make`, which checks it."""

    body: bytes
    exchange: str
    routing_key: str
    message_id: str
    mandatory: bool
    content_type: str | None
    content_encoding: str | None
    correlation_id: str | None
    reply_to: str | None
    kind: str | None
    headers: dict[str, object] | None
    priority: int | None
    expiration: str | None

    @property
    def properties(self) -> dict[str, Any]:
        """AMQP's basic properties by name, but for `kind`, which the libraries call differently."""
        return {
            "content_type": self.content_type,
            "content_encoding": self.content_encoding,
            "headers": self.headers,
            "delivery_mode": PERSISTENT,
            "priority": self.priority,
            "correlation_id": self.correlation_id,
            "reply_to": self.reply_to,
            "expiration": self.expiration,
            "message_id": self.message_id,
        }


class Properties(TypedDict, total=False):
    """What may be said of a message beside where it goes.

    Args:
        headers: strings, numbers, booleans, bytes, datetimes, and lists and mappings of them.
        content_type: such as "application/json".
        content_encoding: such as "gzip".
        correlation_id: what it belongs to.
        reply_to: where answers go.
        kind: AMQP's `type`: what kind of message it is.
        priority: 0 to 255, in queues that have priorities.
        expires: seconds after which the queue drops it.
    """

    headers: Mapping[str, object] | None
    content_type: str | None
    content_encoding: str | None
    correlation_id: str | None
    reply_to: str | None
    kind: str | None
    priority: int | None
    expires: Seconds | None


def make(
    body: bytes,
    routing_key: str,
    exchange: str = "",
    message_id: str | None = None,
    *,
    mandatory: bool = True,
    headers: Mapping[str, object] | None = None,
    content_type: str | None = None,
    content_encoding: str | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    kind: str | None = None,
    priority: int | None = None,
    expires: Seconds | None = None,
) -> Message:
    """A checked message.

    Raises:
        ValueError, TypeError: something is not what AMQP can carry.
    """
    if not isinstance(body, (bytes, bytearray, memoryview)):
        raise TypeError(f"body must be bytes, got {type(body).__name__}; encode text first")
    if priority is not None and (type(priority) is not int or not 0 <= priority <= _SHORT):
        raise ValueError(f"priority must be a whole number in [0, 255], got {priority!r}")
    return Message(
        body=bytes(body),
        exchange=_short("exchange", exchange),
        routing_key=_short("routing_key", routing_key),
        message_id=os.urandom(16).hex() if message_id is None else _id(message_id),
        mandatory=bool(mandatory),
        content_type=None if content_type is None else _short("content_type", content_type),
        content_encoding=None if content_encoding is None else _short("content_encoding", content_encoding),
        correlation_id=None if correlation_id is None else _short("correlation_id", correlation_id),
        reply_to=None if reply_to is None else _short("reply_to", reply_to),
        kind=None if kind is None else _short("kind", kind),
        headers=None if headers is None else _headers(headers),
        priority=priority,
        expiration=None if expires is None else str(math.ceil(positive_seconds("expires", expires) * 1000)),
    )


def _id(value: str) -> str:
    if not _short("message_id", value):
        raise ValueError("message_id must not be empty: it is what a consumer knows the message by")
    return value


def _short(field: str, value: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a text, got {type(value).__name__}")
    if len(value.encode()) > _SHORT:
        raise ValueError(f"{field} must have at most {_SHORT} bytes, got {len(value.encode())}")
    return value


def _headers(given: Mapping[str, object]) -> dict[str, object]:
    for name, value in given.items():
        _short("a header's name", name)
        _value(f"header {name!r}", value)
    return dict(given)


def _value(field: str, value: object) -> None:
    """Check what AMQP's tables can carry."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _short(f"a name in {field}", name)
            _value(field, inner)
    elif isinstance(value, list):
        for inner in value:
            _value(field, inner)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{field} must fit into 64 bits, got {value!r}")
    elif not (value is None or isinstance(value, _CARRIED)):
        raise TypeError(f"{field} must be a text, number, boolean, bytes, datetime, list or mapping, got {type(value).__name__}")
