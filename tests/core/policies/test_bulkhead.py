"""Bulkhead: one slow dependency must not take every worker. And the places and queue that it and the adaptive limit share."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, precondition, rule

import holdfast
from holdfast import Breaker, BreakerOpen, Bulkhead, BulkheadFull, DeadlineExceeded, Policy, Retry, events
from holdfast.policies.places import Places
from holdfast.testing import FakeClock, Scripted, Step


class PlacesMachine(RuleBasedStateMachine):
    """The slow form: a set of who runs, and a list of who waits, the first first."""

    running = Bundle("running")
    waiting = Bundle("waiting")

    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 4))
    def begin(self, limit, queue):
        self.places = Places(limit, queue)
        self.limit, self.queue = limit, queue
        self.taken = 0
        self.line = []
        self.served = set()  # tickets whose turn came and that were not picked up
        self.called = []  # tickets that were to be woken
        self.woken = []

    def serve(self):
        while self.line and self.taken < self.limit:
            ticket = self.line.pop(0)
            self.served.add(ticket)
            self.called += [ticket] if ticket.wake else []
            self.taken += 1

    @rule(target=running)
    def enter(self):
        free = not self.line and self.taken < self.limit
        permit = self.places.enter()
        assert bool(permit) == free
        if not free:
            return multiple()
        self.taken += 1
        return permit

    @rule(target=waiting, listens=st.booleans())
    def join(self, listens):
        ticket = self.places.join()
        if not self.line and self.taken < self.limit:
            self.taken += 1
            self.served.add(ticket)
        elif len(self.line) >= self.queue:
            assert ticket is None
            return multiple()
        else:
            self.line.append(ticket)
        if listens and not ticket.permit:
            ticket.wake = lambda: self.woken.append(ticket)
        return ticket

    @rule(target=running, ticket=consumes(waiting))
    def leave(self, ticket):
        permit = self.places.leave(ticket)
        assert bool(permit) == (ticket in self.served)
        assert self.places.leave(ticket) == 0  # there is one place for a ticket, however often it leaves
        if permit:
            self.served.remove(ticket)
            return permit
        self.line.remove(ticket)
        return multiple()

    @rule(permit=consumes(running))
    def release(self, permit):
        self.places.release(permit)
        self.taken -= 1
        self.serve()

    @rule(limit=st.integers(1, 6))
    def resize(self, limit):
        self.places.resize(limit)
        self.limit = limit
        self.serve()

    @precondition(lambda self: hasattr(self, "places"))
    @rule()
    def a_permit_from_before_a_fork_frees_nothing(self):
        self.places.release(self.places._generation - 1)

    @invariant()
    def both_say_the_same(self):
        if hasattr(self, "places"):
            assert (self.places.limit, self.places.running, self.places.waiting) == (self.limit, self.taken, len(self.line))
            assert all(ticket.permit for ticket in self.served)
            assert not any(ticket.permit for ticket in self.line)
            assert self.woken == self.called


TestPlaces = PlacesMachine.TestCase


def test_a_place_goes_on_when_the_loop_of_its_waiter_was_closed():
    def closed():
        raise RuntimeError("Event loop is closed")

    places = Places(1, 2)
    permit = places.enter()
    gone, next_one = places.join(), places.join()
    gone.wake = closed
    places.release(permit)
    assert next_one.permit
    assert (places.running, places.waiting) == (1, 0)


def test_a_fork_forgets_who_ran_and_who_waited():
    places = Places(2, 2)
    old = [places.enter(), places.enter()]
    ticket = places.join()
    places.resize(1)
    places._after_fork()
    assert (places.limit, places.running, places.waiting) == (1, 0, 0)
    for permit in old:
        places.release(permit)
    assert places.running == 0
    assert places.leave(ticket) == 0
    assert places.enter()
    assert places.enter() == 0


def test_a_ticket_that_left_is_not_served():
    places = Places(1, 2)
    permit = places.enter()
    first, second = places.join(), places.join()
    assert places.leave(first) == 0
    places.release(permit)
    assert (first.permit, bool(second.permit)) == (0, True)


# Through the public face.


def test_at_most_the_limit_run_and_the_rest_is_refused_at_once(drive):
    policy = Policy("p", bulkhead=Bulkhead(2))
    dependency = Scripted("tax")
    with drive.clock, policy.guard(), policy.guard():
        assert policy.snapshot()["limit"] == {"limit": 2, "running": 2, "waiting": 0}
        with pytest.raises(BulkheadFull) as caught:
            policy.call(dependency)
    assert (caught.value.policy, caught.value.retry_after) == ("p", None)
    assert dependency.calls == 0
    assert drive.call(policy, dependency) == "tax"


@pytest.mark.parametrize("error", [None, ValueError("x"), KeyboardInterrupt()])
def test_a_place_is_given_back_however_the_call_ends(error):
    policy = Policy("p", bulkhead=Bulkhead(1))
    try:
        policy.call(Scripted(error))
    except (ValueError, KeyboardInterrupt):
        pass
    assert policy.snapshot()["limit"]["running"] == 0


def test_a_slow_dependency_takes_its_places_and_nobody_elses():
    slow, fast = Policy("slow", bulkhead=Bulkhead(3)), Policy("fast", bulkhead=Bulkhead(3))

    async def main():
        stuck = [asyncio.create_task(slow.acall(asyncio.sleep, 100.0)) for _ in range(50)]
        await asyncio.sleep(1.0)
        assert slow.snapshot()["limit"]["running"] == 3
        assert await fast.acall(asyncio.sleep, 0.1, "tax") == "tax"
        outcomes = await asyncio.gather(*stuck, return_exceptions=True)
        assert sum(isinstance(outcome, BulkheadFull) for outcome in outcomes) == 47

    FakeClock().run(main())


def test_the_queue_is_served_in_order_and_is_bounded():
    policy = Policy("p", bulkhead=Bulkhead(1, queue=3, wait=10.0))
    order = []

    async def work(number):
        await asyncio.sleep(1.0)
        order.append((number, clock.now() - 1000.0))

    async def main():
        outcomes = await asyncio.gather(*(policy.acall(work, number) for number in range(6)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None)] * 4 + [BulkheadFull] * 2

    clock = FakeClock()
    clock.run(main())
    assert order == [(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]


def test_the_wait_for_a_place_is_bounded():
    policy = Policy("p", bulkhead=Bulkhead(1, queue=5, wait=0.5))

    async def main():
        busy = asyncio.create_task(policy.acall(asyncio.sleep, 2.0))
        await asyncio.sleep(0)
        with pytest.raises(BulkheadFull):
            await policy.acall(asyncio.sleep, 0)
        assert clock.now() == 1000.5
        assert policy.snapshot()["limit"] == {"limit": 1, "running": 1, "waiting": 0}
        await busy

    clock = FakeClock()
    clock.run(main())


def test_a_blocking_call_waits_for_a_place_as_long_as_it_may():
    policy = Policy("p", bulkhead=Bulkhead(1, queue=1, wait=0.5))
    with FakeClock() as clock, policy.guard():
        with pytest.raises(BulkheadFull):
            policy.call(Scripted("tax"))
        assert clock.now() == 1000.5
        assert policy.snapshot()["limit"] == {"limit": 1, "running": 1, "waiting": 0}


@pytest.mark.parametrize("limit", [0.2, 0.5])
def test_nobody_waits_past_the_deadline(drive, limit):
    policy = Policy("p", deadline=limit, bulkhead=Bulkhead(1, queue=1, wait=0.5))
    place = policy._plan.places.enter()
    with pytest.raises(DeadlineExceeded) as caught:
        drive.call(policy, Scripted("tax"))
    assert drive.clock.now() == 1000.0 + limit
    assert (caught.value.started, caught.value.attempt) == (False, 0)
    policy._plan.places.release(place)
    assert drive.look(policy.snapshot)["limit"] == {"limit": 1, "running": 0, "waiting": 0}


@pytest.mark.parametrize(("queue", "wait"), [(0, 1.0), (1, 0.0)])
def test_without_a_queue_or_without_a_wait_nobody_waits(drive, queue, wait):
    policy = Policy("p", bulkhead=Bulkhead(1, queue=queue, wait=wait))
    policy._plan.places.enter()
    with pytest.raises(BulkheadFull):
        drive.call(policy, Scripted("tax"))
    assert drive.clock.now() == 1000.0


def test_a_call_that_is_cancelled_in_the_queue_leaves_it():
    policy = Policy("p", bulkhead=Bulkhead(1, queue=1, wait=10.0))

    async def main():
        busy = asyncio.create_task(policy.acall(asyncio.sleep, 2.0))
        await asyncio.sleep(0)
        waits = asyncio.create_task(policy.acall(asyncio.sleep, 0))
        await asyncio.sleep(0.1)
        assert policy.snapshot()["limit"]["waiting"] == 1
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        assert policy.snapshot()["limit"] == {"limit": 1, "running": 1, "waiting": 0}
        await busy
        assert policy.snapshot()["limit"]["running"] == 0

    FakeClock().run(main())


def test_a_call_holds_no_place_while_it_waits_for_its_retry():
    """The article's retries sleep while they hold the worker."""
    policy = Policy("p", bulkhead=Bulkhead(1), retry=Retry(attempts=2))
    seen = []
    stop = events.subscribe(
        lambda event: seen.append(policy.snapshot()["limit"]["running"]) if isinstance(event, events.Retrying) else None
    )
    try:
        with FakeClock():
            policy.call(Scripted(ConnectionError(), "tax"))
    finally:
        stop()
    assert seen == [0]


def test_a_refusal_is_told(drive):
    told = []
    policy = Policy("p", bulkhead=Bulkhead(1))
    policy._plan.places.enter()
    stop = events.subscribe(told.append)
    try:
        drive.outcome(policy, Scripted("tax"))
    finally:
        stop()
    assert told == [events.Refused("p", "BulkheadFull")]


def test_nested_policies_hold_places_of_both(drive):
    outer, inner = Policy("outer", bulkhead=Bulkhead(1)), Policy("inner", bulkhead=Bulkhead(1))
    with drive.clock, outer.guard(), inner.guard():
        assert outer.snapshot()["limit"]["running"] == inner.snapshot()["limit"]["running"] == 1
    assert outer.snapshot()["limit"]["running"] == inner.snapshot()["limit"]["running"] == 0


def test_the_deadline_reaches_what_runs_in_a_place(drive):
    policy = Policy("p", deadline=2.0, bulkhead=Bulkhead(1))
    assert drive.call(policy, holdfast.remaining) == pytest.approx(2.0)
    with pytest.raises(DeadlineExceeded):
        drive.call(policy, Scripted(Step(after=3.0)))
    assert drive.look(policy.snapshot)["limit"]["running"] == 0


def test_the_defaults_are_no_queue():
    assert (Bulkhead(5).queue, Bulkhead(5).wait) == (0, 0.0)
    assert Bulkhead(limit=5, queue=1, wait="100ms").wait == 0.1


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (Bulkhead(20), "at most 20 at once, nobody waits for a place"),
        (Bulkhead(20, queue=5), "at most 20 at once, nobody waits for a place"),
        (Bulkhead(20, wait=5), "at most 20 at once, nobody waits for a place"),
        (Bulkhead(20, queue=5, wait=0.1), "at most 20 at once, 5 more wait up to 0.1 s"),
    ],
)
def test_it_describes_itself(rules, words):
    assert rules.describe() == words


def test_calls_that_queued_while_the_breaker_opened_are_refused_when_they_are_served():
    """They would go, one after another, to a dependency that is known to be down."""
    ran = 0

    async def hangs():
        nonlocal ran
        ran += 1
        await asyncio.sleep(1.0)
        raise ConnectionError

    async def main():
        policy = Policy("p", breaker=Breaker(consecutive=1), bulkhead=Bulkhead(1, queue=5, wait=5.0))
        return await asyncio.gather(*(policy.acall(hangs) for _ in range(4)), return_exceptions=True)

    outcomes = FakeClock().run(main())
    assert [type(outcome) for outcome in outcomes] == [ConnectionError, BreakerOpen, BreakerOpen, BreakerOpen]
    assert ran == 1


def test_calls_that_queued_until_the_breaker_is_half_open_are_no_more_than_its_probes():
    """They were admitted while it was closed; what it says when they are served is what counts."""
    running = most = 0

    async def hangs():
        await asyncio.sleep(3.0)
        raise ConnectionError

    async def probe():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1.0)
        running -= 1

    async def main():
        rules = Breaker(open_for=1.0, probe_share=1.0, max_probes=2)
        policy = Policy("p", breaker=rules, bulkhead=Bulkhead(5, queue=20, wait=9.0))
        calls = [asyncio.create_task(policy.acall(hangs)) for _ in range(5)]
        calls += [asyncio.create_task(policy.acall(probe)) for _ in range(20)]
        await asyncio.sleep(1.0)
        policy._plan.circuit._open(1.0, "the test", 1001.0)
        return [type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]

    outcomes = FakeClock().run(main())
    assert (outcomes.count(BreakerOpen), most) == (18, 2)
