"""Many processes of a fleet in one, in virtual time, against the store's own scripts on a real server.

Only the clock is replaced: the scripts read it from their third argument instead of asking the server. Everything else, from the
breaker of a process to the round of a policy, is what production runs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast import Breaker, Budget
from holdfast.fleet import protocol
from holdfast.fleet.connections import read_url
from holdfast.fleet.member import Member
from holdfast.fleet.redis import RedisStore
from holdfast.fleet.rules import Terms
from holdfast.outcome import FAILURE, SUCCESS
from holdfast.policies.breaker import Circuit

START = 1_700_000_000.0  # of the store's clock, where the processes' is 0
LEASE = 2.0
_CLOCK = {"clock": "local now = tonumber(ARGV[3])"}


class VirtualStore(RedisStore):
    """The store with a clock of ours."""

    def __init__(self, url: str, prefix: str = "model") -> None:
        super().__init__(read_url(url), prefix, 30.0, parts=_CLOCK)
        self.now = 0.0

    def _arguments(self, question: Mapping[str, object]) -> Iterable[object]:
        return [*super()._arguments(question), f"{round((START + self.now) * 1000)}"]

    def flush(self) -> None:
        """Forget everything."""
        self._client.flushdb()

    def stored(self, policy: str = "billing") -> dict[str, Any]:
        """The state of a policy."""
        return self.status(policy)

    def ask(self, questions: Sequence[Mapping[str, object]]) -> list[object]:
        """Rounds, of which none may fail."""
        answers = self.rounds(questions)
        for answer in answers:
            assert not isinstance(answer, Exception), answer
        return answers


class Process:
    """One process: a breaker, a budget, and its place in the fleet."""

    _numbers = itertools.count()

    def __init__(
        self, store: VirtualStore, rng: random.Random, breaker: Breaker | None, budget: Budget | None, quorum: float = 0.5
    ) -> None:
        self.name = f"process{next(self._numbers)}"
        self.store = store
        self.circuit = None if breaker is None else Circuit(breaker, "billing", rng)
        self.ledger = None if budget is None else budget.ledger
        terms = Terms(self.name, quorum, LEASE, 0.1, 5.0)
        self.member = Member("billing", 0, self.circuit, self.ledger, terms, rng)
        self.member.cut_off()
        self.reachable = True
        self.attached = False
        self.running: list[tuple[int, float]] = []  # permits, and when they were given
        self.late: list[tuple[Any, float]] = []  # answers on their way

    # What the agent does, in pieces that may be interleaved.

    def round(self, now: float, *, hinted: bool = True, fate: str = "whole") -> protocol.Answer | None:
        """One round, or a part of it: "unsent", "unanswered", "late", or "whole"."""
        self.deliver(now)
        if not self._deliver_order(now, fate):
            return None
        question = self.member.ask(now, hinted=hinted)
        if question is None:
            return None
        if not self.reachable or fate == "unsent":
            self.lose()
            return None
        self.store.now = now
        (answer,) = self.store.ask([question])
        if fate == "unanswered":
            self.lose()
            return None
        if fate == "late":
            self.late.append((answer, now))
            return None
        return self._learn(answer, now, now)

    def deliver(self, now: float) -> None:
        """Let answers arrive that were on their way."""
        late, self.late = self.late, []
        for answer, asked in late:
            self._learn(answer, asked, now)

    def lose(self) -> None:
        """The store cannot be asked."""
        self.member.cut_off()
        self.attached = False

    def _learn(self, answer: object, asked: float, now: float) -> protocol.Answer:
        checked = protocol.read(answer, now, 1e6)
        assert not checked.ignored, checked.ignored
        self.member.learn(checked, asked, now)
        self.attached = True
        return checked

    def _deliver_order(self, now: float, fate: str) -> bool:
        order = self.member.order(now)
        if order is None:
            return True
        if not self.reachable or fate == "unsent":
            self.lose()
            return False
        self.store.now = now
        answer = self.store.force("billing", *order)
        if fate == "unanswered":
            self.lose()
            return False
        self.member.ordered(order[0], protocol.read_state(answer, now, 1e6))
        return True

    # What its program does.

    def begin(self, now: float) -> bool:
        """Begin a call; False where it is refused."""
        assert self.circuit is not None
        permit = self.circuit.admit(now)
        if permit:
            self.running.append((permit, now))
        return bool(permit)

    def end(self, index: int, good: bool, now: float) -> None:
        """End a call that was begun."""
        assert self.circuit is not None
        permit, began = self.running.pop(index)
        self.circuit.settle(permit, SUCCESS if good else FAILURE, now, now - began)

    def call(self, good: bool, now: float) -> bool:
        """A call that takes no time; False where it is refused."""
        if not self.begin(now):
            return False
        self.end(len(self.running) - 1, good, now)
        return True

    @property
    def probes(self) -> int:
        """How many probes run."""
        return 0 if self.circuit is None else len(self.circuit._probes)

    def lent(self, now: float) -> int:
        """How many probes may run by lease."""
        membership = self.member.membership
        return 0 if membership.cut_off or now >= membership.lent_until else membership.lent
