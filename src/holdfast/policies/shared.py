"""What a breaker and a budget know of the fleet that they belong to: a few numbers, read and written under their own locks.

The fleet's side (`holdfast.fleet`) sets and reads them in the background, so a call never waits for anybody.

A breaker of a fleet:

1. Its probes need leases: at most `lent` run, until `lent_until`. Each probe that ends gives its lease back. While the fleet cannot
   be asked there are no leases, and the process's part of the probes takes their place (`lent_until` is infinite).
2. Where the fleet opened it (`followed` is the fleet's generation), a probe's success is told and the fleet closes. Its failure opens this
   process's own breaker at once, and the fleet decides what that means for the others.
3. Who is cut off from the fleet decides alone, as without one; what was found is told afterwards.

A budget of a fleet spends what it has itself earned since the fleet last heard of it, then what it was lent.
"""

from __future__ import annotations

import math
import weakref
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from holdfast.policies.breaker import Circuit, State
    from holdfast.policies.budget import Ledger

_ROUNDING = 1e-9


class Entry(NamedTuple):
    """A policy that a fleet may share: its name, and what of it is shared."""

    name: str
    circuit: weakref.ref[Circuit] | None
    ledger: weakref.ref[Ledger] | None


# Every such policy of this process, in the order in which they were made. A policy's parts outlive it in what it decorates.
entries: dict[object, Entry] = {}
_numbers = count()


def enlist(name: str, circuit: Circuit | None, ledger: Ledger | None) -> None:
    """Make a policy known to the fleet that this process joins, now or later."""
    if circuit is None and ledger is None:
        return
    # Without a breaker it is the budget that counts: one entry for however many policies of the name spend from it.
    key: object = (name, id(ledger)) if circuit is None else next(_numbers)

    def forget(_: object) -> None:
        entries.pop(key, None)

    entries[key] = Entry(
        name,
        None if circuit is None else weakref.ref(circuit, forget),
        None if ledger is None else weakref.ref(ledger, forget if circuit is None else None),
    )


class Membership:
    """A breaker's place in a fleet. Everything happens under the breaker's lock."""

    __slots__ = ("_ever", "asked", "closed_in", "command", "failed_in", "followed", "lent", "lent_until", "passed_in")

    def __init__(self, lent: int) -> None:
        self.lent = lent  # how many probes may run
        self.lent_until = math.inf  # monotonic seconds; infinite where no leases are needed
        self.asked = 0  # how many calls came since a probe was due, and found no lease for it
        self.followed = 0  # the fleet's generation that opened the breaker; 0 where it opened by itself
        self.passed_in = (0, 0)  # the last generation of the fleet in which probes of ours succeeded, and how many
        self.failed_in = (0, 0)  # and in which they failed
        self.closed_in = 0  # and in which our own were enough, while we were cut off
        self.command: State | None = None  # what people forced here, and the fleet was not told of yet
        self._ever = [0, 0, 0]

    def part(self, followed: int, counted: list[int]) -> None:
        """Join with a past: what was counted before is told already, and the state is that of the fleet's generation `followed`."""
        self.followed = followed
        self._ever = [-before for before in counted]

    @property
    def cut_off(self) -> bool:
        """Whether the fleet cannot be asked."""
        return self.lent_until == math.inf

    def lends(self, running: int, now: float) -> bool:
        """Whether one more probe may run."""
        if running < self.lent and now < self.lent_until:
            return True
        self.asked += 1
        return False

    def given_back(self) -> None:
        """A probe ended: a lease is for one."""
        if not self.cut_off:
            self.lent -= 1

    def passed(self) -> bool:
        """A probe succeeded; whether the breaker counts for itself what is enough to close."""
        self.passed_in = self._one_more(self.passed_in)
        return self.cut_off or not self.followed

    def failed(self) -> None:
        """A probe failed, and the breaker opens."""
        self.failed_in = self._one_more(self.failed_in)

    def _one_more(self, counted: tuple[int, int]) -> tuple[int, int]:
        generation, before = counted
        return (self.followed, before + 1 if generation == self.followed else 1) if self.followed else counted

    def closes(self) -> None:
        """The breaker's own probes were enough."""
        self.closed_in = self.followed

    def entered(self, followed: bool, counted: list[int] | None) -> None:
        """The breaker went to another state.

        Args:
            followed: the fleet's decision still holds.
            counted: what was counted, where it is about to be forgotten.
        """
        if not followed:
            self.followed = 0
        if counted is not None:
            self._ever = [before + more for before, more in zip(self._ever, counted, strict=True)]

    def ever(self, counted: list[int]) -> list[int]:
        """All that was ever counted: calls, failures, slow ones. It only rises."""
        return [before + more for before, more in zip(self._ever, counted, strict=True)]


class Report(NamedTuple):
    """What the fleet is told of a breaker; counts are calls, failures and slow calls."""

    ever: list[int]
    window: list[int]
    shut: bool
    alone: bool
    running: int
    held: int
    asked: int
    passed_in: tuple[int, int]
    failed_in: tuple[int, int]
    closed_in: int


def report(circuit: Circuit, membership: Membership, now: float, give_back: bool) -> Report:
    """Read a breaker of the fleet; `give_back` ends the leases of probes that did not come."""
    with circuit._lock:
        state = circuit.state(now).value
        running = circuit._probes.running(now)
        held = running
        if not membership.cut_off:
            if state == "half-open" and now < membership.lent_until and not give_back:
                held = max(held, membership.lent)
            membership.lent = held
        asked, membership.asked = membership.asked, 0
        ever = membership.ever(circuit._window.counted())
        return Report(
            ever,
            [min(pair) for pair in zip(circuit._window.totals(now), ever, strict=True)],
            state in ("open", "half-open") and not membership.followed,
            state == "half-open" and not membership.followed,
            running,
            held,
            asked,
            membership.passed_in,
            membership.failed_in,
            membership.closed_in,
        )


def follow(circuit: Circuit, membership: Membership, state: State, until: float, pause: float, generation: int, reason: str) -> bool:
    """Go to the state that the fleet is in; whether the breaker did.

    Args:
        circuit: the breaker.
        membership: its place in the fleet.
        state: the fleet's; closed, open or forced.
        until: the moment from which it probes, where it is open.
        pause: seconds for which it was opened.
        generation: the fleet's.
        reason: in words.
    """
    with circuit._lock:
        if membership.command is not None:
            return False  # what somebody forced here a moment ago is yet to be told
        if state.value == "open":
            circuit._pause = pause
            circuit.open_until = until
        circuit._change(state, reason)
        membership.followed = generation if state.value == "open" else 0
        return True


class Purse:
    """A budget's place in a fleet. Everything happens under the budget's lock."""

    __slots__ = ("_before", "_ratio", "cut_off", "floor_part", "lent", "lent_at", "refused", "reported", "spent", "spent_reported")

    def __init__(self, ledger: Ledger, before: list[int]) -> None:
        self._ratio = ledger._ratio
        self._before = before  # calls and retries that were counted here by another process, before a fork
        self.cut_off = True  # the fleet cannot be asked
        self.floor_part = 1.0  # of the fleet's floor, the part that is ours while we are cut off
        self.lent = 0  # retries that the fleet has counted already
        self.lent_at = 0.0  # monotonic seconds
        self.refused = 0  # retries, since the last report
        self.spent = 0  # retries that the fleet has not counted by itself
        self.reported = 0  # calls that the fleet has heard of
        self.spent_reported = 0

    def spend(self, calls: int) -> bool:
        """Ask for a retry, when `calls` calls were ever counted here."""
        if self.left(calls) > self.lent:
            self.spent += 1
        elif self.lent:
            self.lent -= 1
        else:
            self.refused += 1
            return False
        return True

    def left(self, calls: int) -> int:
        """How many retries would be granted."""
        earned = self._ratio * (calls - self._before[0] - self.reported) - (self.spent - self.spent_reported)
        return self.lent + max(0, int(earned + _ROUNDING))


class Terms(NamedTuple):
    """The rule of a budget: retries per call, retries whatever the traffic, and over how many seconds both are counted."""

    ratio: float
    floor: float
    span: float


def terms(ledger: Ledger) -> Terms:
    """The rule of a budget."""
    return Terms(ledger._ratio, ledger._floor, ledger._window.span)


class Account(NamedTuple):
    """What the fleet is told of a budget; counts are calls and retries that the fleet did not count by itself."""

    ever: list[int]
    window: list[int]
    held: int
    refused: int


def account(ledger: Ledger, purse: Purse, now: float) -> Account:
    """Read a budget of the fleet."""
    with ledger._lock:
        refused, purse.refused = purse.refused, 0
        ever = [total - before for total, before in zip(ledger._window.counted(), purse._before, strict=True)]
        window = [min(pair) for pair in zip(ledger._window.totals(now), ever, strict=True)]
        return Account([ever[0], purse.spent], window, purse.lent, refused)
