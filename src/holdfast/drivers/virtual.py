"""The driver for virtual time: thousands of guarded calls of a simulated fleet in one thread, and not a second waited.

A process is a generator that yields what it waits for: seconds, or a ticket until a moment. A dependency is one too, so it can
be slow, wait for other things, and be cut off at its deadline.

    world = World()
    def dependency():
        yield 0.3                          # takes 0.3 s
        return "tax"
    def user():
        answer = yield from run(world, plan, dependency)
    world.spawn(user()); world.run()
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any, Generic, TypeAlias, TypeVar, cast

from holdfast.deadlines import Deadline
from holdfast.errors import Rejected
from holdfast.flow import Call
from holdfast.plan import Plan, Queue, Sleep, Step
from holdfast.policies.places import Ticket
from holdfast.race import Race, falls_back

R = TypeVar("R")

Wait: TypeAlias = "float | Queue"
Process: TypeAlias = Generator[Wait, None, R]
Dependency: TypeAlias = Callable[[], Process[R]]


class Entry:
    """Something to do at a moment; `do` is None once it was called off."""

    __slots__ = ("do", "moment", "order")

    def __init__(self, moment: float, order: int, do: Callable[[], None]) -> None:
        self.moment = moment
        self.order = order
        self.do: Callable[[], None] | None = do

    def __lt__(self, other: Entry) -> bool:
        return (self.moment, self.order) < (other.moment, other.order)


class World:
    """Virtual time and the processes that live in it.

    Args:
        start: monotonic seconds to begin with.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._order = count()
        self._agenda: list[Entry] = []

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    def at(self, moment: float, do: Callable[[], None]) -> Entry:
        """Do something at this moment; what is due at the same one is done in the order of asking."""
        entry = Entry(max(moment, self._now), next(self._order), do)
        if moment < inf:
            heappush(self._agenda, entry)
        return entry

    def spawn(self, process: Process[Any]) -> None:
        """Begin a process now. What it raises in the end is raised by `run`."""
        self.at(self._now, lambda: self._step(process))

    def run(self, until: float = inf) -> None:
        """Let time pass until nothing is left to do, or this moment has come."""
        while self._agenda and self._agenda[0].moment <= until:
            entry = heappop(self._agenda)
            if entry.do is not None:  # what was called off takes no time
                self._now = entry.moment
                entry.do()

    def _step(self, process: Process[Any]) -> None:
        try:
            wait = next(process)
        except StopIteration:
            return
        if isinstance(wait, Queue):
            self._queue(process, wait.ticket, wait.until)
        else:
            self.at(self._now + wait, lambda: self._step(process))

    def _queue(self, process: Process[Any], ticket: Ticket, until: float) -> None:
        timer = self.at(self._now if ticket.permit else until, lambda: self._step(process))

        def wake() -> None:
            if timer.do is not None:
                timer.do = None
                self.at(self._now, lambda: self._step(process))

        ticket.wake = wake


def run(world: World, plan: Plan, dependency: Dependency[R], outer: Deadline | None = None) -> Process[R]:
    """Make a call of `dependency` through the policy; a process to `yield from`."""
    try:
        if plan.hedge is not None:
            return (yield from _race(world, plan, dependency, outer))
        return (yield from _run(world, plan, dependency, outer))
    except Exception as error:
        fallback = falls_back(plan, error, outer)
        if fallback is None:
            raise
        return fallback.answer(error)  # type: ignore[return-value]  # what a fallback answers is the user's to match


def _run(world: World, plan: Plan, dependency: Dependency[R], outer: Deadline | None) -> Process[R]:
    call = Call(plan, world.now(), outer)
    try:
        while True:
            step = call.admit(world.now())
            while step is not None:
                step = yield from _do(world, call, step)
            try:
                result = yield from bounded(world, dependency(), call.limit)
            except BaseException as error:
                delay = call.failed(error, world.now())
                if delay is None:
                    raise
            else:
                delay = call.returned(result, world.now())
                if delay is None:
                    return result
            call.tell()
            if delay > 0:
                yield delay
    finally:
        if call.holds:
            call.abandon(world.now())
        call.tell()


def _do(world: World, call: Call, step: Step) -> Process[Step | None]:
    if isinstance(step, Sleep):
        yield step.seconds
    elif isinstance(step, Queue):
        yield step
    else:
        check = step.config.health_check
        call.checked(bool(check is None or check()), world.now())
        return None
    return call.resume(world.now())


def bounded(world: World, process: Process[R], limit: Deadline | None) -> Process[R]:
    """Run a process until its deadline, and raise DeadlineExceeded in it then."""
    cut = False
    while True:
        try:
            wait = process.throw(limit.exceeded(world.now())) if cut and limit is not None else next(process)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's value is its R
        until = world.now() + wait if isinstance(wait, float | int) else wait.until
        cut = limit is not None and until >= limit.at
        if not cut or limit is None:
            yield wait
        elif isinstance(wait, Queue):
            yield Queue(wait.ticket, limit.at)
            cut = not wait.ticket.permit
        else:
            yield max(0.0, limit.at - world.now())


def _race(world: World, plan: Plan, dependency: Dependency[R], outer: Deadline | None) -> Process[R]:
    race = Race(plan, world.now(), outer)
    rivals = _Rivals(world, race, lambda: run(world, cast(Plan, plan.inner), dependency, race.deadline))
    rivals.start()
    try:
        while True:
            patience = race.patience(world.now())
            yield from rivals.wait(inf if patience is None else world.now() + patience)
            now = world.now()
            if not rivals.ended:
                if patience is not None and race.rival(now):
                    rivals.start()
                continue
            began, result, error = rivals.take()
            if race.ended(error, now - began, now):
                if error is not None:
                    raise error
                return result  # type: ignore[return-value]  # it is an R where no error was reported
    except Rejected:
        race.refused()
        raise
    finally:
        rivals.stop()


class _Rivals(Generic[R]):
    """The attempts of a hedged call."""

    def __init__(self, world: World, race: Race, attempt: Callable[[], Process[R]]) -> None:
        self.ended: list[tuple[float, R | None, BaseException | None]] = []
        self._world = world
        self._race = race
        self._attempt = attempt
        self._running: dict[float, Process[R]] = {}  # by when it began
        self._news = Ticket()

    def start(self) -> None:
        """Begin one more."""
        self._world.spawn(self._run(self._world.now()))

    def wait(self, until: float) -> Process[None]:
        """Wait until one has ended, or for no longer than this."""
        if not self.ended:
            self._news.permit, self._news.wake = 0, None
            yield Queue(self._news, until)

    def take(self) -> tuple[float, R | None, BaseException | None]:
        """The first that has ended: when it began, and what came of it."""
        ended = self.ended.pop(0)
        self._running.pop(ended[0])
        return ended

    def stop(self) -> None:
        """End those that are still at it: they have lost."""
        for began, process in self._running.items():
            process.close()
            self._race.lost(self._world.now() - began, self._world.now())

    def _run(self, began: float) -> Process[None]:
        process = self._running[began] = self._attempt()
        try:
            self.ended.append((began, (yield from process), None))
        except Exception as error:
            self.ended.append((began, None, error))
        except GeneratorExit:
            return
        self._news.permit = 1
        if self._news.wake is not None:
            self._news.wake()
