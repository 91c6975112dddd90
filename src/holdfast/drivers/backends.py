"""What the async driver needs from an event loop: to sleep, to wait for a ticket, to cut work off, and to race attempts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Protocol, TypeVar

from holdfast.deadlines import Deadline
from holdfast.drivers.clock import Clock
from holdfast.policies.places import Ticket
from holdfast.race import Race

R = TypeVar("R")


class Cutoff(Protocol):
    """A block that may be cancelled at a deadline, and then raises DeadlineExceeded. No other cancellation is taken for it."""

    def __enter__(self) -> object: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> bool | None: ...


class Backend(Protocol):
    """An event loop, as the driver sees it."""

    def cutoff(self, limit: Deadline | None, clock: Clock) -> Cutoff:
        """Cut the block off at `limit`; None never does."""
        ...

    def shield(self) -> Cutoff:
        """Hold off the cut-offs around the block, in this task, until it ends."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for this long."""
        ...

    async def wait(self, ticket: Ticket, seconds: float) -> None:
        """Wait until the ticket is served, at most for this long."""
        ...

    async def race(self, race: Race, clock: Clock, start: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """Run attempts against each other as `race` decides; none runs on afterwards."""
        ...


def backend() -> Backend:
    """The backend of the running event loop.

    Raises:
        RuntimeError: no event loop is running.
    """
    try:
        return for_loop(asyncio.get_running_loop())
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is None or not trio.lowlevel.in_trio_run():
            raise
    from holdfast.drivers.trio_backend import TRIO

    return TRIO


from holdfast.drivers.asyncio_backend import for_loop  # noqa: E402  (it needs the protocols above)
