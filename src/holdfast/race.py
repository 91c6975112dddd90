"""What surrounds whole calls: the fallback, and the decisions of a hedged call."""

from __future__ import annotations

from typing import cast

from holdfast import events
from holdfast.deadlines import Deadline
from holdfast.errors import DeadlineExceeded, Rejected
from holdfast.plan import Plan
from holdfast.policies.fallback import Fallback
from holdfast.policies.hedge import Hedge, Patience


def falls_back(plan: Plan, error: Exception, outer: Deadline | None) -> Fallback | None:
    """The fallback, if it answers for this failure. It does not once the caller's own deadline has passed."""
    fallback = plan.fallback
    if fallback is None or not fallback.wants(error):
        return None
    if outer is not None and isinstance(error, DeadlineExceeded) and outer.encloses(error):
        return None
    if events.listeners:
        events.publish([events.FellBack(plan.name, error)])
    return fallback


class Race:
    """The decisions of one hedged call: when to start a rival, and what the outcomes mean.

    Args:
        plan: the policy, with a hedge.
        now: monotonic seconds.
        outer: the ambient deadline of the caller.
        alone: whether doing it twice would do harm: no rival is started.
    """

    __slots__ = ("_failure", "_last", "_plan", "_started", "_uncounted", "deadline", "running")

    def __init__(self, plan: Plan, now: float, outer: Deadline | None, alone: bool = False) -> None:
        budget = plan.deadline
        if budget is not None and (outer is None or now + budget < outer.at):
            self.deadline: Deadline | None = Deadline(now + budget, budget, plan.name, outer)
        else:
            self.deadline = outer
        if self.deadline is not None and now >= self.deadline.at:
            raise self.deadline.exceeded(now, started=False)
        self._plan = plan
        self._started = 1 + (cast("Hedge", plan.hedge).extra if alone else 0)
        self._last = now  # when the last attempt began, or was refused by the budget
        self._uncounted = plan.budget
        self._failure: BaseException | None = None  # of the last attempt that ran
        self.running = 1

    def patience(self, now: float) -> float | None:
        """Seconds to wait for the running attempts before asking for a rival; None to wait for as long as they take."""
        plan = self._plan
        if self._started > cast("Hedge", plan.hedge).extra:
            return None
        delay = cast("Patience", plan.patience).delay(now)
        if delay is None or (self.deadline is not None and self._last + delay >= self.deadline.at):
            return None
        return max(0.0, self._last + delay - now)

    def rival(self, now: float) -> bool:
        """Whether to start one now. The budget's answer is final: it is asked once per rival."""
        self._count(now)
        self._started += 1
        waited, self._last = now - self._last, now
        if self._plan.budget is not None and not self._plan.budget.ledger.withdraw(now):
            return False
        self.running += 1
        if events.listeners:
            events.publish([events.Hedged(self._plan.name, self._started, waited)])
        return True

    def ended(self, error: BaseException | None, elapsed: float, now: float) -> bool:
        """An attempt came to its end; True when that decides the call."""
        self.running -= 1
        decides = error is None or not isinstance(error, Exception) or self.running == 0
        if not isinstance(error, Rejected):
            self._count(now)
            self._failure = None if decides else error
        if error is None:
            cast("Patience", self._plan.patience).learn(elapsed, now)
        return decides

    def refused(self) -> None:
        """The last attempt was refused. Raises what failed before it, if anything did: who has run once is not told that nothing ran."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame: no ring of the two

    def lost(self, elapsed: float, now: float) -> None:
        """An attempt was beaten. It would have taken longer still, and leaving it out would make the percentile too low."""
        self._count(now)
        cast("Patience", self._plan.patience).learn(elapsed, now)

    def _count(self, now: float) -> None:
        # Once it is known that the call reached its first attempt: what the breaker refuses is no traffic that grants retries.
        budget, self._uncounted = self._uncounted, None
        if budget is not None:
            budget.ledger.deposit(now)
