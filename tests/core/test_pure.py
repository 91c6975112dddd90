"""The small pure parts: deadlines, verdicts, what threads share, what users configure, and the flow without any driver."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import math
import pickle
from random import Random

import pytest

from holdfast import (
    AdaptiveLimit,
    Backoff,
    Breaker,
    Budget,
    Bulkhead,
    DeadlineExceeded,
    Fallback,
    Hedge,
    Policy,
    RateLimit,
    Rejected,
    Retry,
    deadlines,
    locks,
    outcome,
)
from holdfast.deadlines import AttemptTimeout, Deadline, ShieldDeadline
from holdfast.flow import Call, note
from holdfast.plan import Plan
from holdfast.race import Race
from holdfast.testing import FakeClock, Scripted, Step

# Deadlines.


def test_a_deadline_is_a_point_in_time():
    limit = Deadline(10.0, 2.0, "p", None)
    assert [limit.remaining(now) for now in (8.0, 9.5, 10.0, 11.0)] == [2.0, 0.5, 0.0, 0.0]
    assert [limit.tighten(at) for at in (9.0, 10.0, 11.0)] == [9.0, 10.0, 10.0]


def test_the_error_of_a_deadline_tells_what_passed():
    error = Deadline(10.0, 2.0, "p", None).exceeded(10.5)
    assert (error.policy, error.budget, error.elapsed, error.started, error.attempt, error.what) == ("p", 2.0, 2.5, True, 0, "deadline")
    error = Deadline(10.0, 2.0, "p", None).exceeded(10.5, started=False, attempt=3)
    assert (error.started, error.attempt) == (False, 3)
    error = AttemptTimeout(10.0, 2.0, "p", None, 4).exceeded(10.0)
    assert (error.attempt, error.what) == (4, "attempt timeout")
    assert ShieldDeadline(10.0, 2.0, None, None).exceeded(10.0).what == "shield"


def test_a_deadline_knows_what_it_is_nested_in():
    outer = Deadline(10.0, 5.0, "outer", None)
    inner = AttemptTimeout(9.0, 2.0, "inner", outer, 1)
    stranger = Deadline(9.0, 2.0, "inner", outer)
    assert list(inner.around()) == [inner, outer]
    assert inner.encloses(outer.exceeded(10.0))
    assert inner.encloses(inner.exceeded(9.0))
    assert not outer.encloses(inner.exceeded(9.0))
    assert not inner.encloses(stranger.exceeded(9.0))
    assert not inner.encloses(DeadlineExceeded("inner"))


def test_deadlines_show_what_they_are():
    assert repr(Deadline(10.0, 2.0, "p", None)) == "<deadline of 2 s of p>"
    assert repr(Deadline(10.0, 0.25, None, None)) == "<deadline of 0.25 s>"
    assert repr(AttemptTimeout(10.0, 2.0, "p", None, 4)) == "<attempt timeout of 2 s of p>"


def test_there_is_no_ambient_deadline_to_begin_with():
    assert deadlines.ambient.get() is None


# Verdicts.


def test_what_matches_is_a_type_types_or_what_the_predicate_says():
    assert outcome.matches(OSError, ConnectionError())
    assert outcome.matches((KeyError, OSError), ConnectionError())
    assert not outcome.matches((), ConnectionError())
    assert not outcome.matches(KeyError, ConnectionError())
    assert outcome.matches(lambda error: [error], KeyError()) is True
    assert outcome.matches(lambda error: [], KeyError()) is False


@pytest.mark.parametrize(
    ("matcher", "words"),
    [
        ((), "nothing"),
        ((KeyError,), "KeyError"),
        ((KeyError, OSError), "KeyError, OSError"),
        (KeyError, "KeyError"),
        (callable, "callable"),
        (Scripted(1), None),
    ],
)
def test_a_matcher_in_words(matcher, words):
    assert outcome.describe_matcher(matcher) == (repr(matcher) if words is None else words)


def raised(*errors):
    """The first of these, each raised from the next."""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_a_deadline_is_found_behind_the_errors_that_clients_wrap_it_in():
    limit = DeadlineExceeded("p")
    assert outcome.deadline_behind(limit) is limit
    assert outcome.deadline_behind(raised(OSError(), ValueError(), limit)) is limit
    assert outcome.deadline_behind(raised(OSError(), ValueError())) is None
    around = OSError()
    around.__context__ = limit
    assert outcome.deadline_behind(around) is limit
    around.__suppress_context__ = True  # httpcore raises `from None` what it only passes on
    assert outcome.deadline_behind(around) is limit


def test_a_chain_of_errors_is_followed_for_so_far_and_no_further():
    limit = DeadlineExceeded("p")
    assert outcome.deadline_behind(raised(*(OSError() for _ in range(15)), limit)) is limit
    assert outcome.deadline_behind(raised(*(OSError() for _ in range(16)), limit)) is None
    ring = OSError()
    raised(ring, ValueError(), ring)
    assert outcome.deadline_behind(ring) is None


def test_the_verdicts_have_the_fields_names():
    assert [verdict.value for verdict in outcome.Verdict] == ["success", "failure", "ignored"]


# What threads share.


class Shared(locks.Guarded):
    __slots__ = ("forgot",)

    def __init__(self):
        super().__init__()
        self.forgot = 0

    def _after_fork(self):
        self.forgot += 1


def test_what_nobody_holds_any_more_is_forgotten():
    gc.collect()  # what other tests left
    before = len(locks._guarded)
    shared = Shared()
    assert len(locks._guarded) == before + 1
    del shared
    gc.collect()
    assert len(locks._guarded) == before


def test_over_a_fork_every_lock_is_held_and_both_sides_can_use_it_again():
    """The hooks by hand, in the order in which a fork calls them; the real fork is tested in test_fork."""
    shared = Shared()
    mine = shared._lock
    locks._before()
    assert shared in locks._held
    locks._in_parent()
    assert locks._held == []
    assert shared.forgot == 0
    assert shared._lock is mine
    locks._before()
    locks._in_child()
    assert shared.forgot == 1
    assert shared._lock is not mine
    assert locks._held == []
    with shared._lock, locks._forking:
        pass


# What users configure.

CONFIGURED = [
    (Backoff, {"base": 0.1}, {"base": 0.2}),
    (Retry, {"attempts": 2}, {"attempts": 3}),
    (Breaker, {"min_calls": 2}, {"min_calls": 3}),
    (Bulkhead, {"limit": 2}, {"limit": 3}),
    (RateLimit, {"rate": 2}, {"rate": 3}),
    (AdaptiveLimit, {"initial": 2}, {"initial": 3}),
    (Hedge, {"after": 2}, {"after": 3}),
    (Fallback, {"value": 2}, {"value": 3}),
    (Fallback, {"call": repr}, {"call": str}),
]


@pytest.mark.parametrize(("kind", "one", "other"), CONFIGURED)
def test_a_configuration_is_compared_by_its_fields_and_cannot_be_changed(kind, one, other):
    name, value = next(iter(one.items()))
    rules = kind(**one)
    assert rules == kind(**one)
    assert rules != kind(**other)
    assert rules != 3
    assert hash(rules) == hash(kind(**one))
    assert hash(rules) != hash(kind(**other))
    assert copy.copy(rules) == copy.deepcopy(rules) == pickle.loads(pickle.dumps(rules)) == rules
    assert f"{name}={getattr(rules, name)!r}" in repr(rules)
    assert repr(rules).startswith(f"{kind.__name__}(")
    assert dataclasses.replace(rules, **other) == kind(**other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(rules, name, value)
    with pytest.raises(dataclasses.FrozenInstanceError, match=f"cannot delete field '{name}'"):
        delattr(rules, name)
    with pytest.raises((AttributeError, TypeError)):
        rules.something = 1


@pytest.mark.parametrize("kind", [Backoff, Retry, Breaker, AdaptiveLimit, Hedge, Budget])
def test_what_has_many_fields_takes_them_by_name(kind):
    with pytest.raises(TypeError, match="positional"):
        kind(1)


@pytest.mark.parametrize("kind", [Bulkhead, RateLimit, Fallback])
def test_what_has_one_main_field_takes_the_others_by_name(kind):
    with pytest.raises(TypeError, match="positional"):
        kind(len, 1)


# The flow, without a driver.


def plan(**parts):
    return Policy("p", **parts)._plan


def test_a_call_that_is_abandoned_gives_everything_back_once():
    parts = plan(breaker=Breaker(), rate_limit=RateLimit(1, wait=5), bulkhead=Bulkhead(1, queue=1, wait=5))
    call = Call(parts, 0.0, None)
    assert call.admit(0.0) is None
    assert call.holds
    assert parts.places.running == 1
    call.abandon(1.0)
    call.abandon(1.0)
    assert not call.holds
    assert parts.places.running == 0
    assert parts.circuit.snapshot(1.0)["calls"] == 0
    waits = Call(parts, 0.0, None)
    assert waits.admit(0.5).seconds == pytest.approx(0.5)
    assert waits.holds
    waits.abandon(0.6)
    again = Call(parts, 0.6, None)
    assert again.admit(0.6).seconds == pytest.approx(0.4)


def test_a_ticket_that_was_served_as_its_holder_gave_up_is_given_back():
    parts = plan(bulkhead=Bulkhead(1, queue=1, wait=5))
    runs, waits = Call(parts, 0.0, None), Call(parts, 0.0, None)
    assert runs.admit(0.0) is None
    step = waits.admit(0.0)
    assert step.until == 5.0
    runs.succeeded(1.0)
    assert step.ticket.permit
    waits.abandon(1.0)
    assert parts.places.running == 0


def test_the_deadline_counts_from_the_moment_of_admission_and_is_the_tighter_one():
    outer = Deadline(10.0, 10.0, None, None)
    for given, at in ((3.0, 3.0), (10.0, 10.0), (30.0, 10.0)):
        call = Call(plan(deadline=given), 0.0, outer)
        call.admit(0.0)
        assert call.deadline.at == at
        assert (call.deadline is outer) == (given >= 10.0)
        assert call.limit is call.deadline


def test_the_attempts_time_is_the_tighter_one():
    for given, at in ((0.5, 0.5), (2.0, 2.0), (3.0, 2.0)):
        call = Call(plan(deadline=2.0, attempt_timeout=given), 0.0, None)
        call.admit(0.0)
        assert call.limit.at == at
        assert isinstance(call.limit, AttemptTimeout) == (given < 2.0)
        assert call.limit.policy == "p"
        assert list(call.limit.around())[-1] is call.deadline


def test_a_queue_without_a_wait_is_no_queue():
    living = plan(bulkhead=Bulkhead(1, queue=1))
    Call(living, 0.0, None).admit(0.0)
    with pytest.raises(Rejected):
        Call(living, 0.0, None).admit(0.0)
    assert living.places.waiting == 0


def test_a_health_check_that_outlives_the_deadline_ends_the_call_and_frees_the_probe():
    living = plan(deadline=1.0, breaker=Breaker(min_calls=1, health_check=bool))
    call = Call(living, 0.0, None)
    call.admit(0.0)
    call.failed(ConnectionError(), 0.0)
    for took, late in ((0.999, False), (1.0, True), (2.0, True)):
        probe = Call(living, 30.0, None)
        assert probe.admit(30.0).config.health_check is bool
        if late:
            with pytest.raises(DeadlineExceeded) as caught:
                probe.checked(True, 30.0 + took)
            assert not caught.value.started
            assert caught.value.elapsed == pytest.approx(took)
        else:
            probe.checked(True, 30.0 + took)
            probe.abandon(30.0 + took)
        assert living.circuit.snapshot(30.0)["probes"] == 0


def test_a_race_has_the_tighter_deadline_and_does_not_begin_after_it():
    outer = Deadline(5.0, 5.0, None, None)
    for given, at in ((2.0, 2.0), (5.0, 5.0), (9.0, 5.0), (None, 5.0)):
        race = Race(plan(deadline=given, hedge=Hedge(after=1)), 0.0, outer)
        assert race.deadline.at == at
        assert (race.deadline is outer) == (given != 2.0)
        assert list(race.deadline.around())[-1] is outer
        assert race.deadline.policy == ("p" if given == 2.0 else None)
    with pytest.raises(DeadlineExceeded) as caught:
        Race(plan(hedge=Hedge(after=1)), 5.0, outer)
    assert not caught.value.started


@pytest.mark.parametrize(
    ("own", "outer", "took", "error", "verdict"),
    [
        # Nothing but the caller's deadline bounds the attempt: what it cuts says nothing about the dependency.
        (None, 1.0, 1.0, "outer", "ignored"),
        (None, 1.0, 1.0, "timeout", "ignored"),
        (None, 1.0, 0.9, "timeout", "failure"),
        (None, 1.0, 1.0, "other", "failure"),
        # The attempt had less than its own time.
        (2.0, 1.0, 1.0, "outer", "ignored"),
        (2.0, 1.0, 1.0, "timeout", "ignored"),
        # It had its own time.
        (0.5, 1.0, 0.5, "own", "failure"),
        (0.5, 1.0, 1.0, "outer", "failure"),
        # Somebody else's deadline.
        (None, 1.0, 1.0, "stranger", "failure"),
    ],
)
def test_whose_deadline_cut_an_attempt_decides_how_it_counts(own, outer, took, error, verdict):
    parts = plan(attempt_timeout=own, breaker=Breaker(min_calls=9))
    around = Deadline(outer, outer, None, None)
    call = Call(parts, 0.0, around)
    call.admit(0.0)
    raised_ = {
        "outer": around.exceeded(took),
        "own": call.limit.exceeded(took),
        "timeout": TimeoutError(),
        "other": ValueError(),
        "stranger": Deadline(0.5, 0.5, "q", None).exceeded(took),
    }[error]
    call.failed(raised_, took)
    counts = parts.circuit.snapshot(took)
    assert (counts["calls"], counts["failures"]) == ((1, 1) if verdict == "failure" else (0, 0))


@pytest.mark.parametrize(("own", "began", "counted"), [(None, 0.0, 1), (3.0, 0.0, 1), (2.0, 0.0, 1), (1.5, 1.0, 0), (1.0, 1.0, 1)])
def test_the_policys_own_deadline_is_a_failure_where_the_attempt_had_the_time_there_was(own, began, counted):
    parts = plan(deadline=2.0, attempt_timeout=own, retry=Retry(backoff=Backoff(base=1.0, cap=1.0, jitter="none")), breaker=Breaker())
    call = Call(parts, 0.0, None)
    call.admit(0.0)
    if began:
        assert call.failed(ConnectionError(), 0.0) == 1.0
        call.admit(began)
    before = parts.circuit.snapshot(2.0)["calls"]
    call.failed(call.limit.exceeded(2.0), 2.0)
    assert parts.circuit.snapshot(2.0)["calls"] - before == counted


def test_a_note_of_another_kind_stays():
    error = ValueError()
    error.add_note("mine")
    error.add_note("p: mine too")
    note(error, "p", "gave up after 1 attempt")
    note(error, "p", "gave up after 2 attempts")
    assert error.__notes__ == ["mine", "p: mine too", "p: gave up after 2 attempts"]


def test_only_what_is_later_than_a_timer_may_be_has_outrun_its_deadline():
    limit = Deadline(10.0, 2.0, None, None)
    assert limit.outrun(10.01) is None
    event = limit.outrun(10.5)
    assert (event.policy, event.budget, event.elapsed, event.outside) == ("", 2.0, 2.5, 0.5)


def test_a_plan_without_anything_to_ask_is_light():
    assert plan().light
    assert plan(retry=Retry()).light
    heavy = [
        {"deadline": 1},
        {"attempt_timeout": 1},
        {"breaker": Breaker()},
        {"rate_limit": RateLimit(1)},
        {"bulkhead": Bulkhead(1)},
        {"adaptive": AdaptiveLimit()},
        {"retry": Retry(budget=Budget())},
        {"retry": Retry(on_result=bool)},
        {"fallback": Fallback(value=1)},
        {"hedge": Hedge(after=1)},
    ]
    assert not any(plan(**parts).light for parts in heavy)
    assert Plan("p", Random()).light


def test_a_second_attempt_after_the_deadline_is_not_begun_and_what_failed_is_raised():
    call = Call(plan(deadline=1.0, retry=Retry(backoff=Backoff(base=0, cap=0))), 0.0, None)
    call.admit(0.0)
    error = ConnectionError()
    assert call.failed(error, 0.5) == 0.0
    with pytest.raises(ConnectionError) as caught:
        call.admit(1.0)
    assert caught.value is error
    assert error.__notes__ == ["p: gave up after 1 attempt in 1 s: the deadline has passed"]


def test_a_retry_that_is_refused_raises_what_failed_and_not_the_refusal():
    living = plan(retry=Retry(backoff=Backoff(base=0, cap=0)), bulkhead=Bulkhead(1))
    call = Call(living, 0.0, None)
    call.admit(0.0)
    error = ConnectionError()
    assert call.failed(error, 0.5) == 0.0
    living.places.enter()
    with pytest.raises(ConnectionError) as caught:
        call.admit(0.5)
    assert caught.value is error
    assert error.__notes__[0].startswith("p: gave up after 1 attempt in 0.5 s: ")
    assert not call.holds


def test_a_wait_that_was_longer_than_asked_for_ends_the_call():
    for parts in ({"rate_limit": RateLimit(1, wait=5)}, {"bulkhead": Bulkhead(1, queue=1, wait=5)}):
        living = plan(deadline=3.0, **parts)
        Call(living, 0.0, None).admit(0.0)
        call = Call(living, 0.0, None)
        assert call.admit(0.0) is not None
        with pytest.raises(DeadlineExceeded) as caught:
            call.resume(3.0)
        assert (caught.value.started, caught.value.attempt) == (False, 0)
        assert not call.holds


def test_who_meets_a_full_bulkhead_after_its_turn_queues_no_longer_than_the_wait():
    living = plan(rate_limit=RateLimit(1, burst=2), bulkhead=Bulkhead(1, queue=1, wait=0.5), deadline=0.25)
    Call(living, 0.0, None).admit(0.0)
    step = Call(living, 0.0, None).admit(0.0)
    assert step.until == 0.25


def test_refusals_are_never_recovered_from():
    living = plan(retry=Retry(on=Exception))
    call = Call(living, 0.0, None)
    call.admit(0.0)
    error = Rejected("inner")
    assert call.failed(error, 0.0) is None
    assert not hasattr(error, "__notes__")


def test_latency_is_measured_from_the_attempt_and_not_from_the_wait_before_it():
    policy = Policy("p", rate_limit=RateLimit(1, wait=9), breaker=Breaker(slow_after=1.0, slow_rate=1.0, min_calls=3))
    with FakeClock():
        for _ in range(3):
            policy.call(Scripted(Step(after=0.5)))
        assert policy.breaker.snapshot()["slow"] == 0


def test_endless_is_endless():
    assert Deadline(math.inf, math.inf, None, None).remaining(5.0) == math.inf
