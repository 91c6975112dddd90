"""What a call holds, and what is told of it.

An attempt takes a permit of the breaker, a place in the limit, a turn of the rate limit, a ticket in a queue. Whatever way it ends, each is
given back exactly once: by `_settle` when it has come to something, by `abandon` when a driver is interrupted between the steps. Both may
be called at any moment, and again.

Events are collected meanwhile, and told by the driver when no lock is held.
"""

from __future__ import annotations

from typing import cast

from holdfast import events
from holdfast.deadlines import Deadline
from holdfast.outcome import IGNORED, Verdict
from holdfast.plan import Plan
from holdfast.policies.places import Places, Ticket
from holdfast.policies.ratelimit import Pacer


class Holdings:
    """What `Call` holds. Its slots are filled there: a second `__init__` would cost every call."""

    __slots__ = ("_attempt_began", "_permit", "_place", "_plan", "_ticket", "_turn", "attempt", "limit", "news")

    _plan: Plan
    attempt: int  # its number, from 1
    limit: Deadline | None  # of the attempt
    news: list[events.Event] | None
    _attempt_began: float | None  # an attempt is running
    _permit: int  # the breaker's, 0 for none
    _place: int  # the limit's, 0 for none
    _turn: Pacer | None  # of the rate limit, not used yet
    _ticket: Ticket | None

    @property
    def holds(self) -> bool:
        """Whether there is something to give back."""
        return bool(self._permit or self._place or self._turn or self._ticket)

    def abandon(self, now: float) -> None:
        """Give everything back: the driver was interrupted, or will not go on. Does nothing when nothing is held."""
        if self._turn is not None:
            pacer, self._turn = self._turn, None
            pacer.cancel()
        if self._ticket is not None:
            ticket, self._ticket = self._ticket, None
            self._place = cast("Places", self._plan.places).leave(ticket)
        self._settle(IGNORED, now, None)

    def close(self, verdict: Verdict, now: float, error: BaseException | None = None) -> None:
        """The end of an attempt whose result was handed on unfinished, like a response that is still being read."""
        self._settle(verdict, now, error)
        self.tell()

    def tell(self) -> None:
        """Hand the collected events to the listeners. No lock is held here."""
        if self.news:
            news, self.news = self.news, None
            events.publish(news)

    def _settle(self, verdict: Verdict, now: float, error: BaseException | None) -> None:
        plan = self._plan
        began, self._attempt_began = self._attempt_began, None
        elapsed = 0.0 if began is None else now - began
        permit, circuit = self._permit, plan.circuit
        if permit and circuit is not None:
            self._permit = 0
            circuit.settle(permit, verdict, now, elapsed)
        place, places = self._place, plan.places
        if place and places is not None:
            self._place = 0
            if plan.adaptive is not None and began is not None:
                plan.adaptive.settle(verdict, elapsed)
            places.release(place)
        if events.listeners:
            if began is not None:
                self._tell(events.AttemptEnded(plan.name, self.attempt, verdict.value, elapsed, error))
                outrun = None if self.limit is None else self.limit.outrun(now)
                if outrun is not None:
                    self._tell(outrun)
            self._collect()

    def _tell(self, event: events.Event) -> None:
        if self.news is None:
            self.news = []
        self.news.append(event)

    def _collect(self) -> None:
        plan = self._plan
        for part in (plan.circuit, plan.adaptive):
            if part is not None and part.news:
                for event in part.take_news():
                    self._tell(event)
