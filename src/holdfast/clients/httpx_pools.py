"""httpcore's pools after a task was cancelled.

httpcore shields its clean-up from anyio's cancellation, and not from asyncio's `Task.cancel`, which is what ends a task at a deadline.
Where that comes in the middle of a connection's return, or between its assignment and its use, the pool counts the connection for ever;
when as many are lost as it may have, every later call waits in vain.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_PARTS = ("_requests", "_connections", "_assign_requests_to_connections", "_close_connections")


async def heal(pools: Iterable[Any], stream: Any = None) -> None:
    """Take out of the pools what nobody uses, and give its room to those who wait.

    Args:
        pools: of the client.
        stream: the body that was being read, if it came so far; it is not read any more.
    """
    over = _request_of(stream)
    for pool in pools:
        if not all(hasattr(pool, name) for name in _PARTS):
            continue
        if over in pool._requests:
            pool._requests.remove(over)
        # A connection belongs to a request from its assignment until its response is closed; then it is idle, or closed.
        held = [request.connection for request in pool._requests]
        strays = [each for each in pool._connections if each not in held and not (each.is_idle() or each.is_closed())]
        for stray in strays:
            pool._connections.remove(stray)
        if strays or pool._requests:
            await pool._close_connections([*strays, *pool._assign_requests_to_connections()])


def _request_of(stream: Any) -> Any:
    while stream is not None and not hasattr(stream, "_pool_request"):  # httpx' stream, its transport's, and then httpcore's
        stream = getattr(stream, "_stream", None) or getattr(stream, "_httpcore_stream", None)
    return getattr(stream, "_pool_request", None)
