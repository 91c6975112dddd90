"""Work that must come to its end, whatever becomes of the request that began it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from holdfast.scope import deadline, shield

T = TypeVar("T")

# Seconds for the end of a claim when the request's own time is over: a round trip or two to a store that is well.
ENDING = 5.0

_running: set[asyncio.Future[Any]] = set()  # an event loop holds its tasks weakly


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Run it in a task of its own: the request may be cancelled meanwhile, again and again, and its deadline be over."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # trio
        async with shield(ENDING):
            return await work
    with shield(ENDING):
        task = loop.create_task(_within(work))
    _running.add(task)
    task.add_done_callback(_running.discard)
    return await asyncio.shield(task)


async def _within(work: Coroutine[Any, Any, T]) -> T:
    async with deadline(ENDING):
        return await work
