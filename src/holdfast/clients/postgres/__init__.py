"""PostgreSQL behind policies: psycopg 3 (`psycopg`), asyncpg (`asyncpg`), and SQLAlchemy's engines over them (`sqlalchemy`).

`connect` and `aconnect` are psycopg's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.clients.postgres.psycopg import AsyncConnection, Connection, aconnect, connect

__all__ = ["AsyncConnection", "Connection", "aconnect", "connect"]


def __getattr__(name: str) -> object:
    """The names of psycopg, loaded when one is asked for: who uses asyncpg need not have it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from holdfast.clients.postgres import psycopg

    found: object = getattr(psycopg, name)
    return found
