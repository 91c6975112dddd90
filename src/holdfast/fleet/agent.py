"""One background thread per process: it does the rounds and listens for changes.

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
from collections.abc import Mapping
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING

from holdfast.fleet.dialogue import IDLE_DEAF, Dialogue, Settings
from holdfast.fleet.redis import is_forbidden
from holdfast.scope import deadline

if TYPE_CHECKING:
    from holdfast.fleet import FleetSnapshot, PolicyInFleet
    from holdfast.fleet.member import Past

# How often the thread looks whether it is to end, and the shortest time between two rounds because of a change.
_SLICE = 0.25
_LEAST_GAP = 0.01
_SPREAD = 0.1  # of the interval, so that processes that were started together do not go on together


class Agent:
    """The fleet's side of one process.

    Args:
        settings: of the fleet.
        past: what the process had told of its policies when it left the same fleet.
    """

    def __init__(self, settings: Settings, past: Mapping[object, Past]) -> None:
        self.settings = settings
        self._closing = False
        self._is_broken = False
        self._begin(past)

    def _begin(self, past: Mapping[object, Past]) -> None:
        self._rng = random.Random()
        self._wake = Event()
        self._hints: set[str] = set()
        self._dialogue = Dialogue(self.settings, self._rng)
        self._dialogue.roster.resume(past)
        self._thread = Thread(target=self._run, name="holdfast-fleet", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        _agents.add(self)

    def close(self) -> dict[object, Past]:
        """End the thread, after one last round if the store answers; policies are local again.

        Returns:
            What was told, for when the process joins again.
        """
        _agents.discard(self)
        self._closing = True
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2 * self.settings.timeout + _SLICE + 1.0)
        past = self._dialogue.roster.dissolve()
        return past if self._dialogue.connected else {}

    def again_in_child(self) -> None:
        """After a fork: a process of its own, with connections of its own, which knows what its parent knew."""
        self._begin(self._dialogue.roster.past())
        self._thread.start()

    def snapshot(self) -> FleetSnapshot:
        """See `holdfast.fleet.snapshot`."""
        policies: dict[str, PolicyInFleet] = {}
        for member in self._dialogue.members:
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
        since = self._dialogue.away_since
        return {"connected": self._dialogue.connected, "away": None if since is None else monotonic() - since, "policies": policies}

    # The thread.

    def _run(self) -> None:
        while not self._closing:
            began = monotonic()
            try:
                self._dialogue.roster.enlist()
                hints, self._hints = self._hints, set()
                self._dialogue.round(began, hints)
            except Exception as error:
                self._broken(error)
            pause = self.settings.interval * self._rng.uniform(1 - _SPREAD, 1 + _SPREAD)
            self._rest(began + pause)
        self._dialogue.last_words()

    def _rest(self, until: float) -> None:
        """Wait for the next round, or until the fleet's state changes."""
        while not self._closing and not self._hints and not self._wake.is_set():
            left = until - monotonic()
            if left <= 0:
                return
            hears = self._dialogue.connected and monotonic() >= self._dialogue.deaf_until
            if not (hears and self._listen(min(left, _SLICE))):
                self._wake.wait(min(left, _SLICE))
        self._wake.clear()
        if self._hints and not self._closing:
            self._wake.wait(_LEAST_GAP)

    def _listen(self, seconds: float) -> bool:
        store = self._dialogue.store
        try:
            with deadline(seconds + self.settings.timeout):
                store.listen()
                self._hints.update(store.changes(seconds))
        except Exception as error:
            # The rounds say whether the store is there. Without its word of changes they are only learnt of a little later.
            self._dialogue.deaf_until = monotonic() + IDLE_DEAF
            if is_forbidden(error):
                self._dialogue.ignored("", "the user may not subscribe to the fleet's channel")
            return False
        return True

    def _broken(self, error: Exception) -> None:
        """A bug in here must not end the thread: policies go on alone, and it is reported once."""
        for member in self._dialogue.members:
            member.cut_off()
        if not self._is_broken:
            self._is_broken = True
            error.add_note("raised in the background of holdfast.fleet; it goes on, its later errors are not reported")
            sys.excepthook(type(error), error, error.__traceback__)


# Which agents are to begin again in the child of a fork.
_agents: weakref.WeakSet[Agent] = weakref.WeakSet()


def _in_child() -> None:
    for agent in list(_agents):
        agent.again_in_child()


# Registered after the locks' own hook, and so called after it: the thread finds locks that are free.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
