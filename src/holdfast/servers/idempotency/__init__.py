"""Work that is asked for twice and done once: for requests by their `Idempotency-Key`, for messages by their id.

| file | what |
|---|---|
| `store` | what a store promises: `Store`, `Claim`, and for async code `AsyncStore`, `AsyncClaim` |
| `memory`, `redis`, `sql` | the stores |
| `keys`, `answers` | pure: the key, whose it is, what request it stands for; which answers are kept, and in which form |
| `part`, `wsgi`, `asgi` | `Idempotency`, and the applications it surrounds |
| `inbox` | the same for consumers of messages |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.servers.idempotency.inbox import Inbox, InProgress, OutcomeUnknown
    from holdfast.servers.idempotency.part import connection
    from holdfast.servers.idempotency.store import AsyncClaim, AsyncStore, Claim, Store

_PLACES = {
    "AsyncClaim": "store",
    "AsyncStore": "store",
    "Claim": "store",
    "InProgress": "inbox",
    "Inbox": "inbox",
    "OutcomeUnknown": "inbox",
    "Store": "store",
    "connection": "part",
}

__all__ = ["AsyncClaim", "AsyncStore", "Claim", "InProgress", "Inbox", "OutcomeUnknown", "Store", "connection"]


def __getattr__(name: str) -> object:
    """The public names, loaded when the first is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'holdfast.servers.idempotency' has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f"holdfast.servers.idempotency.{_PLACES[name]}"), name)
    return found
