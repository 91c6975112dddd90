"""Processes of a fleet for tests: each does what it is told, one command at a time, with a policy of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from holdfast import Backoff, Breaker, BreakerOpen, Budget, Policy, Retry, events, fleet
from stopwatch import Stopwatch

INTERVAL = 0.05
PATIENT = 5.0  # where it is not time-outs that tell of a loss, a busy machine is to cause none
FLEET = ("BreakerChanged", "FleetLost", "FleetBack", "FleetIgnored")

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["holdfast.fleet.agent"])


def until(true: Callable[[], Any], seconds: float = 10.0, what: str = "") -> Any:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} s: {what or true}"
        time.sleep(0.005)


class World:
    """What a process has: a policy, and what happened to it."""

    def __init__(self, breaker: dict[str, Any] | None, budget: dict[str, Any] | None, running: Any, options: dict[str, Any]) -> None:
        self.told: list[Any] = []
        events.subscribe(lambda event: self.told.append(event) if type(event).__name__ in FLEET else None)
        retry = None if budget is None else Retry(attempts=3, backoff=Backoff(base=0.0), budget=Budget(**budget))
        self.policy = Policy("billing", breaker=None if breaker is None else Breaker(**breaker), retry=retry, **options)
        self.running = running
        self.failing = False
        self.takes = 0.0
        self.most = 0
        self.attempts = 0
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def dependency(self) -> str:
        """What the calls go to."""
        self.attempts += 1
        with self.running.get_lock():
            self.running.value += 1
            self.most = max(self.most, self.running.value)
        try:
            if self.takes:
                time.sleep(self.takes)
            if self.failing:
                raise ConnectionError("down")
            return "ok"
        finally:
            with self.running.get_lock():
                self.running.value -= 1

    def call(self) -> str:
        try:
            outcome = self.policy.call(self.dependency)
        except ConnectionError:
            outcome = "failed"
        except BreakerOpen:
            outcome = "refused"
        except BaseException as error:
            outcome = f"raised {type(error).__name__}"
        self.outcomes[outcome] += 1
        return outcome

    def calls(self, number: int, pause: float = 0.0) -> dict[str, int]:
        found = Counter()
        for _ in range(number):
            found[self.call()] += 1
            if pause:
                time.sleep(pause)
        return dict(found)

    def pump(self, threads: int = 1, pause: float = 0.005) -> None:
        """Call and call again, in the background."""

        def run() -> None:
            while not self._stop.wait(pause):
                watch = Stopwatch()
                self.call()
                self.slowest = max(self.slowest, watch.took)

        self._stop.clear()
        self._threads = [threading.Thread(target=run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> dict[str, int]:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return dict(self.outcomes)

    def when_refused(self, seconds: float = 10.0) -> float:
        """The moment of the first refusal."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.policy.breaker.state == "open":
                return time.monotonic()
            time.sleep(0.001)
        return float("inf")


def _main(pipe: Any, url: str, breaker: Any, budget: Any, running: Any, options: Any, connect: Any) -> None:
    world = World(breaker, budget, running, options)
    if url:
        fleet.connect(url, **{"interval": INTERVAL, "timeout": PATIENT, **connect})
    pipe.send("ready")
    while True:
        command = pipe.recv()
        if command is None:
            fleet.disconnect()
            pipe.send("bye")
            return
        work, arguments = command
        try:
            pipe.send((True, work(world, *arguments)))
        except BaseException as error:
            pipe.send((False, repr(error)))


class Host:
    """A process of the fleet, seen from the test."""

    def __init__(
        self,
        url: str,
        *,
        breaker: dict[str, Any] | None = None,
        budget: dict[str, Any] | None = None,
        running: Any = None,
        options: dict[str, Any] | None = None,
        **connect: Any,
    ) -> None:
        self._pipe, theirs = _context.Pipe()
        running = running or _context.Value("i", 0)
        self.process = _context.Process(target=_main, args=(theirs, url, breaker, budget, running, options or {}, connect), daemon=True)
        self.process.start()
        theirs.close()

    def ready(self) -> None:
        assert self._pipe.poll(30), "the process did not start"
        assert self._pipe.recv() == "ready"

    def send(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Begin something; `answer` ends it."""
        self._pipe.send((work, arguments))

    def answer(self, seconds: float = 60.0) -> Any:
        assert self._pipe.poll(seconds), "the process does not answer"
        done, value = self._pipe.recv()
        assert done, value
        return value

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        self.send(work, *arguments)
        return self.answer()

    def end(self) -> None:
        if self.process.is_alive():
            with contextlib.suppress(OSError):
                self._pipe.send(None)
            self.process.join(10)
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def hosts(number: int, url: str, **options: Any) -> Iterator[list[Host]]:
    """Processes of one fleet, each of which has done its first round."""
    running = _context.Value("i", 0)
    made = [Host(url, running=running, **options) for _ in range(number)]
    try:
        for host in made:
            host.ready()
        if url and options.get("options", {}).get("shared", True):
            for host in made:
                until(lambda host=host: host.do(is_connected), what="the first round")
        yield made
    finally:
        for host in made:
            host.end()


# Commands.


def is_connected(_: World) -> bool:
    return bool(fleet.snapshot()["connected"] and fleet.snapshot()["policies"])


def state(world: World) -> str:
    return world.policy.breaker.state


def calls(world: World, number: int, pause: float = 0.0) -> dict[str, int]:
    return world.calls(number, pause)


def set_failing(world: World, failing: bool, takes: float = 0.0) -> None:
    world.failing, world.takes = failing, takes


def pump(world: World, threads: int = 1, pause: float = 0.005) -> None:
    world.pump(threads, pause)


def stop(world: World) -> dict[str, int]:
    return world.stop()


def told(world: World, kind: str = "") -> list[Any]:
    return [event for event in world.told if kind in {"", type(event).__name__}]


def most_running(world: World) -> int:
    return world.most


def slowest(world: World) -> float:
    return world.slowest


def attempts(world: World) -> int:
    return world.attempts


def when_refused(world: World) -> float:
    return world.when_refused()


def force(world: World, what: str) -> None:
    getattr(world.policy.breaker, what)()


def snapshot(_: World) -> Any:
    return fleet.snapshot()


def policy_snapshot(world: World) -> Any:
    return world.policy.snapshot()


def disconnect(_: World) -> None:
    fleet.disconnect()
