"""The fast lanes: what drivers ask before a call is built, so that the usual call costs little.

1. An open breaker refuses at once: `refuse` costs little more than raising.
2. A light policy has nothing to ask before the first failure: its first attempt runs with no call around it. `rescue` makes the call when
   that attempt has failed, and `light_attempt_ended` tells of it where somebody listens.
"""

from __future__ import annotations

from holdfast import events
from holdfast.deadlines import Deadline
from holdfast.errors import BreakerOpen, Rejected
from holdfast.flow import Call
from holdfast.plan import Plan
from holdfast.policies.breaker import Circuit


def refuse(circuit: Circuit, now: float) -> Rejected:
    """The refusal of an open breaker.

    No variable of a driver may hold it: its traceback holds their frame, and the ring would wait for the garbage collector.
    """
    if events.listeners:
        events.publish([events.Refused(circuit.name, BreakerOpen.__name__)])
    return BreakerOpen(circuit.name, circuit.open_until - now)


def light_attempt_ended(plan: Plan, error: BaseException | None, began: float, now: float, outer: Deadline | None) -> None:
    """Tell the listeners of a light call's first attempt, for which there was no call."""
    call = Call(plan, began, outer)
    call.attempt = 1
    call.told(error, began, now)


def rescue(plan: Plan, error: Exception, now: float, outer: Deadline | None) -> tuple[Call, float] | None:
    """A light call's first attempt raised: the call that goes on from there, and after how long; None where it does not."""
    if plan.retry is None:
        return None
    call = Call(plan, now, outer)
    call.attempt = 1
    delay = call.failed(error, now)
    return None if delay is None else (call, delay)
