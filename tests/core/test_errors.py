"""The error tree: who is whose child, what each says, and that all of it survives a pickle."""

from __future__ import annotations

import copy
import math
import pickle

import pytest

import holdfast
from holdfast import (
    Breaker,
    BreakerOpen,
    BulkheadFull,
    DeadlineExceeded,
    HoldfastError,
    LockOverrun,
    Overloaded,
    Policy,
    RateLimited,
    Rejected,
    StoreUnavailable,
)

REFUSALS = {
    BreakerOpen: "the breaker is open, nothing was called",
    BulkheadFull: "the bulkhead is full, nothing was called",
    RateLimited: "the rate limit is used up, nothing was called",
    Overloaded: "overloaded, the request was shed",
}


def test_the_tree_is_the_documented_one():
    assert all(kind.__bases__ == (Rejected,) for kind in REFUSALS)
    assert Rejected.__bases__ == LockOverrun.__bases__ == StoreUnavailable.__bases__ == (HoldfastError,)
    assert DeadlineExceeded.__bases__ == (HoldfastError, TimeoutError)
    assert HoldfastError.__bases__ == (Exception,)


def test_every_error_is_public():
    kinds = [HoldfastError, Rejected, *REFUSALS, DeadlineExceeded, LockOverrun, StoreUnavailable]
    assert all(kind.__name__ in holdfast.__all__ for kind in kinds)


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_says_who_refused_and_when_to_ask_again(kind):
    error = kind("billing", 2.5)
    assert (error.policy, error.retry_after) == ("billing", 2.5)
    assert str(error) == f"billing: {REFUSALS[kind]}; try again in 2.5 s"
    assert str(kind("billing")) == f"billing: {REFUSALS[kind]}"
    assert kind("billing").retry_after is None


@pytest.mark.parametrize("after", [None, math.inf])
def test_a_refusal_that_cannot_tell_when_says_nothing(after):
    assert BreakerOpen("billing", after).retry_after is None
    assert "again" not in str(BreakerOpen("billing", after))


def test_a_refusal_made_of_nothing_can_be_read():
    error = Rejected()
    assert (error.policy, error.retry_after, str(error)) == ("", None, ": refused")


def test_a_refusal_in_zero_seconds_is_a_number():
    error = Rejected("p", 0)
    assert error.retry_after == 0.0
    assert type(error.retry_after) is float


def test_a_deadline_tells_what_was_given_and_what_passed():
    error = DeadlineExceeded("billing", 2.0, 2.25, True, 3, "attempt timeout")
    assert (error.policy, error.budget, error.elapsed, error.started, error.attempt, error.what) == (
        ("billing", 2.0, 2.25, True, 3, "attempt timeout")
    )
    assert str(error) == "billing: attempt timeout of 2 s exceeded after 2.25 s, in attempt 3"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "deadline exceeded after 0 s, before it was started"),
        (("p", 1.0, 1.5, False), "p: deadline of 1 s exceeded after 1.5 s, before it was started"),
        (("p", 1.0, 1.5, True), "p: deadline of 1 s exceeded after 1.5 s"),
        ((None, 1.0, 1.5, True), "deadline of 1 s exceeded after 1.5 s"),
        (("p", 0.0, 1.5, True), "p: deadline exceeded after 1.5 s"),
        (("p", -1.0, 1.5, True), "p: deadline exceeded after 1.5 s"),
        (("p", math.inf, 1.5, True), "p: deadline exceeded after 1.5 s"),
    ],
)
def test_a_deadline_in_words(args, text):
    assert str(DeadlineExceeded(*args)) == text


def test_the_defaults_of_a_deadline_error_claim_nothing():
    error = DeadlineExceeded()
    assert (error.policy, error.budget, error.elapsed, error.started, error.attempt, error.what) == (
        None,
        math.inf,
        0.0,
        False,
        0,
        "deadline",
    )
    assert error._source is None


def test_an_error_of_somebody_elses_deadline_is_not_told_our_attempt():
    theirs = pickle.loads(pickle.dumps(DeadlineExceeded("stock", 1.0, 1.5, True)))

    def asks_another_process():
        raise theirs

    with pytest.raises(DeadlineExceeded):
        Policy("billing", breaker=Breaker()).call(asks_another_process)
    assert theirs.attempt == 0


def test_an_overrun_says_how_long_it_ran_outside():
    error = LockOverrun("order:42", 31.5, 30.0)
    assert (error.name, error.ran, error.allowed, error.outside) == ("order:42", 31.5, 30.0, 1.5)
    assert str(error) == "lock 'order:42': the work ran for 31.5 s, allowed were 30 s; the last 1.5 s ran outside of the lock"
    assert LockOverrun("x", 1.0, 2.0).outside == 0.0


EVERY = [
    *(kind("billing", 1.5) for kind in (Rejected, *REFUSALS)),
    Rejected("billing"),
    DeadlineExceeded("billing", 2.0, 2.25, True, 3, "attempt timeout"),
    DeadlineExceeded(),
    LockOverrun("order:42", 31.5, 30.0),
    StoreUnavailable("redis is gone"),
    HoldfastError("text"),
]


@pytest.mark.parametrize("error", EVERY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_pickles(error, protocol):
    error.add_note("a note")
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    assert back.__notes__ == error.__notes__
    for name in ("policy", "retry_after", "budget", "elapsed", "started", "attempt", "what", "name", "ran", "allowed", "outside"):
        assert getattr(back, name, None) == getattr(error, name, None)


def test_a_copied_deadline_error_knows_nothing_of_the_deadline_that_made_it():
    error = DeadlineExceeded("p", 1.0, 2.0, True)
    error._source = holdfast.deadlines.Deadline(1.0, 1.0, "p", None)
    assert copy.copy(error)._source is None
