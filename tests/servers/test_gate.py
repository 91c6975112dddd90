"""The gate: who gets a place, who waits, who is sent away. Pure: time is a number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.priority import CRITICAL, NORMAL, SHEDDABLE
from holdfast.servers.gate import INTERVAL, Gate


def crowded(limit=1, queue=10):
    """A gate whose places are all taken."""
    gate = Gate(limit, queue)
    return gate, [gate.enter() for _ in range(limit)]


def next_of(gate, waiters, permit):
    """Which of the waiters gets the place that is given back."""
    gate.release(permit)
    served = [number for number, waiter in enumerate(waiters) if waiter.permit]
    assert len(served) == 1
    return served[0]


def test_a_place_is_taken_at_once_while_nobody_waits():
    gate = Gate(2, 0)
    assert gate.enter()
    assert gate.enter()
    assert not gate.enter()
    assert gate.join_as(NORMAL, 0.0) is None


def test_equals_are_served_in_order_during_a_burst():
    gate, (permit,) = crowded()
    waiters = [gate.join_as(NORMAL, 0.01 * number) for number in range(3)]
    assert next_of(gate, waiters, permit) == 0


def test_the_more_important_is_served_first_whenever_it_came():
    gate, (permit,) = crowded()
    waiters = [gate.join_as(level, 0.0) for level in (SHEDDABLE, NORMAL, CRITICAL)]
    assert next_of(gate, waiters, permit) == 2


def test_a_queue_that_does_not_get_empty_turns_newest_first():
    gate, (permit,) = crowded()
    waiters = [gate.join_as(NORMAL, moment) for moment in (0.0, 0.05, INTERVAL, INTERVAL + 0.01)]
    assert gate.newest_first
    assert next_of(gate, waiters, permit) == 3


def test_a_queue_that_was_empty_in_between_is_no_overload():
    gate, (permit,) = crowded()
    first = gate.join_as(NORMAL, 0.0)
    gate.leave(first)
    waiters = [gate.join_as(NORMAL, moment) for moment in (1.0, 1.05)]
    assert not gate.newest_first
    assert next_of(gate, waiters, permit) == 0


def test_under_overload_who_waited_for_long_is_sent_away_unless_critical():
    gate, _ = crowded()
    waiters = [gate.join_as(level, 0.0) for level in (CRITICAL, NORMAL, SHEDDABLE)]
    gate.join_as(NORMAL, INTERVAL + 0.01)
    assert [waiter.shed for waiter in waiters] == [False, True, True]
    assert gate.patience(waiters[0], 0.5) == 0.5
    assert gate.patience(waiters[1], 0.5) == INTERVAL


@pytest.mark.parametrize(
    ("waiting", "comes", "leaves"),
    [
        # The newcomer, where nobody is less important.
        ([NORMAL, NORMAL], NORMAL, 2),
        ([CRITICAL, CRITICAL], NORMAL, 2),
        ([CRITICAL, CRITICAL], CRITICAL, 2),
        # Else the least important, the last that came of them.
        ([SHEDDABLE, SHEDDABLE], NORMAL, 1),
        ([SHEDDABLE, NORMAL], CRITICAL, 0),
        ([NORMAL, CRITICAL], CRITICAL, 0),
    ],
)
def test_a_full_queue_sends_the_least_important_away(waiting, comes, leaves):
    gate, _ = crowded(queue=2)
    waiters = [gate.join_as(level, 0.0) for level in waiting]
    waiters.append(gate.join_as(comes, 0.0))
    sent = [number for number, waiter in enumerate(waiters) if waiter is None or waiter.shed]
    assert sent == [leaves]


def test_a_full_queue_under_overload_sends_the_oldest_away():
    gate, _ = crowded(queue=2)
    old = gate.join_as(NORMAL, 0.0)
    newer = gate.join_as(NORMAL, 0.05)
    newest = gate.join_as(NORMAL, INTERVAL - 0.01)  # still a burst: it is the newcomer that goes
    assert newest is None
    newest = gate.join_as(NORMAL, INTERVAL)
    assert old.shed
    assert not newer.shed
    assert newest is not None


def test_who_is_sent_away_is_woken():
    gate, _ = crowded(queue=1)
    victim = gate.join_as(SHEDDABLE, 0.0)
    woken = []
    victim.wake = lambda: woken.append(True)
    gate.join_as(CRITICAL, 0.0)
    assert woken
    assert gate.leave(victim) == 0


levels = st.sampled_from([CRITICAL, NORMAL, SHEDDABLE])
steps = st.lists(st.tuples(st.sampled_from(["come", "go", "leave"]), levels, st.floats(0.0, 0.2)), max_size=60)


@given(limit=st.integers(1, 4), queue=st.integers(0, 5), steps=steps)
def test_no_place_is_lost_or_made_whatever_happens(limit, queue, steps):
    gate, now = Gate(limit, queue), 0.0
    running, waiting = [], []
    for what, level, pause in steps:
        now += pause
        if what == "come":
            permit = gate.enter()
            if permit:
                running.append(permit)
            else:
                waiter = gate.join_as(level, now)
                if waiter is not None:
                    waiting.append(waiter)
        elif what == "go" and running:
            gate.release(running.pop())
        elif what == "leave" and waiting:
            permit = gate.leave(waiting.pop(0))
            if permit:
                running.append(permit)
        for waiter in [one for one in waiting if one.permit or one.shed]:
            waiting.remove(waiter)
            permit = gate.leave(waiter)
            if permit:
                running.append(permit)
        assert len(running) <= limit
        assert gate.running == len(running)
        assert gate.waiting == len(waiting) <= queue
        assert not waiting or len(running) == limit  # nobody waits beside a free place
