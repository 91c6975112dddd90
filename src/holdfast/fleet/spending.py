"""The budget of a policy in the fleet: what this process says of it in a round, and what it makes of what it is lent. Time is given."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.fleet.protocol import Lent, milliseconds
from holdfast.fleet.rules import unless_cleared
from holdfast.policies.shared import Account, Purse, account, terms

if TYPE_CHECKING:
    from holdfast.policies.budget import Ledger

_NO_ACCOUNT: Account = Account([0, 0], [0, 0], 0, 0)


class Spending:
    """A budget's part of a member; where there is no budget, or no more, it says nothing.

    Args:
        ledger: the budget.
        told: calls and retries that the fleet was told of already.
    """

    def __init__(self, ledger: Ledger | None, told: Sequence[int]) -> None:
        # Weak: a budget lives as long as its program has it, and not for the fleet's sake.
        self._ledger = None if ledger is None else weakref.ref(ledger)
        self.back = 0  # what the last account gives back
        self._account = _NO_ACCOUNT
        self._wanted = 0
        self._left = 1  # in the fleet's budget, when it was last heard of
        if ledger is not None:
            with ledger._lock:
                self.purse = ledger.fleet = Purse(ledger, unless_cleared(told, ledger._window.counted()))

    @property
    def ledger(self) -> Ledger | None:
        """The budget; None where there is none, or no more."""
        return None if self._ledger is None else self._ledger()

    def pay(self, now: float, leaving: bool) -> Account:
        """The account for the next round, of which each begins with one."""
        self.back, ledger = 0, self.ledger
        if ledger is None:
            return _NO_ACCOUNT
        purse, before = self.purse, self._account
        paid = account(ledger, purse, now)
        used = max(0, before.held - paid.held)
        # A lease slides out of the fleet's window; before that it is renewed.
        if paid.held and not purse.cut_off and (leaving or now - purse.lent_at > terms(ledger).span / 2):
            with ledger._lock:
                self.back, purse.lent = purse.lent, 0
            paid = paid._replace(held=0)
        demand = paid.refused + used
        renews_unused = self.back and not demand and not self._left
        self._wanted = 0 if renews_unused or leaving else max(1, 2 * demand)
        self._account = paid
        return paid

    def rules(self, leaving: bool) -> dict[str, object]:
        """The budget's rule, and what is held and wanted, as the scripts take them."""
        ledger = self.ledger
        if ledger is None:
            return {}
        ratio, floor, span = terms(ledger)
        # Who comes back tells what it did before it is lent anything: the others do so at the same time. Who leaves needs nothing more.
        most = 0 if self.purse.cut_off or leaving else 1 + 2 * self._account.window[0]
        return {
            "terms": {"ratio": ratio, "floor": floor, "span": milliseconds(span)},
            "purse": {"held": self._account.held, "wanted": min(most, self._wanted), "back": self.back, "most": most},
        }

    def take(self, lent: Lent, asked: float) -> None:
        """Take what the fleet lends; `asked` is when it was."""
        ledger = self.ledger
        if ledger is None:
            return
        purse, (calls, spent) = self.purse, self._account.ever
        with ledger._lock:
            if not purse.lent:
                purse.lent_at = asked
            purse.lent += min(lent.lent, max(self._wanted, 1 + 2 * self._account.window[0]))
            purse.reported, purse.spent_reported = calls, spent
            purse.cut_off = False
            self._account = self._account._replace(held=purse.lent)
        self._left = lent.left

    def cut_off(self, peers: int) -> None:
        """The store cannot be asked: what was lent is over, and of the floor this process has its part."""
        ledger = self.ledger
        if ledger is not None:
            with ledger._lock:
                self.purse.cut_off = True
                self.purse.lent = 0
                self.purse.floor_part = 1.0 / peers

    def counted(self) -> list[int]:
        """Calls and retries since the budget was made."""
        ledger = self.ledger
        if ledger is None:
            return []
        with ledger._lock:
            return ledger._window.counted()

    def leave(self) -> None:
        """The budget is this process's own again."""
        ledger, self._ledger = self.ledger, None
        if ledger is not None:
            with ledger._lock:
                ledger.fleet = None
