"""Requests under their deadlines on trio."""

from __future__ import annotations

import math
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import trio

from holdfast import events
from holdfast.deadlines import ambient, restore
from holdfast.errors import DeadlineExceeded
from holdfast.servers.deadline_asyncio import SLACK, report
from holdfast.servers.exchange import Exchange

if TYPE_CHECKING:
    from holdfast.servers.interfaces import ASGIApp, Message


class TrioExchange(Exchange):
    """One that runs in a cancel scope."""

    __slots__ = ("cancel",)

    event = trio.Event

    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        self.cancel = trio.CancelScope(deadline=trio.current_time() + self.at - self._now())

    def send(self, message: Message) -> Awaitable[None]:
        """See `Exchange.send`."""
        sending = super().send(message)
        if self.complete:
            self.cancel.deadline = math.inf
        return sending

    def fire(self) -> None:
        """See `Exchange.fire`."""
        self.cancel.cancel()

    async def answer_late(self) -> None:
        """Answer though its work takes no notice: a thread that runs on, and trio waits for it."""
        await trio.sleep(self.at - self._now() + SLACK)
        if self.is_over:
            await self.answer()


async def run(exchange: TrioExchange, app: ASGIApp) -> None:
    """Run the application until it ends, its deadline comes, or its client goes."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.reader().watch)
        nursery.start_soon(exchange.answer_late)
        token = ambient.set(exchange)
        try:
            with exchange.cancel:
                await app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:
            failure = error  # raised outside, so that the nursery does not wrap it
        finally:
            restore(token)
        if exchange.is_over:
            if isinstance(failure, DeadlineExceeded) and exchange.encloses(failure):
                failure = None
            await exchange.answer()
            if events.listeners:
                report(exchange.policy, exchange.budget, exchange.at, exchange._now())  # trio waits for its threads
        nursery.cancel_scope.cancel()
    if failure is not None:
        try:
            raise failure
        finally:
            del failure
