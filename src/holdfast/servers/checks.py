"""Checks of what a server needs, asked by probes: bounded, and cached, so that probes cannot become a load.

1. A check has `timeout` seconds. Its result counts for `every` seconds, however many ask meanwhile.
2. One asks, the others get the last result. Only where there is none yet do they wait.
3. A check that hangs past its time is down, and is not begun again before it ends: it hangs once, and not once per probe.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import isawaitable, iscoroutinefunction
from typing import TYPE_CHECKING, TypeAlias, cast

from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded
from holdfast.policy import Policy
from holdfast.scope import carry, deadline
from holdfast.servers.loops import sleep, together

if TYPE_CHECKING:
    from collections.abc import Sequence

# How often somebody who waits for another's answer looks for it.
_LOOK = 0.01

Ask: TypeAlias = Callable[[], "object | Awaitable[object]"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a check said.

    Args:
        up: whether what it looks at can be used.
        took: seconds.
        error: the class of what it raised, "no" where it returned False, "timeout"; empty where it is up.
    """

    up: bool
    took: float
    error: str = ""


class Check:
    """One check and its last result."""

    def __init__(self, name: str, ask: Ask, timeout: float, every: float) -> None:
        self.name = name
        self.is_async = iscoroutinefunction(ask)
        self._ask = ask
        self._timeout = timeout
        self._every = every
        self._result: Result | None = None
        self._asked = 0.0
        self._running: threading.Event | None = None
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In a child: the thread that asks is not here."""
        self._lock = threading.Lock()
        self._running = None

    def _cached(self, now: float) -> Result | None:
        if self._result is not None and now - self._asked < self._every:
            return self._result
        if self._running is not None and now - self._asked >= self._timeout:
            return Result(False, now - self._asked, "timeout")
        return self._result if self._running is not None else None

    def begin(self) -> threading.Event | None:
        """Ask, in a thread, where the last result is too old; what is waited for, or None."""
        with self._lock:
            now = clock.now()
            if self._cached(now) is not None:
                return None
            if self._running is None:
                self._asked = now
                self._running = threading.Event()
                name = f"holdfast-check-{self.name}"
                threading.Thread(target=carry(self._run), args=(self._running,), name=name, daemon=True).start()
            return self._running

    def _run(self, ended: threading.Event) -> None:
        began = clock.now()
        try:
            with deadline(self._timeout):
                result = self._read(self._ask(), began)
        except BaseException as error:
            result = Result(False, clock.now() - began, type(error).__name__)
        with self._lock:
            self._result = result
            self._running = None
        ended.set()

    def _read(self, said: object, began: float) -> Result:
        return Result(said is not False, clock.now() - began, "no" if said is False else "")

    def result(self) -> Result:
        """The last one, or that there is none in time."""
        with self._lock:
            return self._cached(clock.now()) or self._result or Result(False, self._timeout, "timeout")

    async def aresult(self) -> Result:
        """Ask an async check where the last result is too old."""
        while True:
            now = clock.now()
            cached = self._cached(now)
            if cached is not None:
                return cached
            if self._running is None:
                self._asked = now
                self._running = threading.Event()
                return await self._arun()
            await sleep(_LOOK)  # somebody asks, and there is no result yet that could be given meanwhile

    async def _arun(self) -> Result:
        began = clock.now()
        try:
            async with deadline(self._timeout):
                said = self._ask()
                result = self._read(await said if isawaitable(said) else said, began)
        except DeadlineExceeded:
            result = Result(False, clock.now() - began, "timeout")
        except Exception as error:
            result = Result(False, clock.now() - began, type(error).__name__)
        finally:
            self._running = None
        self._result = result
        return result


class Checks:
    """All checks of a server."""

    def __init__(self, given: Mapping[str, Ask | Policy] | Sequence[Ask | Policy], timeout: float, every: float) -> None:
        named = given.items() if isinstance(given, Mapping) else [(_name(one), one) for one in given]
        self._checks = [Check(name, _asking(one), timeout, every) for name, one in named]
        self._timeout = timeout

    @property
    def has_async(self) -> bool:
        """Whether any can only be asked in an event loop."""
        return any(check.is_async for check in self._checks)

    def look(self) -> dict[str, Result]:
        """What all of them say, after `timeout` seconds at most."""
        return self._gather([check for check in self._checks if not check.is_async])

    async def alook(self) -> dict[str, Result]:
        """The same in an event loop. Blocking ones run in threads of their own, and nobody waits for them in one of the event loop's:
        all of these may be busy, and a probe that is not answered is a server that is killed.
        """
        blocking = [check for check in self._checks if not check.is_async]
        awaited = [check for check in self._checks if check.is_async]
        found = await together([check.aresult for check in awaited])
        results = dict(zip((check.name for check in awaited), found, strict=True))
        until = clock.now() + self._timeout
        running = [one for one in [check.begin() for check in blocking] if one is not None]
        while not all(one.is_set() for one in running) and clock.now() < until:
            await sleep(_LOOK)
        results |= {check.name: check.result() for check in blocking}
        return {check.name: results[check.name] for check in self._checks}

    def _gather(self, checks: Iterable[Check]) -> dict[str, Result]:
        checks = list(checks)
        until = clock.now() + self._timeout
        for running in [check.begin() for check in checks]:
            if running is not None:
                running.wait(max(0.0, until - clock.now()))
        return {check.name: check.result() for check in checks}

    def after_fork(self) -> None:
        """In a child: see `Check`."""
        for check in self._checks:
            check.after_fork()


def _name(one: Ask | Policy) -> str:
    return one.name if isinstance(one, Policy) else str(getattr(one, "__qualname__", type(one).__qualname__))


def _asking(one: Ask | Policy) -> Ask:
    if not isinstance(one, Policy):
        if not callable(cast("object", one)):
            raise TypeError(f"Readiness.checks must be functions or policies, got {one!r}")
        return one
    breaker = one.breaker  # a policy without one is always up, and an AttributeError here

    def is_not_open() -> bool:
        return breaker.state not in {"open", "forced-open"}

    return is_not_open
