"""AMQP behind policies: connections that notice a silent broker, a publisher and a consumer on top of them, for blocking and async code.

| file | what |
|---|---|
| `pika`, `aio_pika` | `connect`: the library's own connection under the ambient deadline |
| `publisher`, `async_publisher` | `Publisher`, `AsyncPublisher`: persistent, confirmed, published again under the same message id |
| `consumer`, `async_consumer` | `Consumer`, `AsyncConsumer`: each effect once, poison to a dead-letter queue, drained on SIGTERM |
| `link`, `async_link` | one live connection of a publisher |
| `session`, `async_session` | one live connection of a consumer |
| `settings`, `consumer_settings` | what both kinds of publishers, and of consumers, are told alike |
| `message`, `delivery` | pure: what is published; what becomes of what was delivered |
| `liveness`, `judging`, `errors` | pure: when a broker counts as dead, what an error says about it, and our own |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from holdfast.clients.amqp.errors import Blocked, ChannelLost, Disconnected, Nacked, PublishError, TooLarge, Unroutable

if TYPE_CHECKING:
    from holdfast.clients.amqp.async_consumer import AsyncConsumer
    from holdfast.clients.amqp.async_publisher import AsyncPublisher
    from holdfast.clients.amqp.consumer import Consumer
    from holdfast.clients.amqp.delivery import Delivered, Poison
    from holdfast.clients.amqp.publisher import Publisher

__all__ = [
    "AsyncConsumer",
    "AsyncPublisher",
    "Blocked",
    "ChannelLost",
    "Consumer",
    "Delivered",
    "Disconnected",
    "Nacked",
    "Poison",
    "PublishError",
    "Publisher",
    "TooLarge",
    "Unroutable",
]

# Where each is, and the module that says how to install what it needs.
_HOMES = {
    "AsyncConsumer": ("async_consumer", "aio_pika"),
    "AsyncPublisher": ("async_publisher", "aio_pika"),
    "Consumer": ("consumer", "pika"),
    "Delivered": ("delivery", None),
    "Poison": ("delivery", None),
    "Publisher": ("publisher", "pika"),
}


def __getattr__(name: str) -> object:
    """What needs one of the libraries, loaded when it is used: nobody needs both."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home, library = _HOMES[name]
    if library is not None:
        import_module(f"{__name__}.{library}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return found
