"""The server's half: what stands in front of a handler, each part usable alone.

Names are loaded when they are first asked for: whoever uses one part does not pay for the others.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.servers.admission import Admission
    from holdfast.servers.deadline import Deadline
    from holdfast.servers.idempotency.memory import MemoryStore
    from holdfast.servers.idempotency.part import Idempotency
    from holdfast.servers.idempotency.redis import RedisStore
    from holdfast.servers.idempotency.sql import SQLStore
    from holdfast.servers.queue_age import QueueAge
    from holdfast.servers.readiness import Readiness
    from holdfast.servers.requires import Requires
    from holdfast.servers.single_flight import once
    from holdfast.servers.transactions import Transactions
    from holdfast.servers.workers import Workers

# Where each name is.
_PLACES = {
    "Admission": "admission",
    "Deadline": "deadline",
    "Idempotency": "idempotency.part",
    "MemoryStore": "idempotency.memory",
    "QueueAge": "queue_age",
    "Readiness": "readiness",
    "RedisStore": "idempotency.redis",
    "Requires": "requires",
    "SQLStore": "idempotency.sql",
    "Transactions": "transactions",
    "Workers": "workers",
    "once": "single_flight",
}

__all__ = [
    "Admission",
    "Deadline",
    "Idempotency",
    "MemoryStore",
    "QueueAge",
    "Readiness",
    "RedisStore",
    "Requires",
    "SQLStore",
    "Transactions",
    "Workers",
    "once",
]


def __getattr__(name: str) -> object:
    """The public names, loaded when the first is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module 'holdfast.servers' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"holdfast.servers.{_PLACES[name]}"), name)
    return found
