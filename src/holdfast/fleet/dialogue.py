"""What a process says to the store and learns from it, and what it tells who listens to events. The agent's thread alone calls it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, cast

from holdfast import events
from holdfast.backoff import Backoff
from holdfast.errors import BreakerOpen
from holdfast.fleet import protocol
from holdfast.fleet.connections import Address, errors
from holdfast.fleet.member import Member
from holdfast.fleet.redis import RedisStore, reason
from holdfast.fleet.roster import Roster
from holdfast.fleet.rules import Terms
from holdfast.policies.breaker import Breaker
from holdfast.policies.retry import Retry
from holdfast.policy import Policy

if TYPE_CHECKING:
    from holdfast.policies.breaker import Circuit

# The longest pause of a process that has nothing to say, while it is told of changes, and while it is not.
_IDLE = 5.0
IDLE_DEAF = 1.0
_RETRY = 2.0  # the longest pause between two attempts to reach the store
_FORGOTTEN = "the store had forgotten the fleet; what this process knows is put back"
_MOST_REPORTS = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """What `connect` was given."""

    address: Address
    prefix: str
    interval: float
    timeout: float
    quorum: float
    lease: float

    @property
    def fleet(self) -> tuple[Address, str]:
        """Which fleet it is: the same server and the same prefix."""
        return self.address, self.prefix


class Dialogue:
    """One process and the store.

    Args:
        settings: of the fleet.
        rng: for jitter.
    """

    def __init__(self, settings: Settings, rng: Random) -> None:
        self.connected = False
        self._settings = settings
        self.away_since: float | None = None  # the store cannot be asked since then
        self._terms = Terms(token_hex(8), settings.quorum, settings.lease, settings.interval, max(_IDLE, settings.interval))
        self.roster = Roster(self._terms, rng)
        self.store = RedisStore(settings.address, settings.prefix, settings.timeout)
        self._policy = _policy(settings)
        self.deaf_until = self._all_asked = self._next_ping = float("-inf")
        self._reported: set[str] = set()

    @property
    def members(self) -> list[Member]:
        """The policies of this process that are in the fleet."""
        return list(self.roster.members.values())

    def round(self, now: float, hints: set[str]) -> None:
        """Tell what there is to say, and learn what the others know.

        Args:
            now: monotonic seconds.
            hints: names of policies whose state has changed.
        """
        self._orders()
        if not self.store.listening and now - self._all_asked >= IDLE_DEAF:
            hints = {member.name for member in self.members}
            self._all_asked = now
        was_away = self.away_since is not None
        if not self._talk(now, hints):
            return
        # Everything at once, so that it is told once; and who comes back from being lost has told enough.
        if self._talk(monotonic(), {member.name for member in self.members}) is not None and not was_away:
            events.publish([events.FleetLost("", _FORGOTTEN), events.FleetBack("", 0.0)])

    def last_words(self) -> None:
        """The last round, if the store answers."""
        if self.connected:
            with suppress(Exception):
                self._orders()
                for member in self.members:
                    member.farewell()
                self._talk(monotonic(), set())
        self.store.close()

    def _talk(self, now: float, hints: set[str]) -> bool | None:
        """Do a round of every policy that has something to say, and of those in `hints`.

        Returns:
            Whether the store had forgotten something that this process knows; None where it cannot be asked.
        """
        asking, questions = [], []
        departed, self.roster.departed = self.roster.departed, []
        for member in (*self.members, *departed):
            question = member.ask(now, hinted=member.name in hints, returning=self.away_since is not None)
            if question is not None:
                asking.append(member)
                questions.append(question)
        if not questions and (self.members or now < self._next_ping):
            return False
        self._next_ping = now + (self._terms.idle if self.connected else self._settings.interval)
        try:
            answers = self._policy.call(self._ask, questions) if questions else self._policy.call(self.store.ping)
        except BreakerOpen:
            return None
        except Exception as error:
            self._lost(reason(error), self.members)
            return None
        return self._learn(asking, answers, now)

    def _ask(self, questions: list[dict[str, object]]) -> list[object]:
        answers = self.store.rounds(questions)
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
                self.ignored(member.name, f"an answer: {error}")
                member.cut_off()
                continue
            member.learn(checked, asked, now)
            forgotten = forgotten or checked.forgotten
            if checked.ignored:
                self.ignored(member.name, checked.ignored)
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
                answer = self._policy.call(self.store.force, member.name, order[0], order[1])
                member.ordered(order[0], protocol.read_state(answer, monotonic(), longest_pause(member.circuit)))
            except BreakerOpen:
                return
            except protocol.Malformed as error:
                self.ignored(member.name, f"an answer: {error}")
            except Exception as error:
                self._lost(reason(error), self.members)
                return

    def _lost(self, why: str, members: Iterable[Member]) -> None:
        for member in list(members):
            member.cut_off()
        self.connected = False
        self.store.close()
        if self.away_since is None:
            self.away_since = monotonic()
            events.publish([events.FleetLost("", why)])

    def _back(self) -> None:
        self.connected = True
        since, self.away_since = self.away_since, None
        if since is not None:
            self._reported.clear()
            # Sentinels do not agree at once, and redis-py ends the connection that is back when one more of them is asked.
            self.deaf_until = monotonic() + IDLE_DEAF
            events.publish([events.FleetBack("", monotonic() - since)])

    def ignored(self, policy: str, what: str) -> None:
        """Tell that something was not used; of each kind once, or a stranger could fill the logs."""
        if what not in self._reported and len(self._reported) < _MOST_REPORTS:
            self._reported.add(what)
            events.publish([events.FleetIgnored(policy, what)])


def _policy(settings: Settings) -> Policy:
    # The store is a dependency like any other: bounded in time, and left alone for a while when it is down. A connection that broke is
    # made anew once before that is news: servers end them, when they fail over or find them idle.
    return Policy(
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


def longest_pause(circuit: Circuit | None) -> float:
    """The longest pause that a process believes the fleet."""
    return 0.0 if circuit is None else cast("float", circuit.config.open_for_max)
