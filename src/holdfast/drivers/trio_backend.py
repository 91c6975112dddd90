"""trio under the async driver: its cancel scopes and its parking are what `asyncio_backend` has to build."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from math import inf
from types import TracebackType
from typing import Any, TypeVar

import trio

from holdfast.deadlines import Deadline
from holdfast.drivers.backends import Cutoff
from holdfast.drivers.clock import Clock
from holdfast.policies.places import Ticket
from holdfast.race import Race

R = TypeVar("R")


class _Trio:
    """See `Backend`."""

    def cutoff(self, limit: Deadline | None, clock: Clock) -> _Cutoff:
        """See `Backend.cutoff`."""
        return _Cutoff(limit, clock)

    def shield(self) -> Cutoff:
        """See `Backend.shield`."""
        return trio.CancelScope(shield=True)

    async def sleep(self, seconds: float) -> None:
        """See `Backend.sleep`."""
        await trio.sleep(seconds)

    async def wait(self, ticket: Ticket, seconds: float) -> None:
        """See `Backend.wait`."""
        woken = trio.Event()
        token = trio.lowlevel.current_trio_token()
        ticket.wake = lambda: token.run_sync_soon(woken.set)
        if not ticket.permit:
            with trio.move_on_after(max(0.0, seconds)):
                await woken.wait()

    async def race(self, race: Race, clock: Clock, start: Callable[[], Coroutine[Any, Any, R]]) -> R:
        """See `Backend.race`."""
        report, reports = trio.open_memory_channel[tuple[float, R | None, BaseException | None]](inf)
        running: list[float] = []
        result: R | None = None
        failure: BaseException | None = None

        async def attempt(began: float) -> None:
            try:
                report.send_nowait((began, await start(), None))
            except Exception as error:
                report.send_nowait((began, None, error))

        def begin(nursery: trio.Nursery) -> None:
            running.append(clock.now())
            nursery.start_soon(attempt, running[-1])

        async with trio.open_nursery() as nursery:
            begin(nursery)
            while True:
                patience = race.patience(clock.now())
                ended = None
                with trio.move_on_after(inf if patience is None else patience):
                    ended = await reports.receive()
                now = clock.now()
                if ended is None:
                    if patience is not None and race.rival(now):
                        begin(nursery)
                    continue
                began, result, failure = ended
                running.remove(began)
                if race.ended(failure, now - began, now):
                    break
            for began in running:
                race.lost(now - began, now)
            nursery.cancel_scope.cancel()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure, ended  # its traceback holds this frame: no ring of the two
        return result  # type: ignore[return-value]  # it is an R where no failure was reported


class _Cutoff:
    """See `Cutoff`."""

    __slots__ = ("_clock", "_limit", "_scope")

    def __init__(self, limit: Deadline | None, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._scope: trio.CancelScope | None = None

    def __enter__(self) -> None:
        if self._limit is not None:
            # trio's clock has its own zero, so only the distance carries over.
            self._scope = trio.CancelScope(deadline=trio.current_time() + self._limit.at - self._clock.now())
            self._scope.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if self._scope is None or self._limit is None:
            return False
        swallowed = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise self._limit.exceeded(self._clock.now()) from error
        return bool(swallowed)


TRIO = _Trio()
