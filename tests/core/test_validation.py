"""Wrong arguments: each error names the field and what is allowed."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast import AdaptiveLimit, Backoff, Breaker, Budget, Bulkhead, Fallback, Hedge, Policy, RateLimit, Retry, validation
from holdfast.testing import FakeClock, Scripted, Step

NAN, INF, HUGE = math.nan, math.inf, 10**400

# What is wrong for every field of a kind.
POSITIVE = ("> 0 seconds and finite", [0, 0.0, -1, -0.001, NAN, INF, -INF, HUGE, -HUGE, "0s", timedelta(0), timedelta(seconds=-1)])
WAIT = (">= 0 seconds and finite", [-1, -0.001, NAN, INF, -INF, HUGE, timedelta(seconds=-1)])
NO_LENGTH = (
    'seconds, a timedelta or text like "250ms"',
    [True, False, "soon", "", "1", "-1s", "1 d", "1s ", "1  s", "\u0661s", [], {}, b"1s", 1j, Fraction(1)],
)
SHARE = ("in (0, 1]", [0, 0.0, -0.1, 1.0001, 2, NAN, INF, -INF, HUGE, True, False, "0.5", [], Fraction(1, 2)])
SHARE_OR_ZERO = ("in [0, 1]", [-0.1, 1.0001, 2, NAN, INF, True, False, "0.5", None])
FROM_ONE = ("a whole number >= 1", [0, -1, 1.0, 1.5, NAN, INF, True, False, "1", [], Fraction(2)])
FROM_ZERO = ("a whole number >= 0", [-1, 0.0, 1.5, NAN, INF, True, False, "0", None])
PREDICATE = ("must be callable or None", [1, "text", True, [], (len,)])
MATCHER = (
    "must be an exception type, a tuple of them, or a predicate on the exception",
    [1, "ValueError", True, None, [ValueError], int, (ValueError, int), (ValueError, len), (1,)],
)

# Field, values that it refuses, what the error says is allowed; `None` is added where it is refused, too.
TABLE = [
    (Backoff, "base", *WAIT[::-1], False),
    (Backoff, "base", *NO_LENGTH[::-1], True),
    (Backoff, "cap", *WAIT[::-1], False),
    (Backoff, "cap", *NO_LENGTH[::-1], True),
    (Backoff, "cap", [0.04, 0, "49ms"], ">= base (0.05 s)", False),
    (Backoff, "factor", [0.99, 0, -1, NAN, INF, HUGE, True, "2", []], ">= 1 and finite", True),
    (Backoff, "jitter", ["Full", "", "some", 1, True, []], "one of none, full, equal, decorrelated", True),
    (Retry, "attempts", *FROM_ONE[::-1], True),
    (Retry, "on", *MATCHER[::-1], True),
    (Retry, "on_result", *PREDICATE[::-1], False),
    (Retry, "delay_from", *PREDICATE[::-1], False),
    (Retry, "delay_max", *WAIT[::-1], False),
    (Retry, "delay_max", *NO_LENGTH[::-1], True),
    (Retry, "backoff", [1, 0.5, "full", Backoff], "a Backoff", True),
    (Retry, "budget", [1, 0.1, True, Budget], "a Budget or None", False),
    (Budget, "ratio", *SHARE_OR_ZERO[::-1], False),
    (Budget, "min_per_second", [-0.1, NAN, INF, HUGE, True, "1"], ">= 0 and finite", True),
    (Budget, "min_per_second", [1e308], "finite over the window", False),
    (Budget, "window", *POSITIVE[::-1], False),
    (Budget, "window", *NO_LENGTH[::-1], True),
    (Breaker, "failure_rate", *SHARE[::-1], False),
    (Breaker, "failure_rate", [None], "in (0, 1] where neither slow_rate nor consecutive is set", False),
    (Breaker, "min_calls", *FROM_ONE[::-1], True),
    (Breaker, "window", *POSITIVE[::-1], False),
    (Breaker, "window", *NO_LENGTH[::-1], True),
    (Breaker, "consecutive", *FROM_ONE[::-1], False),
    (Breaker, "open_for", *POSITIVE[::-1], False),
    (Breaker, "open_for", *NO_LENGTH[::-1], True),
    (Breaker, "open_for_max", *POSITIVE[::-1], False),
    (Breaker, "open_for_max", *NO_LENGTH[::-1], True),
    (Breaker, "open_for_max", [29.9, "29s"], ">= open_for (30 s)", False),
    (Breaker, "probe_share", *SHARE[::-1], True),
    (Breaker, "max_probes", *FROM_ONE[::-1], True),
    (Breaker, "probes_to_close", *FROM_ONE[::-1], True),
    (Breaker, "health_check", *PREDICATE[::-1], False),
    (Breaker, "on_result", *PREDICATE[::-1], False),
    (Breaker, "ignore", *MATCHER[::-1], True),
    (Bulkhead, "limit", *FROM_ONE[::-1], True),
    (Bulkhead, "limit", [1_000_001, HUGE], "<= 1000000", False),
    (Bulkhead, "queue", *FROM_ZERO[::-1], True),
    (Bulkhead, "wait", *WAIT[::-1], False),
    (Bulkhead, "wait", *NO_LENGTH[::-1], True),
    (RateLimit, "rate", [0, 0.0, -1, NAN, INF, HUGE, True, "1", []], "> 0 and finite", True),
    (RateLimit, "per", *POSITIVE[::-1], False),
    (RateLimit, "per", *NO_LENGTH[::-1], True),
    (RateLimit, "burst", *FROM_ONE[::-1], True),
    (RateLimit, "burst", [1_000_000_001, HUGE], "<= 1000000000", False),
    (RateLimit, "wait", *WAIT[::-1], False),
    (RateLimit, "wait", *NO_LENGTH[::-1], True),
    (AdaptiveLimit, "algorithm", ["Vegas", "", "gradient", 1, True], "one of vegas, aimd", True),
    (AdaptiveLimit, "initial", *FROM_ONE[::-1], True),
    (AdaptiveLimit, "initial", [1001], "<= max_limit (1000)", False),
    (AdaptiveLimit, "min_limit", *FROM_ONE[::-1], True),
    (AdaptiveLimit, "max_limit", *FROM_ONE[::-1], True),
    (AdaptiveLimit, "max_limit", [1_000_001, HUGE], "<= 1000000", False),
    (AdaptiveLimit, "backoff_ratio", *SHARE[::-1], True),
    (AdaptiveLimit, "slow_after", *POSITIVE[::-1], False),
    (AdaptiveLimit, "slow_after", *NO_LENGTH[::-1], False),
    (AdaptiveLimit, "smoothing", *SHARE[::-1], True),
    (AdaptiveLimit, "queue", *FROM_ZERO[::-1], True),
    (AdaptiveLimit, "wait", *WAIT[::-1], False),
    (AdaptiveLimit, "wait", *NO_LENGTH[::-1], True),
    (Hedge, "after", *POSITIVE[::-1], False),
    (Hedge, "after", *NO_LENGTH[::-1], False),
    (Hedge, "extra", *FROM_ONE[::-1], True),
    (Hedge, "min_calls", *FROM_ONE[::-1], True),
    (Hedge, "window", *POSITIVE[::-1], False),
    (Hedge, "window", *NO_LENGTH[::-1], True),
    (Hedge, "budget", [1, 0.1, True], "a Budget or None", False),
    (Hedge, "executor", [1, "threads", len], "an executor or None", False),
    (Fallback, "call", [1, "answer", []], "must be callable", False),
    (Fallback, "on", *MATCHER[::-1], True),
    (Policy, "deadline", *POSITIVE[::-1], False),
    (Policy, "deadline", *NO_LENGTH[::-1], False),
    (Policy, "attempt_timeout", *POSITIVE[::-1], False),
    (Policy, "attempt_timeout", *NO_LENGTH[::-1], False),
    (Policy, "retry", [3, True, Backoff(), Retry], "a Retry or None", False),
    (Policy, "hedge", [3, Retry(), Hedge], "a Hedge or None", False),
    (Policy, "breaker", [0.5, Breaker], "a Breaker or None", False),
    (Policy, "rate_limit", [100, RateLimit], "a RateLimit or None", False),
    (Policy, "bulkhead", [20, Bulkhead, AdaptiveLimit()], "a Bulkhead or None", False),
    (Policy, "adaptive", [20, AdaptiveLimit, Bulkhead(1)], "a AdaptiveLimit or None", False),
    (Policy, "fallback", [0, len, Fallback], "a Fallback or None", False),
    (Policy, "name", ["", 1, True, b"p", ["p"]], "a text that is not empty", True),
    (FakeClock, "start", [-1, NAN, INF, True, "1"], ">= 0 and finite", True),
    (Step, "after", *WAIT[::-1], False),
    (Step, "after", *NO_LENGTH[::-1], True),
]

NEEDED = {
    Bulkhead: {"limit": 1},
    RateLimit: {"rate": 1},
    Policy: {"name": "p"},
    Hedge: {"after": 1.0},
    Fallback: {"call": repr},
}
POSITIONAL = {("Bulkhead", "limit"), ("RateLimit", "rate"), ("Policy", "name"), ("Fallback", "call")}

ROWS = [
    pytest.param(kind, field, value, text, id=f"{kind.__name__}.{field}={value if value != HUGE else 'huge'!r}"[:60])
    for kind, field, values, text, none_too in TABLE
    for value in [*values, *([None] if none_too and None not in values else [])]
]


@pytest.mark.parametrize(("kind", "field", "value", "text"), ROWS)
def test_a_wrong_argument_is_an_error_that_names_the_field_and_what_is_allowed(kind, field, value, text):
    given_ = {**NEEDED.get(kind, {}), field: value}
    if kind is Hedge and field == "percentile":
        given_.pop("after")
    positional = [given_.pop(name) for name in list(given_) if (kind.__name__, name) in POSITIONAL]
    with pytest.raises((ValueError, TypeError)) as caught:
        kind(*positional, **given_)
    message = str(caught.value)
    assert message.startswith(f"{kind.__name__}.{field} must be ")
    assert text in message
    assert f"got {value!r}" in message


@pytest.mark.parametrize("value", SHARE[1])
@pytest.mark.parametrize("field", ["slow_rate"])
def test_a_wrong_share_of_slow_calls_names_the_field(field, value):
    with pytest.raises(ValueError, match=r"Breaker\.slow_rate must be in \(0, 1\]"):
        Breaker(slow_after=1.0, slow_rate=value)


@pytest.mark.parametrize("value", [*POSITIVE[1], *NO_LENGTH[1]])
def test_a_wrong_time_for_slow_calls_names_the_field(value):
    with pytest.raises(ValueError, match=r"Breaker\.slow_after must be (> 0 seconds and finite|seconds, a timedelta)"):
        Breaker(slow_after=value, slow_rate=0.5)


@pytest.mark.parametrize("value", SHARE[1])
def test_a_wrong_percentile_names_the_field(value):
    with pytest.raises(ValueError, match=r"Hedge\.percentile must be in \(0, 1\]"):
        Hedge(percentile=value)


def test_what_goes_together_is_asked_for_together():
    with pytest.raises(ValueError, match=r"^Breaker\.slow_after and Breaker\.slow_rate go together, got slow_after=1\.0, slow_rate=None"):
        Breaker(slow_after=1.0)
    with pytest.raises(ValueError, match=r"go together, got slow_after=None, slow_rate=0\.5"):
        Breaker(slow_rate=0.5)
    with pytest.raises(ValueError, match=r"^Hedge takes exactly one of after and percentile, got after=None, percentile=None"):
        Hedge()
    with pytest.raises(ValueError, match=r"exactly one of after and percentile, got after=1, percentile=0\.9"):
        Hedge(after=1, percentile=0.9)
    with pytest.raises(TypeError, match=r"^Fallback takes either a callable .* or value=, exactly one of them$"):
        Fallback()
    with pytest.raises(TypeError, match="exactly one of them"):
        Fallback(repr, value=1)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match=r"^Policy takes retry or hedge, not both; to have both, nest policies$"):
        Policy("p", retry=Retry(), hedge=Hedge(after=1))
    with pytest.raises(ValueError, match=r"^Policy takes bulkhead or adaptive, not both$"):
        Policy("p", bulkhead=Bulkhead(1), adaptive=AdaptiveLimit())


def test_limits_are_compared_with_each_other():
    with pytest.raises(ValueError, match=r"AdaptiveLimit\.max_limit must be a whole number >= 5, got 4"):
        AdaptiveLimit(min_limit=5, max_limit=4)
    with pytest.raises(ValueError, match=r"AdaptiveLimit\.initial must be a whole number >= 5, got 4"):
        AdaptiveLimit(min_limit=5, initial=4)
    with pytest.raises(ValueError, match=r"AdaptiveLimit\.initial must be <= max_limit \(9\), got 10"):
        AdaptiveLimit(max_limit=9, initial=10)


def test_the_ends_of_each_range_are_allowed():
    Backoff(base=0, cap=0, factor=1)
    Backoff(base=2, cap=2)
    Retry(attempts=1, delay_max=0)
    Budget(ratio=0, min_per_second=0)
    Budget(ratio=1)
    Breaker(failure_rate=1, min_calls=1, consecutive=1, open_for=300, open_for_max=300, probe_share=1, max_probes=1, probes_to_close=1)
    Breaker(failure_rate=None, consecutive=1)
    Breaker(failure_rate=None, slow_after=1, slow_rate=1)
    Bulkhead(1, queue=0, wait=0)
    RateLimit(0.001, burst=1, wait=0)
    AdaptiveLimit(initial=1, min_limit=1, max_limit=1, backoff_ratio=1, smoothing=1, queue=0, wait=0)
    Hedge(percentile=1, extra=1, min_calls=1)
    FakeClock(0)


@pytest.mark.parametrize("value", [*NO_LENGTH[1], None, NAN])
def test_a_deadline_block_wants_a_length_of_time(value):
    with pytest.raises(ValueError, match=r"^deadline must be "):
        holdfast.deadline(value)


@pytest.mark.parametrize("value", [*NO_LENGTH[1], *POSITIVE[1], None])
def test_a_shield_wants_a_length_of_time_that_ends(value):
    with pytest.raises(ValueError, match=r"^shield\.max_seconds must be "):
        holdfast.shield(value)


def test_a_script_has_at_least_one_step():
    with pytest.raises(ValueError, match="at least one step"):
        Scripted()


# Lengths of time.


@pytest.mark.parametrize(
    ("given_", "seconds"),
    [
        (2, 2.0),
        (0.25, 0.25),
        ("250ms", 0.25),
        ("250 ms", 0.25),
        ("7us", 7e-6),
        ("1.5s", 1.5),
        ("3 s", 3.0),
        ("2m", 120.0),
        ("1.5h", 5400.0),
        ("0s", 0.0),
        (timedelta(minutes=1, milliseconds=5), 60.005),
    ],
)
def test_a_length_of_time_is_seconds_a_timedelta_or_text(given_, seconds):
    read = validation.to_seconds("x", given_)
    assert read == pytest.approx(seconds)
    assert type(read) is float


@pytest.mark.parametrize("text", ["ms", "1.s", ".5s", "1,5s", "1S", "1MS", "1e3s", "+1s", "1s\n", " 1s", "1\u00a0s", "1d", "infs"])
def test_other_texts_are_no_length_of_time(text):
    with pytest.raises(ValueError, match=re.escape(f'x must be seconds, a timedelta or text like "250ms", got {text!r}')):
        validation.to_seconds("x", text)


@given(
    st.one_of(
        st.integers(),
        st.floats(),
        st.text(),
        st.booleans(),
        st.none(),
        st.timedeltas(),
        st.decimals(),
        st.binary(),
        st.lists(st.integers()),
    )
)
def test_whatever_is_given_a_check_returns_what_is_in_range_or_raises_a_value_error(value):
    checks = [
        (lambda: validation.positive_seconds("f", value), lambda x: 0 < x < INF),
        (lambda: validation.wait_seconds("f", value), lambda x: 0 <= x < INF),
        (lambda: validation.share("f", value), lambda x: 0 < x <= 1),
        (lambda: validation.share("f", value, zero=True), lambda x: 0 <= x <= 1),
        (lambda: validation.number("f", value, low=1.0), lambda x: 1 <= x < INF),
        (lambda: validation.number("f", value, low=1.0, low_open=True), lambda x: 1 < x < INF),
        (lambda: validation.count("f", value), lambda x: x >= 1),
    ]
    for check, holds in checks:
        try:
            checked = check()
        except ValueError as error:
            message = str(error)
        else:
            assert holds(checked)
            continue
        assert message.startswith("f must be ")
        assert message.endswith(f"got {value!r}")
