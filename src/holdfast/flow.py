"""The one place where policies are combined.

A `Call` is one guarded call. It decides and never waits: a driver asks it for the next step, does what it says, and tells
it what came of it. The three drivers (threads, asyncio and trio, virtual time) are the same few lines around the same object:

    call = Call(plan, now, outer)
    while True:
        step = call.admit(now)             # raises what refuses; or names something to wait for first
        while step is not None:
            ...do the step...
            step = call.resume(now)
        ...make the attempt under call.limit...
        delay = call.succeeded(now) | call.returned(result, now) | call.failed(error, now)
        if delay is None: return the result, or raise the error
        ...sleep for the delay...

`plan` has what a policy is made of, and the steps; `holdings` what a call holds, and how it is given back; `lanes` what is asked before a
call is built; `race` what surrounds whole calls (fallback and hedge), so drivers nest them around this loop.

Order, outermost first: fallback, deadline, retry or hedge, breaker, rate limit, limit, attempt timeout, the call.
"""

from __future__ import annotations

import math
from typing import cast

from holdfast import events
from holdfast.deadlines import AttemptTimeout, Deadline
from holdfast.errors import BulkheadFull, DeadlineExceeded, Rejected
from holdfast.holdings import Holdings
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Reading, Verdict, deadline_behind, matches
from holdfast.plan import HealthCheck, Plan, Queue, Sleep, Step
from holdfast.policies.breaker import Circuit
from holdfast.policies.places import Places
from holdfast.policies.ratelimit import Pacer
from holdfast.policies.retry import Recovery, Retry


class Call(Holdings):
    """One guarded call, over all its attempts.

    Args:
        plan: the policy.
        now: monotonic seconds.
        outer: the ambient deadline of the caller.
        reading: how outcomes are read, where it is not the policy that says.
    """

    __slots__ = ("_began", "_failure", "_reading", "_recovery", "deadline")

    def __init__(self, plan: Plan, now: float, outer: Deadline | None, reading: Reading | None = None) -> None:
        self._plan = plan
        self._reading = reading
        self._began = now
        self.deadline = outer  # for the whole call
        self.limit = outer  # for the attempt
        self.attempt = 0
        self.news = None
        self._recovery: Recovery | None = None
        self._failure: BaseException | None = None  # of the last attempt, while the next is awaited
        self._permit = 0
        self._place = 0
        self._turn = None
        self._ticket = None
        self._attempt_began = None

    # Before the attempt.

    def admit(self, now: float) -> Step | None:
        """Ask for the next attempt.

        Returns:
            None when it may start; else a step to do, and then to ask `resume`.

        Raises:
            Rejected: a policy refused.
            DeadlineExceeded: the time is up.
        """
        plan = self._plan
        deadline = self.deadline
        if deadline is not None and now >= deadline.at and not (plan.light and not self.attempt):
            raise self._late(deadline, now)
        circuit = plan.circuit
        if circuit is not None:
            self._permit = circuit.admit(now)
            if not self._permit:
                raise self._refused(circuit.refuse(now), now)
        if not self.attempt:
            budget = plan.deadline
            if budget is not None and (deadline is None or now + budget < deadline.at):
                self.deadline = Deadline(now + budget, budget, plan.name, deadline)
        if plan.pacer is not None:
            return self._pace(plan.pacer, now)
        places = plan.places
        if places is not None:
            self._place = places.enter()
            if not self._place:
                return self._queue(places, now)
        return self._start(now)

    def resume(self, now: float) -> Step | None:
        """After a step was done: None when the attempt may start, else the next step. Raises as `admit` does."""
        deadline = self.deadline
        late = deadline is not None and now >= deadline.at
        places = self._plan.places
        if self._ticket is not None and places is not None:
            ticket, self._ticket = self._ticket, None
            self._place = places.leave(ticket)
            if not self._place and not late:
                raise self._refused(BulkheadFull(self._plan.name), now)
        if deadline is not None and late:
            raise self._late(deadline, now)
        circuit = self._plan.circuit
        if circuit is not None and not circuit.is_current(self._permit):  # it changed while this call waited: ask again
            circuit.settle(self._permit, IGNORED, now, 0.0)
            self._permit = circuit.admit(now)
            if not self._permit:
                raise self._refused(circuit.refuse(now), now)
        if places is not None and not self._place:
            self._place = places.enter()
            if not self._place:
                return self._queue(places, now)
        return self._start(now)

    def checked(self, healthy: bool, now: float) -> None:
        """What the health check said; the attempt may start. Raises BreakerOpen if it was bad."""
        if healthy:
            self._attempt_began = now
            deadline = self.deadline
            if deadline is not None and now >= deadline.at:
                self.abandon(now)
                raise deadline.exceeded(now, started=self.attempt > 1)
            return
        circuit = cast("Circuit", self._plan.circuit)
        self._settle(FAILURE, now, None)
        raise self._refused(circuit.refuse(now), now)

    def _pace(self, pacer: Pacer, now: float) -> Step | None:
        try:
            delay = pacer.admit(now, math.inf if self.deadline is None else self.deadline.at)
        except Rejected as refusal:
            raise self._refused(refusal, now)  # noqa: B904  (where it is the last failure, its cause is not ours to change)
        self._turn = pacer
        return Sleep(delay) if delay else self.resume(now)

    def _queue(self, places: Places, now: float) -> Step | None:
        wait = self._plan.wait
        self._ticket = places.join() if wait > 0 else None
        if self._ticket is None:
            raise self._refused(BulkheadFull(self._plan.name), now)
        until = now + wait
        return Queue(self._ticket, until if self.deadline is None else self.deadline.tighten(until))

    def _start(self, now: float) -> Step | None:
        plan = self._plan
        deadline = self.deadline
        self._turn = None
        self._failure = None
        self._attempt_began = now
        self.attempt = attempt = self.attempt + 1
        if attempt == 1 and plan.budget is not None:
            plan.budget.ledger.deposit(now)
        timeout = plan.attempt_timeout
        if timeout is not None and (deadline is None or now + timeout < deadline.at):
            self.limit = AttemptTimeout(now + timeout, timeout, plan.name, deadline, attempt)
        else:
            self.limit = deadline
        if plan.checks:
            circuit = cast("Circuit", plan.circuit)
            if circuit.is_probe(self._permit):
                return HealthCheck(circuit.config)
        return None

    # After the attempt: seconds to wait before the next, or None for none.

    def succeeded(self, now: float) -> None:
        """The attempt returned what is wanted."""
        self._settle(SUCCESS, now, None)

    def returned(self, result: object, now: float) -> float | None:
        """The attempt returned; `result` is shown to the predicates that ask for it, and kept by nobody."""
        plan = self._plan
        verdict: Verdict | None
        try:
            if self._reading is not None:
                verdict, again = self._reading.result(result)
            else:
                again = plan.retry is not None and plan.retry.on_result is not None and plan.retry.on_result(result)
                bad = plan.circuit is not None and plan.circuit.config.on_result is not None and plan.circuit.config.on_result(result)
                verdict = FAILURE if again or bad else SUCCESS
        except BaseException:
            self.abandon(now)
            raise
        if verdict is None:
            cast("Reading", self._reading).unfinished(self)
            return None
        self._settle(verdict, now, None)
        return self._recover(result, now) if again and plan.retry is not None else None

    def failed(self, error: BaseException, now: float) -> float | None:
        """The attempt raised."""
        limit = self.limit
        if limit is not None and isinstance(error, DeadlineExceeded) and error._source is limit and not error.attempt:
            error.attempt = self.attempt
        try:
            verdict = self._verdict(error, now)
            wanted = self._plan.retry is not None and self._wanted(self._plan.retry, error)
        except BaseException:
            self.abandon(now)
            raise
        self._settle(verdict, now, error)
        if wanted:
            return self._recover(error, now)
        if self.attempt > 1 and isinstance(error, Exception):
            self._note(error, now, f"{type(error).__name__} is not retried")
        return None

    def _recover(self, failure: object, now: float) -> float | None:
        plan = self._plan
        recovery = self._recovery
        if recovery is None:
            asks = None if self._reading is None else self._reading.delay
            recovery = self._recovery = Recovery(cast("Retry", plan.retry), plan.rng, asks)
        error = failure if isinstance(failure, BaseException) else None
        until = math.inf if self.deadline is None else self.deadline.at
        cut = None if error is None or self.deadline is None else deadline_behind(error)
        if cut is not None and self.deadline is not None and self.deadline.encloses(cut):
            until = now  # it has passed, though its timer may have rung a rounding early
        shut_until = -math.inf if plan.circuit is None else plan.circuit.open_until
        delay = recovery.decide(self.attempt, failure, now, until, shut_until)
        self._failure = None if delay is None else error
        if delay is None:
            if error is not None:
                self._note(error, now, recovery.reason)
            if events.listeners:
                self._tell(events.GaveUp(plan.name, self.attempt, recovery.reason, error))
        elif events.listeners:
            self._tell(events.Retrying(plan.name, self.attempt, delay, error))
        return delay

    # Judging.

    def _verdict(self, error: BaseException, now: float) -> Verdict:
        if not isinstance(error, Exception) or isinstance(error, Rejected) or self.cut_by_caller(error, now):
            return IGNORED
        if self._reading is not None:
            return self._reading.error(error)[0]
        circuit = self._plan.circuit
        if circuit is not None and matches(circuit.config.ignore, error):
            return IGNORED
        return FAILURE

    def _wanted(self, retry: Retry, error: BaseException) -> bool:
        if self._reading is None or not isinstance(error, Exception) or isinstance(error, Rejected):
            return retry.wants(error)
        return self._reading.error(error)[1]

    def cut_by_caller(self, error: Exception, now: float) -> bool:
        """Whether the caller's deadline ended the attempt before it had its own time."""
        limit, deadline = self.limit, self.deadline
        if deadline is None or limit is None:
            return False
        cut = deadline_behind(error)
        if cut is not None and now < limit.at and deadline.encloses(cut):
            return True  # over before anybody's time was up: the client has gone
        if limit is not deadline:
            return False  # the attempt timeout came first, so whatever happened, happened in the attempt's own time
        if cut is not None and not deadline.encloses(cut):
            return False  # a deadline further in: the dependency's, not the caller's
        if cut is None and not (isinstance(error, TimeoutError) and now >= deadline.at):
            return False
        own = self._plan.attempt_timeout
        began = now if self._attempt_began is None else self._attempt_began
        if deadline.policy == self._plan.name:
            # The policy's own deadline cuts: with no attempt timeout below it, the attempt had all the time there is.
            return own is not None and own < deadline.budget and now - began < own
        return own is None or now - began < own

    # Telling.

    def told(self, error: BaseException | None, began: float, now: float) -> None:
        """Tell of an attempt that was made elsewhere."""
        self._attempt_began = began
        self._settle(SUCCESS if error is None else self._verdict(error, now), now, error)
        self.tell()

    def _refused(self, refusal: Rejected, now: float) -> BaseException:
        """What to raise for a refusal: itself, or what failed before it. A caller that has run once is not told that nothing ran."""
        if self.holds:
            self.abandon(now)
        if events.listeners:
            self._tell(events.Refused(self._plan.name, type(refusal).__name__))
            self._collect()
        return self._last_failure(now, refusal.reason) or refusal

    def _late(self, deadline: Deadline, now: float) -> BaseException:
        """What to raise when the time is up before the attempt."""
        self.abandon(now)
        failure = self._last_failure(now, "the deadline has passed")
        return failure or deadline.exceeded(now, started=self.attempt > 0, attempt=self.attempt)

    def _last_failure(self, now: float, reason: str) -> BaseException | None:
        failure, self._failure = self._failure, None
        if failure is not None:
            self._note(failure, now, reason)
        return failure

    def _note(self, error: BaseException, now: float, reason: str) -> None:
        tries = f"{self.attempt} attempt{'s' if self.attempt != 1 else ''}"
        note(error, self._plan.name, f"gave up after {tries} in {now - self._began:.3g} s: {reason}")


def note(error: BaseException, policy: str, text: str) -> None:
    """Add a note to `error`; an older one of the same policy is replaced, since some code raises one instance for ever."""
    lead = f"{policy}: "
    try:
        notes = getattr(error, "__notes__", None)
        if notes:
            notes[:] = [line for line in notes if not line.startswith(f"{lead}gave up")]
        error.add_note(lead + text)
    except Exception:
        return  # it is frozen, or uses the name for something else; it is to be raised as it is
