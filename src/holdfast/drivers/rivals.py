"""Hedged blocking calls: the attempts are futures of an executor that the user gives, and whoever called waits for what they come to."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from holdfast.deadlines import Deadline, ambient
from holdfast.drivers.clock import Clock, current
from holdfast.errors import Rejected
from holdfast.plan import Plan
from holdfast.race import Race

R = TypeVar("R")


def race(plan: Plan, outer: Deadline | None, once: bool, attempt: Callable[[], Callable[[], R]]) -> R:
    """Make a hedged call.

    Args:
        plan: the policy.
        outer: the ambient deadline of the caller.
        once: whether doing it twice would do harm: no rival is started.
        attempt: prepares one attempt; what it returns makes it, in the executor. Those that are beaten run to their end there.
    """
    executor = plan.hedge.executor if plan.hedge is not None else None
    if executor is None:
        raise TypeError(f"{plan.name}: hedging a blocking call needs threads to run in; give Hedge(executor=...)")
    clock = current.get()
    race = Race(plan, clock.now(), outer, once)
    began: dict[Future[R], float] = {}

    def start() -> None:
        context = contextvars.copy_context()
        context.run(ambient.set, race.deadline)
        began[executor.submit(context.run, attempt())] = clock.now()

    try:
        start()
        while True:
            done = _ended(began, race, clock)
            now = clock.now()
            if not done and race.rival(now):
                start()
            while done:
                ended = done.pop()
                if race.ended(ended.exception(), now - began.pop(ended), now):
                    return ended.result()
    except Rejected:
        race.refused()
        raise
    finally:
        done = ended = None  # type: ignore[assignment]  # an error's traceback holds this frame: no ring of the two
        now = clock.now()
        for future, since in began.items():
            future.cancel()
            race.lost(now - since, now)


def _ended(began: dict[Future[R], float], race: Race, clock: Clock) -> set[Future[R]]:
    """Wait for attempts to end: those that have, or none where a rival is due first."""
    limit = race.deadline
    while True:
        now = clock.now()
        patience = race.patience(now)
        look = None if limit is None else max(0.0, limit.look_at(now) - now)
        due = patience is not None and (look is None or patience <= look)
        done, _ = wait(began, patience if due else look, FIRST_COMPLETED)
        if done or due:
            return done
        if limit is not None:
            limit.check(clock.now())
