"""The end of a transaction whose request was stopped: rolled back, its locks released, its connection not used again while in doubt.

Closing a connection is not enough to stop a statement: PostgreSQL notices that nobody listens only when it has something to say, and
until then the statement holds its locks. So what runs is cancelled first.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Any

# Seconds for telling a server to stop a statement: a round trip and a bit.
_CANCEL_WITHIN = 1.0


def discard(connection: Any) -> None:
    """Close a psycopg connection for good, and have the server end what it still does for it. Raises nothing."""
    with contextlib.suppress(Exception):
        if _is_busy(connection):
            # In a thread: before its version 17 libpq waits without a bound for a server that has stopped.
            canceller = threading.Thread(target=_cancel, args=(connection,), name="holdfast-cancel", daemon=True)
            canceller.start()
            canceller.join(_CANCEL_WITHIN)
    with contextlib.suppress(Exception):
        connection.close()


def _cancel(connection: Any) -> None:
    with contextlib.suppress(Exception):
        connection.cancel_safe(timeout=_CANCEL_WITHIN)


async def adiscard(connection: Any) -> None:
    """`discard` for an async connection."""
    with contextlib.suppress(Exception):
        if _is_busy(connection):
            await connection.cancel_safe(timeout=_CANCEL_WITHIN)
    with contextlib.suppress(Exception):
        await connection.close()


def discard_alchemy(connection: Any) -> None:
    """`discard` for a `sqlalchemy.Connection`: its pool makes another one."""
    with contextlib.suppress(Exception):
        driver = connection.connection.driver_connection
        if hasattr(driver, "cancel_safe"):
            discard(driver)
    with contextlib.suppress(Exception):
        connection.invalidate()
    with contextlib.suppress(Exception):
        connection.close()


async def adiscard_alchemy(connection: Any) -> None:
    """`discard` for an `AsyncConnection` of SQLAlchemy."""
    with contextlib.suppress(Exception):
        driver = (await connection.get_raw_connection()).driver_connection
        if hasattr(driver, "cancel_safe"):
            await adiscard(driver)
    with contextlib.suppress(Exception):
        await connection.invalidate()
    with contextlib.suppress(Exception):
        await connection.close()


def _is_busy(connection: Any) -> bool:
    return bool(not connection.closed and connection.info.transaction_status.name == "ACTIVE")
