"""The policies of this process that are in the fleet."""

from __future__ import annotations

from random import Random

from holdfast.fleet.member import Member
from holdfast.fleet.protocol import FleetState
from holdfast.fleet.rules import Terms
from holdfast.policies import shared


class Roster:
    """The members, kept in step with the policies that there are.

    Args:
        terms: those of the process.
        rng: for jitter.
    """

    def __init__(self, terms: Terms, rng: Random) -> None:
        self.members: dict[object, Member] = {}
        self._terms = terms
        self._rng = rng

    def enlist(self, known: dict[object, FleetState] | None = None) -> None:
        """Take in the policies that were made since, and let go of those that are gone."""
        entries = list(shared.entries.items())
        budgets = {id(member.ledger) for member in self.members.values()}
        alive = set()
        for key, entry in entries:
            alive.add(key)
            if key in self.members:
                continue
            circuit = entry.circuit() if entry.circuit is not None else None
            ledger = entry.ledger() if entry.ledger is not None else None
            if id(ledger) in budgets:
                ledger = None  # it is shared by policies, and has the name of the first
            budgets.add(id(ledger))
            if circuit is not None or ledger is not None:
                self.members[key] = Member(entry.name, circuit, ledger, self._terms, self._rng, (known or {}).get(key))
        gone = [self.members.pop(key) for key in self.members.keys() - alive]
        for member in gone:
            member.leave()
        orphans = {id(member.ledger) for member in gone if member.ledger is not None}
        for key, entry in entries if orphans else ():
            # A budget whose policy is gone goes with the next policy that spends from it.
            if entry.ledger is not None and id(entry.ledger()) in orphans and key in self.members:
                self.members.pop(key).leave()
