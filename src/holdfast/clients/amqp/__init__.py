"""AMQP behind policies: connections that notice a silent broker, a publisher and a consumer on top of them, for blocking and async code.

| file | what |
|---|---|
| `pika`, `aio_pika` | `connect`: the library's own connection under the ambient deadline |
| `publisher`, `async_publisher` | `Publisher`, `AsyncPublisher`: persistent, confirmed, published again under the same message id |
| `consumer`, `async_consumer` | `Consumer`, `AsyncConsumer`: each effect once, poison to a dead-letter queue, drained on SIGTERM |
| `link`, `async_link` | one live connection of a publisher |
| `message`, `delivery` | pure: what is published; what becomes of what was delivered |
| `liveness`, `judging`, `errors` | pure: when a broker counts as dead, what an error says about it, and our own |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from holdfast.clients.amqp.errors import Blocked, ChannelLost, Disconnected, Nacked, PublishError, Unroutable

if TYPE_CHECKING:
    from holdfast.clients.amqp.async_publisher import AsyncPublisher
    from holdfast.clients.amqp.publisher import Publisher

__all__ = [
    "AsyncPublisher",
    "Blocked",
    "ChannelLost",
    "Disconnected",
    "Nacked",
    "PublishError",
    "Publisher",
    "Unroutable",
]

_HOMES = {
    "AsyncPublisher": "async_publisher",
    "Publisher": "publisher",
}


def __getattr__(name: str) -> object:
    """What needs one of the libraries, loaded when it is used: nobody needs both."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return found
