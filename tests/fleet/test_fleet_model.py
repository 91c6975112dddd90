"""Interleavings: processes that call, probe, crash, are cut off and come back, answers that are lost or late, a store that is flushed.

Each run draws what happens from its seed, and runs the real breakers, the real rounds and the real scripts. `HOLDFAST_FLEET_RUNS=10000`
is the full size; `HOLDFAST_FLEET_SEED` replays one run.
"""

from __future__ import annotations

import os
import random

import pytest
from fleet_world import LEASE, Process, VirtualStore

from holdfast import Breaker, Budget
from holdfast.policies.breaker import State
from holdfast.replay.parts.redis import redis_server

RUNS = int(os.environ.get("HOLDFAST_FLEET_RUNS", "150"))
STEPS = 60
RATIO, FLOOR_PER_SECOND, SPAN = 0.2, 1.0, 4.0


def breaker(rng: random.Random) -> Breaker:
    return Breaker(
        min_calls=rng.choice([2, 5, 12]),
        window=rng.choice([1.0, 8.0]),
        open_for=rng.choice([0.3, 1.0]),
        open_for_max=4.0,
        max_probes=rng.choice([1, 2, 4]),
        probes_to_close=rng.choice([1, 3]),
        probe_share=rng.choice([0.3, 1.0]),
        consecutive=rng.choice([None, 3]),
    )


class Run:
    """One run of the model."""

    def __init__(self, store: VirtualStore, seed: int) -> None:
        self.rng = random.Random(seed)
        self.store = store
        store.flush()
        self.rule = breaker(self.rng)
        self.now = 100.0
        self.flushes = 0
        self.lost_rounds = 0
        self.epochs: dict[Process, int] = {}  # flushes at the last answer
        self.seen: dict[Process, tuple[int, int]] = {}
        self.calls = self.retries = self.started = 0
        self.processes = [self.new() for _ in range(self.rng.choice([2, 3, 5]))]
        self.health = 1.0

    def new(self) -> Process:
        self.started += 1
        budget = Budget(ratio=RATIO, min_per_second=FLOOR_PER_SECOND, window=SPAN)
        return Process(self.store, self.rng, self.rule, budget)

    # Steps.

    def step(self) -> None:
        self.now += self.rng.choice([0.002, 0.02, 0.1, 0.1, 0.5])
        process = self.rng.choice(self.processes)
        steps = [self.call, self.begin, self.end, self.round, self.weather, self.cut, self.crash, self.flush, self.force, self.retry]
        self.rng.choices(steps, weights=[12, 5, 6, 16, 2, 2, 1, 0.5, 1.2, 4])[0](process)

    def call(self, process: Process) -> None:
        for _ in range(self.rng.randint(1, 6)):
            process.call(self.rng.random() < self.health, self.now)

    def begin(self, process: Process) -> None:
        process.begin(self.now)

    def end(self, process: Process) -> None:
        if process.running:
            process.end(self.rng.randrange(len(process.running)), self.rng.random() < self.health, self.now)

    def round(self, process: Process, fate: str = "") -> None:
        fates = ["whole"] * 8 + ["unsent", "unanswered", "late"]
        fate = fate or self.rng.choice(fates)
        self.lost_rounds += fate in {"unsent", "unanswered"} or not process.reachable
        running = process.probes
        had = process.lent(self.now)
        answer = process.round(self.now, hinted=self.rng.random() < 0.5 or fate == "whole", fate=fate)
        if answer is None:
            return
        self.epochs[process] = self.flushes
        if process.lent(self.now) > max(running, had):
            self.check_leases()

    def check_leases(self) -> None:
        """Whenever a lease is given, no more than allowed are out; a flushed store knows of those that were renewed since."""
        out = sum(process.lent(self.now) for process in self.processes if self.epochs.get(process) == self.flushes and not process.late)
        assert out <= self.rule.max_probes, f"{out} leases"

    def weather(self, _: Process) -> None:
        self.health = self.rng.choice([0.0, 0.5, 1.0])

    def cut(self, process: Process) -> None:
        process.reachable = not process.reachable

    def crash(self, process: Process) -> None:
        self.processes.remove(process)
        self.processes.append(self.new())

    def flush(self, _: Process) -> None:
        self.store.flush()
        self.flushes += 1

    def force(self, process: Process) -> None:
        assert process.circuit is not None
        process.circuit.force(self.rng.choice([State.FORCED_OPEN, State.FORCED_CLOSED, State.CLOSED]))

    def retry(self, process: Process) -> None:
        assert process.ledger is not None
        for _ in range(self.rng.randint(1, 10)):
            process.ledger.deposit(self.now)
            self.calls += 1
            for _ in range(2):
                self.retries += process.ledger.withdraw(self.now)

    # What must hold.

    def check(self) -> None:
        for process in self.processes:
            known = process.member.known
            before = self.seen.get(process, (0, 0))
            assert known.generation >= before[0], "a generation went backwards"
            assert known.stamp >= before[1], "an order was undone by an older one"
            self.seen[process] = (known.generation, known.stamp)
            circuit = process.circuit
            assert circuit is not None
            if known.force != "none" and process.member.membership.command is None:
                assert circuit._state.value == known.force, "a forced state was lost"
        elapsed = self.now - 100.0
        # A process that has not been heard of yet, every loss of contact, and a flush may hand the floor out once more; see docs/fleet.md.
        floors = 1 + elapsed / SPAN + self.started + self.lost_rounds + self.flushes * len(self.processes)
        assert self.retries <= RATIO * self.calls * 2 + FLOOR_PER_SECOND * SPAN * floors

    def heal(self) -> None:
        """Everybody can be reached, and the dependency is well: the fleet agrees, on the last order that anybody remembers."""
        self.health = 1.0
        for process in self.processes:
            process.reachable = True
            while process.running:
                process.end(0, True, self.now)
        newest = max((process.member.known.stamp, process.member.known.force) for process in self.processes)
        for _ in range(400):
            self.now += 0.1
            for process in self.processes:
                self.round(process, "whole")
                process.call(True, self.now)
                process.call(True, self.now)
            self.check()
            if self.agreed():
                break
        assert self.agreed(), [(p.circuit._state, p.member.known, p.member.membership.command) for p in self.processes if p.circuit]
        final = self.processes[0].member.known
        assert final.stamp >= newest[0], "somebody remembered a later order"
        assert final.stamp > newest[0] or final.force == newest[1], "the order is not what it was"

    def agreed(self) -> bool:
        known = {(process.member.known.generation, process.member.known.stamp) for process in self.processes}
        stored = self.store.stored()
        states = {process.circuit._state for process in self.processes if process.circuit}
        wanted = State(stored["force"]) if stored["force"] != "none" else State.CLOSED
        return len(known) == 1 and states == {wanted} and (stored["force"] != "none" or stored["state"] == "closed")


def run(store: VirtualStore, seed: int) -> None:
    model = Run(store, seed)
    for _ in range(STEPS):
        model.step()
        model.check()
    model.now += LEASE  # what crashed is given up on
    model.heal()


@pytest.mark.timeout(0)
def test_the_invariants_hold_whatever_happens_in_whatever_order() -> None:
    """The probe bound, the order of generations, the bound of the budget, and no forced state that is lost while somebody knows it."""
    seeds = [int(os.environ["HOLDFAST_FLEET_SEED"])] if "HOLDFAST_FLEET_SEED" in os.environ else range(RUNS)
    with redis_server() as redis:
        store = VirtualStore(redis.url)
        for seed in seeds:
            try:
                run(store, seed)
            except BaseException as error:
                error.add_note(f"HOLDFAST_FLEET_SEED={seed}")
                raise
        store.close()


def test_a_round_that_is_repeated_counts_once() -> None:
    with redis_server() as redis:
        store = VirtualStore(redis.url)
        rng = random.Random(1)
        process = Process(store, rng, Breaker(min_calls=100), None)
        process.round(1.0)
        for _ in range(5):
            process.call(True, 1.0)
        process.round(1.1, fate="unanswered")
        process.round(1.2, fate="unanswered")
        process.round(1.3)
        assert store.stored()["calls"] == 5
        store.close()
