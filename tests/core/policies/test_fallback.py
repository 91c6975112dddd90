"""Fallback: an answer for when there is none."""

from __future__ import annotations

import pytest

import holdfast
from holdfast import Breaker, BreakerOpen, DeadlineExceeded, Fallback, Policy, Retry, events
from holdfast.testing import FakeClock, Scripted, Step


@pytest.mark.parametrize("value", ["none", None, 0, [], False])
def test_a_value_is_the_answer_whatever_it_is(drive, value):
    assert drive.call(Policy("p", fallback=Fallback(value=value)), Scripted(ConnectionError())) is value


def test_a_callable_is_asked_with_the_exception(drive):
    error = ConnectionError("gone")
    assert drive.call(Policy("p", fallback=Fallback(drive.made(lambda e: e))), Scripted(error)) is error


def test_a_success_is_not_touched(drive):
    asked = []
    assert drive.call(Policy("p", fallback=Fallback(asked.append)), Scripted("tax")) == "tax"
    assert asked == []


@pytest.mark.parametrize("on", [ConnectionError, (KeyError, ConnectionError), lambda error: isinstance(error, ConnectionError)])
def test_it_answers_for_the_named_kinds_only(drive, on):
    policy = Policy("p", fallback=Fallback(value="none", on=on))
    assert drive.call(policy, Scripted(ConnectionError())) == "none"
    with pytest.raises(ValueError, match="wrong"):
        drive.call(policy, Scripted(ValueError("wrong")))


def test_it_answers_for_refusals_and_for_the_policys_own_deadline(drive):
    policy = Policy("p", deadline=1.0, breaker=Breaker(), fallback=Fallback(value="none", on=(BreakerOpen, DeadlineExceeded)))
    assert drive.call(policy, Scripted(Step(after=2.0))) == "none"
    drive.look(policy.breaker.force_open)
    assert drive.call(policy, Scripted("tax")) == "none"


def test_it_comes_after_the_retries(drive):
    dependency = Scripted(ConnectionError())
    assert drive.call(Policy("p", retry=Retry(attempts=3), fallback=Fallback(value="none")), dependency) == "none"
    assert dependency.calls == 3


def test_it_does_not_answer_a_caller_whose_own_deadline_has_passed(drive):
    policy = Policy("p", fallback=Fallback(value="none"))
    dependency = Scripted(Step(after=2.0))
    if drive.is_async:

        async def main():
            async with holdfast.deadline(1.0):
                await policy.acall(dependency.acall)

        with pytest.raises(DeadlineExceeded):
            drive.clock.run(main())
    else:
        with drive.clock, pytest.raises(DeadlineExceeded), holdfast.deadline(1.0):
            policy.call(dependency)


def test_it_answers_for_a_deadline_further_in_than_the_callers(drive):
    policy = Policy("p", deadline=0.5, fallback=Fallback(value="none"))
    dependency = Scripted(Step(after=2.0))
    if drive.is_async:

        async def main():
            async with holdfast.deadline(1.0):
                return await policy.acall(dependency.acall)

        assert drive.clock.run(main()) == "none"
    else:
        with drive.clock, holdfast.deadline(1.0):
            assert policy.call(dependency) == "none"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_it_does_not_answer_for_what_interrupts(kind):
    with pytest.raises(kind):
        Policy("p", fallback=Fallback(value="none", on=BaseException)).call(Scripted(kind()))


def test_a_fallback_that_raises_raises_with_what_it_answered_for(drive):
    error = ConnectionError()

    def answer(_):
        raise KeyError("cache")

    with pytest.raises(KeyError) as caught:
        drive.call(Policy("p", fallback=Fallback(answer)), Scripted(error))
    assert caught.value.__context__ is error


def test_an_async_fallback_of_a_blocking_call_is_a_type_error():
    async def answer(_):
        return "none"

    with pytest.raises(TypeError, match="answer returned a coroutine to a blocking call"):
        Policy("p", fallback=Fallback(answer)).call(Scripted(ConnectionError()))


def test_an_async_call_may_have_a_blocking_fallback():
    assert FakeClock().run(Policy("p", fallback=Fallback(lambda error: "none")).acall(Scripted(ConnectionError()).acall)) == "none"


def test_it_is_told(drive):
    told = []
    error = ConnectionError()
    stop = events.subscribe(lambda event: told.append(event) if isinstance(event, events.FellBack) else None)
    try:
        drive.call(Policy("p", fallback=Fallback(value="none")), Scripted(error))
    finally:
        stop()
    assert told == [events.FellBack("p", error)]


def answer_from_cache(error):
    return "cached"


NAMELESS = Scripted("cached")


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (Fallback(value=0), "on Exception answers 0"),
        (Fallback(Scripted.__call__), "on Exception answers what __call__ says"),
        (Fallback(NAMELESS), f"on Exception answers what {NAMELESS} says"),
        (Fallback(answer_from_cache, on=(ValueError, KeyError)), "on ValueError, KeyError answers what answer_from_cache says"),
    ],
)
def test_it_describes_itself(rules, words):
    assert rules.describe() == words


def test_what_is_not_given_says_so():
    assert repr(Fallback(repr)) == f"Fallback(call={repr!r}, value=<not given>, on={Exception!r})"
