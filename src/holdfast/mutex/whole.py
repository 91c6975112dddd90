"""Giving back in asyncio, which a cancellation may come in the middle of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def whole(work: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
    """Do this to its end, though the task is cancelled meanwhile; the cancellation goes on after it. `work` is to be bounded in time."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    try:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is None:
            return task.result()
        if not task.cancelled():
            task.exception()  # asked for, so that asyncio does not report it as lost
        raise cancelled
    finally:
        cancelled = None  # its traceback holds this frame: no ring of the two
