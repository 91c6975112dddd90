"""The end of a transaction whose time is over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from holdfast.clients.postgres.psycopg_errors import DeadlineExceeded
from holdfast.scope import DeadlineBlock, Shield, deadline, remaining, shield

# Seconds for a rollback whose deadline has passed, or nearly so. After them the connection is closed, and the server rolls back by itself.
ROLLBACK_WITHIN = 0.05


def time_to_roll_back() -> Shield | DeadlineBlock:
    """Room for a rollback, where the deadline leaves none."""
    return shield(ROLLBACK_WITHIN) if remaining() < ROLLBACK_WITHIN else deadline(math.inf)


@contextmanager
def closed_unless_ended(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> Iterator[None]:
    """A transaction whose commit was cut off before it began is still open, though its block is over."""
    try:
        yield
    except DeadlineExceeded:
        connection.pgconn.finish()
        raise
