"""What asyncio and trio do differently for the server's parts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from holdfast.drivers.backends import backend

T = TypeVar("T")


def on_asyncio() -> bool:
    """Whether the running event loop is asyncio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def together(works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Do all of them at once, and return what they return, in their order."""
    if on_asyncio():
        return list(await asyncio.gather(*(work() for work in works)))
    import trio

    results: list[list[T]] = [[] for _ in works]

    async def one(work: Callable[[], Awaitable[T]], into: list[T]) -> None:
        into.append(await work())

    async with trio.open_nursery() as nursery:
        for work, into in zip(works, results, strict=True):
            nursery.start_soon(one, work, into)
    return [result for into in results for result in into]


async def sleep(seconds: float) -> None:
    """Let others run for this long."""
    await backend().sleep(seconds)
