"""PostgreSQL behind policies: psycopg 3 (`psycopg`), asyncpg (`asyncpg`), and SQLAlchemy's engines over them (`sqlalchemy`).

`connect` and `aconnect` are psycopg's, `create_pool` and `acreate_pool` psycopg_pool's.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.clients.postgres.pools import AsyncConnectionPool, ConnectionPool, acreate_pool, create_pool
    from holdfast.clients.postgres.psycopg import AsyncConnection, Connection, aconnect, connect

__all__ = [
    "AsyncConnection",
    "AsyncConnectionPool",
    "Connection",
    "ConnectionPool",
    "aconnect",
    "acreate_pool",
    "connect",
    "create_pool",
]

_POOLS = frozenset(("AsyncConnectionPool", "ConnectionPool", "acreate_pool", "create_pool"))


def __getattr__(name: str) -> object:
    """The names of psycopg, loaded when one is asked for: who uses asyncpg need not have it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'pools' if name in _POOLS else 'psycopg'}"), name)
