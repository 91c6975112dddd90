"""One background thread per process: it does the rounds, listens for changes, and tells who listens to events.

The thread serves blocking and async programs alike. Calls never wait for it: it reads and writes the numbers that breakers and budgets go
by, under their own locks, and holds none while it talks to the store. It is a daemon, and whatever it does is bounded in time, so it
holds no exit.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, cast

from holdfast import events
from holdfast.backoff import Backoff
from holdfast.errors import BreakerOpen
from holdfast.fleet import protocol
from holdfast.fleet.connections import Address, errors
from holdfast.fleet.member import Member
from holdfast.fleet.redis import RedisStore, is_forbidden, reason
from holdfast.fleet.roster import Roster
from holdfast.fleet.rules import Terms
from holdfast.policies.breaker import Breaker
from holdfast.policies.retry import Retry
from holdfast.policy import Policy
from holdfast.scope import deadline

if TYPE_CHECKING:
    from holdfast.fleet import FleetSnapshot, PolicyInFleet
    from holdfast.policies.breaker import Circuit

# The longest pause of a process that has nothing to say, while it is told of changes, and while it is not.
_IDLE = 5.0
_IDLE_DEAF = 1.0
_RETRY = 2.0  # the longest pause between two attempts to reach the store
# How often the thread looks whether it is to end, and the shortest time between two rounds because of a change.
_SLICE = 0.25
_LEAST_GAP = 0.01
_FORGOTTEN = "the store had forgotten the fleet; what this process knows is put back"
_MOST_REPORTS = 100
_SPREAD = 0.1  # of the interval, so that processes that were started together do not go on together


@dataclass(frozen=True, slots=True)
class Settings:
    """What `connect` was given."""

    address: Address
    prefix: str
    interval: float
    timeout: float
    quorum: float
    lease: float


class Agent:
    """The fleet's side of one process.

    Args:
        settings: of the fleet.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.away_since: float | None = None  # the store cannot be asked since then
        self.connected = False
        self._rng = random.Random()
        self._wake = Event()
        self._closing = False
        self._hints: set[str] = set()
        self._all_asked = self._next_ping = self._deaf_until = float("-inf")
        self._reported: set[str] = set()
        self._is_broken = False
        self._begin()

    def _begin(self) -> None:
        settings = self.settings
        self._terms = Terms(token_hex(8), settings.quorum, settings.lease, settings.interval, max(_IDLE, settings.interval))
        self._roster = Roster(self._terms, self._rng)
        self._store = RedisStore(settings.address, settings.prefix, settings.timeout)
        # The store is a dependency like any other: bounded in time, and left alone for a while when it is down. A connection that broke is
        # made anew once before that is news: servers end them, when they fail over or find them idle.
        self._policy = Policy(
            "holdfast.fleet",
            deadline=settings.timeout,
            retry=Retry(attempts=2, on=errors.ConnectionError, backoff=Backoff(base=0.0)),
            breaker=Breaker(
                consecutive=2,
                open_for=settings.interval,
                open_for_max=max(_RETRY, settings.interval),
                probe_share=1.0,
                probes_to_close=1,
                max_probes=1,
            ),
            shared=False,
        )
        self._thread = Thread(target=self._run, name="holdfast-fleet", daemon=True)

    @property
    def members(self) -> list[Member]:
        """The policies of this process that are in the fleet."""
        return list(self._roster.members.values())

    def start(self) -> None:
        """Begin."""
        self._roster.enlist()
        self._thread.start()
        _agents.add(self)

    def close(self) -> None:
        """End the thread, after one last round if the store answers; policies are local again."""
        _agents.discard(self)
        self._closing = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2 * self.settings.timeout + _SLICE + 1.0)
        for member in self.members:
            member.leave()
        self._roster.members.clear()

    def again_in_child(self) -> None:
        """After a fork: a process of its own, with connections of its own, which knows what its parent knew."""
        known = {key: member.known for key, member in self._roster.members.items()}
        self.connected, self.away_since = False, None
        self._wake, self._hints = Event(), set()
        self._rng = random.Random()
        self._begin()
        self._roster.enlist(known)
        self._thread.start()

    def snapshot(self) -> FleetSnapshot:
        """See `holdfast.fleet.snapshot`."""
        policies: dict[str, PolicyInFleet] = {}
        for member in self.members:
            seen, known = member.seen, member.known
            if seen is not None:
                half = known.state == "open" and monotonic() >= known.ends
                policies[member.name] = {
                    "state": known.force if known.force != "none" else "half-open" if half else known.state,
                    "processes": seen.processes,
                    "calls": seen.calls,
                    "failures": seen.failures,
                    "slow": seen.slow,
                    "requests": 0 if seen.budget is None else seen.budget.calls,
                    "retries": 0 if seen.budget is None else seen.budget.retries,
                }
        since = self.away_since
        return {"connected": self.connected, "away": None if since is None else monotonic() - since, "policies": policies}

    # The thread.

    def _run(self) -> None:
        while not self._closing:
            began = monotonic()
            try:
                self._roster.enlist()
                self._orders()
                self._round(began)
            except Exception as error:
                self._broken(error)
            pause = self.settings.interval * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
            self._rest(began + pause)
        self._last_words()

    def _rest(self, until: float) -> None:
        """Wait for the next round, or until the fleet's state changes."""
        while not self._closing and not self._hints and not self._wake.is_set():
            left = until - monotonic()
            if left <= 0:
                return
            hears = self.connected and monotonic() >= self._deaf_until
            if not (hears and self._listen(min(left, _SLICE))):
                self._wake.wait(min(left, _SLICE))
        self._wake.clear()
        if self._hints and not self._closing:
            self._wake.wait(_LEAST_GAP)

    def _listen(self, seconds: float) -> bool:
        try:
            with deadline(seconds + self.settings.timeout):
                self._store.listen()
                self._hints.update(self._store.changes(seconds))
        except Exception as error:
            # The rounds say whether the store is there. Without its word of changes they are only learnt of a little later.
            self._deaf_until = monotonic() + _IDLE_DEAF
            if is_forbidden(error):
                self._ignored("", "the user may not subscribe to the fleet's channel")
            return False
        return True

    # What is said and learnt.

    def _round(self, now: float) -> None:
        hints, self._hints = self._hints, set()
        deaf = not self._store.listening and now - self._all_asked >= _IDLE_DEAF
        if deaf:
            hints.update(member.name for member in self.members)
            self._all_asked = now
        was_away = self.away_since is not None
        if not self._talk(now, hints):
            return
        # Everything at once, so that it is told once; and who comes back from being lost has told enough.
        if self._talk(monotonic(), {member.name for member in self.members}) is not None and not was_away:
            events.publish([events.FleetLost("", _FORGOTTEN), events.FleetBack("", 0.0)])

    def _talk(self, now: float, hints: set[str]) -> bool | None:
        """Do a round of every policy that has something to say, and of those in `hints`.

        Returns:
            Whether the store had forgotten something that this process knows; None where it cannot be asked.
        """
        asking, questions = [], []
        for member in self.members:
            question = member.ask(now, hinted=member.name in hints, returning=self.away_since is not None)
            if question is not None:
                asking.append(member)
                questions.append(question)
        if not questions and (self.members or now < self._next_ping):
            return False
        self._next_ping = now + (self._terms.idle if self.connected else self.settings.interval)
        try:
            answers = self._policy.call(self._ask, questions) if questions else self._policy.call(self._store.ping)
        except BreakerOpen:
            return None
        except Exception as error:
            self._lost(reason(error), self.members)
            return None
        return self._learn(asking, answers, now)

    def _ask(self, questions: list[dict[str, object]]) -> list[object]:
        answers = self._store.rounds(questions)
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        if len(failed) == len(answers):
            raise failed[0]
        return answers

    def _learn(self, asking: list[Member], answers: list[object], asked: float) -> bool:
        now, forgotten, failed = monotonic(), False, []
        why = ""
        for member, answer in zip(asking, answers, strict=True):
            if isinstance(answer, Exception):
                why = reason(answer)
                failed.append(member)
                continue
            circuit = member.circuit
            try:
                checked = protocol.read(answer, now, longest_pause(circuit))
            except protocol.Malformed as error:
                self._ignored(member.name, f"an answer: {error}")
                member.cut_off()
                continue
            member.learn(checked, asked, now)
            forgotten = forgotten or checked.forgotten
            if checked.ignored:
                self._ignored(member.name, checked.ignored)
            if circuit is not None:
                events.publish(circuit.take_news())
        if failed:
            self._lost(why, failed)
        else:
            self._back()
        return forgotten

    def _orders(self) -> None:
        """Tell the fleet what somebody forced in this process."""
        for member in self.members:
            order = member.order(monotonic())
            if order is None:
                continue
            try:
                answer = self._policy.call(self._store.force, member.name, order[0], order[1])
                member.ordered(order[0], protocol.read_state(answer, monotonic(), longest_pause(member.circuit)))
            except BreakerOpen:
                return
            except protocol.Malformed as error:
                self._ignored(member.name, f"an answer: {error}")
            except Exception as error:
                self._lost(reason(error), self.members)
                return

    def _lost(self, why: str, members: Iterable[Member]) -> None:
        for member in list(members):
            member.cut_off()
        self.connected = False
        self._store.close()
        if self.away_since is None:
            self.away_since = monotonic()
            events.publish([events.FleetLost("", why)])

    def _back(self) -> None:
        self.connected = True
        since, self.away_since = self.away_since, None
        if since is not None:
            self._reported.clear()
            events.publish([events.FleetBack("", monotonic() - since)])

    def _ignored(self, policy: str, what: str) -> None:
        """Tell that something was not used; of each kind once, or a stranger could fill the logs."""
        if what not in self._reported and len(self._reported) < _MOST_REPORTS:
            self._reported.add(what)
            events.publish([events.FleetIgnored(policy, what)])

    def _broken(self, error: Exception) -> None:
        """A bug in here must not end the thread: policies go on alone, and it is reported once."""
        for member in self.members:
            member.cut_off()
        if not self._is_broken:
            self._is_broken = True
            error.add_note("raised in the background of holdfast.fleet; it goes on, its later errors are not reported")
            sys.excepthook(type(error), error, error.__traceback__)

    def _last_words(self) -> None:
        if self.connected:
            with suppress(Exception):
                self._orders()
                for member in self.members:
                    member.farewell()
                self._talk(monotonic(), set())
        self._store.close()


def longest_pause(circuit: Circuit | None) -> float:
    """The longest pause that a process believes the fleet."""
    return 0.0 if circuit is None else cast("float", circuit.config.open_for_max)


# Which agents are to begin again in the child of a fork.
_agents: weakref.WeakSet[Agent] = weakref.WeakSet()


def _in_child() -> None:
    for agent in list(_agents):
        agent.again_in_child()


# Registered after the locks' own hook, and so called after it: the thread finds locks that are free.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
