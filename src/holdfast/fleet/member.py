"""One policy of this process in the fleet: what it says in a round, and what it makes of the answer. No I/O; time is given.

A process speaks when it has something to say: new counts, a probe that ran or is due, retries that were spent or refused. Otherwise it
only asks how things are, ever more rarely.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from holdfast.fleet.protocol import WHY, Answer, FleetState, milliseconds
from holdfast.fleet.rules import Terms, looks_bad, rule_of, unless_cleared
from holdfast.fleet.spending import Spending
from holdfast.policies.breaker import Circuit, State
from holdfast.policies.shared import Account, Membership, Report, follow, report

if TYPE_CHECKING:
    from holdfast.policies.budget import Ledger

# How much of a grown pause jitter may take away; as in a breaker without a fleet.
_JITTER = 0.2
# Rounds between two in which the process also clears away what others left behind.
_SWEEP = 64
_FORCED = (State.FORCED_OPEN, State.FORCED_CLOSED)
_NOTHING: Report = Report([0, 0, 0], [0, 0, 0], False, False, 0, 0, 0, (0, 0), (0, 0), 0)


@dataclass(frozen=True, slots=True)
class Past:
    """What a process had told of a policy, and knew of it, before a fork, or when it left the same fleet.

    Args:
        known: of the fleet.
        calls: what the breaker had counted, of each kind.
        requests: what the budget had counted.
    """

    known: FleetState
    calls: tuple[int, ...] = (0, 0, 0)
    requests: tuple[int, ...] = (0, 0)


NO_PAST = Past(FleetState())


class Member:
    """A policy in the fleet.

    Args:
        name: the policy's.
        number: of the member in its process, which may have several policies of one name, and one after the other.
        circuit: its breaker, where it has one.
        ledger: its budget, where it has one.
        terms: those of the process.
        rng: for jitter.
        past: what is known and told already.
    """

    def __init__(
        self, name: str, number: int, circuit: Circuit | None, ledger: Ledger | None, terms: Terms, rng: Random, past: Past = NO_PAST
    ) -> None:
        self.name = name
        self._id = f"{terms.process}:{number}"
        # Weak: a policy lives as long as its program has it, and not for the fleet's sake.
        self._circuit = None if circuit is None else weakref.ref(circuit)
        self.spending = Spending(ledger, past.requests)
        self.known = FleetState()
        self.seen: Answer | None = None  # the last answer
        self._terms = terms
        self._rng = rng
        self._rounds = 0
        self._said: object = None  # what the last round said that was answered
        self._saying: object = None
        self._leaving = False
        self._peers, self._fewer_since = 1, math.inf  # how many processes there are, and since when fewer were heard of
        self._next = -math.inf  # when it asks, though it has nothing to say
        self._idle = terms.interval
        self._had = 0  # leases at the last round
        self._unused_since = math.inf
        self._order_since = math.inf
        if circuit is not None:
            self._join(circuit, past)

    def _join(self, circuit: Circuit, past: Past) -> None:
        self.membership = Membership(circuit.config.max_probes)
        with circuit._lock:
            state, known = circuit.state(0.0), past.known
            if known.force in ("none", state.value):
                self.known = known
            if state in _FORCED and known.force != state.value:
                self.membership.command = state  # somebody forced it before the process joined
            open_ = state in (State.OPEN, State.HALF_OPEN) and self.known.state == "open"
            self.membership.part(self.known.generation if open_ else 0, unless_cleared(past.calls, circuit._window.counted()))
            circuit.fleet = self.membership

    @property
    def circuit(self) -> Circuit | None:
        """The breaker; None where there is none, or no more."""
        return None if self._circuit is None else self._circuit()

    # Speaking.

    def ask(self, now: float, *, hinted: bool = False, returning: bool = False) -> dict[str, object] | None:
        """The question for the next round; None where there is nothing to say and nothing to ask yet.

        Args:
            now: monotonic seconds.
            hinted: the fleet's state has changed, so there is something to ask.
            returning: it is not known whether the store is there again.
        """
        told = self._report(now)
        paid = self.spending.pay(now, self._leaving)
        saying = (told.ever, told.window[0] > 0, self._bad(told), told.shut, told.passed_in, told.failed_in, told.closed_in, paid.ever)
        busy = told.held or self._had or told.asked or paid.refused or self.spending.back or self._leaving
        if not (busy or hinted or returning or saying != self._said or now >= self._next):
            return None
        self._saying = saying
        self._rounds += 1
        return {
            "policy": self.name,
            "member": self._id,
            "sweep": int(self._rounds % _SWEEP == 0),
            "check": int(returning),
            "leaving": int(self._leaving),
            "peers": self._peers,
            **self._known(now),
            **self._counts(told, paid),
            **self._probing(told),
            **self._rules(),
        }

    def _report(self, now: float) -> Report:
        circuit = self.circuit
        if circuit is None:
            return _NOTHING
        give_back = self._leaving or now - self._unused_since > self._terms.lent_for
        told = report(circuit, self.membership, now, give_back)
        if told.held <= told.running:
            self._unused_since = math.inf
        elif self._unused_since == math.inf:
            self._unused_since = now
        return told

    def _known(self, now: float) -> dict[str, object]:
        known = self.known
        return {
            "generation": known.generation,
            "state": known.state,
            "left": max(0, round((known.ends - now) * 1000)),
            "pause": round(known.pause * 1000),
            "why": known.why,
            "force": known.force,
            "stamp": known.stamp,
        }

    def _counts(self, told: Report, paid: Account) -> dict[str, object]:
        calls, failures, slow = told.ever
        window = dict(zip(("calls", "failures", "slow"), told.window, strict=True))
        return {
            "calls": calls,
            "failures": failures,
            "slow": slow,
            "requests": paid.ever[0],
            "spent": paid.ever[1],
            "window": {**window, "requests": paid.window[0], "retries": paid.window[1]},
            "bad": int(self._bad(told)),
            "shut": int(told.shut),
        }

    def _probing(self, told: Report) -> dict[str, object]:
        circuit = self.circuit
        if circuit is None:
            return {"passed": 0, "failed": 0}
        config, generation = circuit.config, self.known.generation
        passed = told.passed_in[1] if told.passed_in[0] == generation else 0
        failed = told.failed_in[1] if told.failed_in[0] == generation else 0
        wanted = math.ceil(told.asked * (1.0 if config.health_check else config.probe_share))
        return {
            "passed": passed,
            "failed": failed,
            "proven": generation > 0 and told.closed_in == generation,
            "jitter": _JITTER * self._rng.random(),
            "running": told.running,
            "held": told.held,
            "had": self._had,
            "wanted": min(wanted, config.max_probes),
            "alone": told.alone,
        }

    def _bad(self, told: Report) -> bool:
        circuit = self.circuit
        return circuit is not None and looks_bad(circuit.config, told.window)

    def _rules(self) -> dict[str, object]:
        circuit = self.circuit
        if circuit is None:
            return self.spending.rules(self._leaving)
        rule = {**rule_of(circuit.config), "quorum": self._terms.quorum, "lease": milliseconds(self._terms.lent_for)}
        return {"rule": rule, **self.spending.rules(self._leaving)}

    # Learning.

    def learn(self, answer: Answer, asked: float, now: float) -> None:
        """Take the answer to the last question.

        Args:
            answer: checked by `protocol.read`.
            asked: when the question was sent; leases count from there, so they end here before they end in the store.
            now: monotonic seconds.
        """
        quiet = self._saying == self._said
        self._said, self.seen = self._saying, answer
        self._idle = min(self._terms.idle, 2 * (self._idle if quiet else self._terms.interval))
        self._next = now + self._idle
        self._count_peers(answer.processes, now)
        circuit = self.circuit
        if circuit is not None and answer.state is not None:
            self._follow(circuit, answer.state)
            with circuit._lock:
                self.membership.lent = min(answer.probes, circuit.config.max_probes)
                self.membership.lent_until = asked + self._terms.lent_for
            self._had = answer.probes
        if answer.budget is not None:
            self.spending.take(answer.budget, asked)

    def _count_peers(self, heard: int, now: float) -> None:
        # A store that forgot the fleet hears of it again process by process: fewer are believed when all had the time to come back.
        self._fewer_since = math.inf if heard >= self._peers else min(self._fewer_since, now)
        if heard > self._peers or now - self._fewer_since >= 2 * self._terms.idle:
            self._peers, self._fewer_since = max(1, heard), math.inf

    def _follow(self, circuit: Circuit, state: FleetState) -> None:
        # Orders and states are each taken where they are later than what is known: answers may come late, from a store that forgot.
        known = self.known
        if self.membership.command is not None:
            return  # what somebody forced here a moment ago is yet to be told
        ordered, moved = state.stamp > known.stamp, state.generation > known.generation
        later = state if moved else known
        later = replace(later, force=(state if ordered else known).force, stamp=max(state.stamp, known.stamp))
        if later.force != "none":
            moves, target = ordered, State(later.force)
        elif ordered:
            moves, target = known.generation > 0 or later.state == "open" or circuit.state(0.0) in _FORCED, State(later.state)
        else:
            moves, target = moved and (later.state == "open" or self.membership.followed > 0), State(later.state)
        if moves and target is State.CLOSED and not ordered and self.membership.failed_in[0] == known.generation:
            # The others' probes were well and ours was not: it stays open here, and is this process's own from now on.
            with circuit._lock:
                self.membership.followed = 0
            moves = False
        if moves and not follow(circuit, self.membership, target, later.ends, later.pause, later.generation, WHY[state.why]):
            return
        self.known = later

    # Orders of people, and being alone.

    def order(self, now: float) -> tuple[str, float] | None:
        """What somebody forced here and the fleet was not told of yet, and how many seconds ago."""
        if self.circuit is None or self.membership.command is None:
            self._order_since = math.inf
            return None
        self._order_since = min(self._order_since, now)
        command = self.membership.command
        return ("none" if command is State.CLOSED else command.value), now - self._order_since

    def ordered(self, force: str, state: FleetState) -> None:
        """The fleet was told of `force`, and answered which state holds now."""
        circuit = self.circuit
        if circuit is None:
            return
        with circuit._lock:
            command = self.membership.command
            if command is not None and ("none" if command is State.CLOSED else command.value) == force:
                self.membership.command = None
        self._order_since = math.inf
        self._follow(circuit, state)

    def cut_off(self) -> None:
        """The store cannot be asked: the process goes on with its own counts, and its part of what the fleet had."""
        circuit = self.circuit
        if circuit is not None:
            with circuit._lock:
                self.membership.lent = max(1, circuit.config.max_probes // self._peers)
                self.membership.lent_until = math.inf
        self.spending.cut_off(self._peers)

    def farewell(self) -> None:
        """The next round is the last one, and gives back what was lent."""
        self._leaving = True

    def past(self) -> Past:
        """What is known and told, for the child of a fork."""
        circuit = self.circuit
        calls: list[int] = []
        if circuit is not None:
            with circuit._lock:
                calls = circuit._window.counted()
        return Past(self.known, tuple(calls), tuple(self.spending.counted()))

    def leave(self) -> Past:
        """The process leaves the fleet: breaker and budget are its own again, in the state in which they are.

        Returns:
            What is told already, and the order that holds, should it join again.
        """
        past, circuit, self._circuit = self.past(), self.circuit, None
        if circuit is not None:
            with circuit._lock:
                circuit.fleet = None
        self.spending.leave()
        return replace(past, known=FleetState(force=self.known.force, stamp=self.known.stamp))
