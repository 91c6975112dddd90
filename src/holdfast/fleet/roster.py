"""The policies of this process that are in the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from random import Random
from typing import TYPE_CHECKING

from holdfast.fleet.member import NO_PAST, Member, Past
from holdfast.fleet.rules import Terms
from holdfast.policies import shared

if TYPE_CHECKING:
    from holdfast.policies.budget import Ledger


class Roster:
    """The members, kept in step with the policies that there are.

    Args:
        terms: those of the process.
        rng: for jitter.
    """

    def __init__(self, terms: Terms, rng: Random) -> None:
        self.members: dict[object, Member] = {}
        self.departed: list[Member] = []  # whose policies are gone, and the store was not told
        self._terms = terms
        self._rng = rng
        self._numbers = count()
        self._past: dict[object, Past] = {}

    def enlist(self) -> None:
        """Take in the policies that were made since, and let go of those that are gone."""
        entries = list(shared.entries.items())
        budgets = {id(member.spending.ledger) for member in self.members.values()}
        for key, entry in entries:
            if key in self.members:
                continue
            circuit = entry.circuit() if entry.circuit is not None else None
            ledger = entry.ledger() if entry.ledger is not None else None
            if id(ledger) in budgets:
                ledger = None  # it is shared by policies, and has the name of the first
            budgets.add(id(ledger))
            if circuit is not None or ledger is not None:
                past = self._past.pop(key, NO_PAST)
                self.members[key] = Member(entry.name, next(self._numbers), circuit, ledger, self._terms, self._rng, past)
        self._part(dict(entries))

    def _part(self, entries: Mapping[object, shared.Entry]) -> None:
        for key in self.members.keys() - entries.keys():
            member = self.members.pop(key)
            orphan = member.spending.ledger
            told = member.leave()
            self._depart(member)
            heir = None if orphan is None else self._heir(orphan, entries)
            if heir is not None:  # the budget goes with the next policy that spends from it
                self._past[heir] = replace(self.members[heir].past(), requests=told.requests)
                gone = self.members.pop(heir)
                gone.leave()
                self._depart(gone)

    def _heir(self, orphan: Ledger, entries: Mapping[object, shared.Entry]) -> object:
        for key, entry in entries.items():
            if key in self.members and entry.ledger is not None and entry.ledger() is orphan:
                return key
        return None

    def _depart(self, member: Member) -> None:
        member.farewell()
        self.departed.append(member)

    def resume(self, past: Mapping[object, Past]) -> None:
        """What the process had told of its policies, before they are enlisted."""
        self._past.update(past)
        self.enlist()

    def past(self) -> dict[object, Past]:
        """What is known and told, for the child of a fork."""
        return {key: member.past() for key, member in self.members.items()}

    def dissolve(self) -> dict[object, Past]:
        """All leave; what is told, should they join again."""
        left = {key: member.leave() for key, member in self.members.items()}
        self.members.clear()
        return left
