"""Which calls may pass a half-open breaker: a share of them, never more than so many at once, and in a fleet only with its lease."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from holdfast.policies.breaker import Breaker
    from holdfast.policies.shared import Membership

_NO_PROBE = (-1, 0.0)  # of no generation


class Probes:
    """The probes of one breaker. Everything happens under the breaker's lock.

    Args:
        config: the breaker's rules.
    """

    __slots__ = ("_config", "_credit", "_number", "_running")

    def __init__(self, config: Breaker) -> None:
        self._config = config
        self._number = 0
        self._running: dict[int, tuple[int, float]] = {}  # of each, the generation and the beginning
        self.begin()

    def __len__(self) -> int:
        return len(self._running)

    def admit(self, generation: int, fleet: Membership | None, now: float) -> int:
        """Ask to be one: its number, or 0."""
        if self.running(now) >= self._config.max_probes or not self._is_its_turn():
            return 0
        if fleet is not None and not fleet.lends(len(self._running), now):
            self.pass_on()
            return 0
        self._number -= 1  # below zero, so it is never a generation
        self._running[self._number] = (generation, now)
        return self._number

    def end(self, number: int, fleet: Membership | None) -> int:
        """One has come back: the generation that it began in, or -1 where it is none."""
        generation, _ = self._running.pop(number, _NO_PROBE)
        if fleet is not None and generation >= 0:
            fleet.given_back()
        return generation

    def generation(self, number: int) -> int:
        """The generation that one began in, -1 where it does not run."""
        return self._running.get(number, _NO_PROBE)[0]

    def running(self, now: float) -> int:
        """How many there are at `now`.

        Those of an earlier half-open state that still hang burden the dependency as well. One that has not come back for the longest pause
        is given up on: it must not keep the breaker from probing for ever.
        """
        given_up = now - cast("float", self._config.open_for_max)
        for number, (_, began) in tuple(self._running.items()):
            if began <= given_up:
                del self._running[number]
        return len(self._running)

    def begin(self) -> None:
        """A half-open state begins: its first call is one."""
        self._credit = 1.0 - self._config.probe_share

    def pass_on(self) -> None:
        """One said nothing, or had no lease: its turn goes to the next call."""
        self._credit = 1.0

    def forget(self) -> None:
        """In the child of a fork: they are its parent's."""
        self._running.clear()

    def _is_its_turn(self) -> bool:
        # Carrying the remainder makes a share of 5 % exactly every twentieth call; drawing at random would not, and low
        # traffic would wait long for its first probe. The credit stops at one: waiting does not save up probes.
        if self._config.health_check is not None:
            return True
        self._credit += self._config.probe_share
        if self._credit < 1.0 - 1e-9:
            return False
        self._credit -= 1.0
        return True
