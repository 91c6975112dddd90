"""Timeouts and delays in headers: what comes from outside can be anything. The published tables are in test_vectors."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast import headers

MAYBE_A_TIMEOUT = st.one_of(st.text(), st.from_regex(r"\A[0-9]{0,20}[A-Za-z]?\Z"), st.from_regex(r"\A[ \t]*[-+]?[0-9.]{0,20}[ \t]*\Z"))


@given(MAYBE_A_TIMEOUT)
def test_whatever_the_text_the_readers_of_timeouts_give_seconds_or_nothing(text):
    for reader in (headers.parse_grpc_timeout, headers.parse_milliseconds):
        seconds = reader(text)
        assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@given(st.one_of(st.text(), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=70)), st.floats(0, 4e9))
@example("Mon, 99 Jun 2019 12:00:00 GMT", 0.0)
@example("Mon, 03 Jun 20199999999999 12:00:00 GMT", 0.0)
@example("Mon, 03 Jun 0001 00:00:00 +2359", 0.0)
@example("A" * 64, 0.0)
@example("Jan 1", 0.0)
def test_whatever_the_text_retry_after_is_seconds_or_nothing(text, now):
    seconds = headers.parse_retry_after(text, now)
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


@given(st.floats(0, 1e10))
def test_a_grpc_timeout_that_was_written_reads_as_no_more_and_hardly_less(seconds):
    text = headers.format_grpc_timeout(seconds)
    read = headers.parse_grpc_timeout(text)
    assert read is not None
    assert read <= seconds * (1 + 1e-12)
    assert read >= seconds * (1 - 1e-4) - 1e-9 or seconds > 99_999_999 * 3600.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0n"),
        (-1, "0n"),
        (1e-9, "1n"),
        (0.01, "10000000n"),
        (0.0999999994, "99999999n"),
        (0.1, "100000u"),
        (1.0, "1000000u"),
        (99.5, "99500000u"),
        (100.0, "100000m"),
        (99_999.0, "99999000m"),
        (100_000.0, "100000S"),
        (99_999_999.0, "99999999S"),
        (100_000_000.0, "1666666M"),
        (6_000_000_000.0, "1666666H"),
        (math.inf, "99999999H"),
        (1e300, "99999999H"),
    ],
)
def test_a_grpc_timeout_is_written_in_the_finest_unit_that_fits_eight_digits(seconds, text):
    assert headers.format_grpc_timeout(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250", 0.25),
        (" 250\t", 0.25),
        ("0", 0.0),
        ("1500", 1.5),
        ("9" * 18, 999999999999999.999),
        ("9" * 19, None),
        ("", None),
        (" ", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("²", None),
        ("\u0663", None),
        ("12\n", None),
        ("X12", None),
        ("12X", None),
        ("1 2", None),
    ],
)
def test_milliseconds_are_whole_numbers_of_ascii_digits(text, seconds):
    assert headers.parse_milliseconds(text) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250"), (0.0009, "0"), (0.0019, "1"), (1.9999, "1999"), (0, "0"), (-3, "0"), (12.0, "12000"), (math.inf, "9" * 15)],
)
def test_milliseconds_are_written_rounded_down(seconds, text):
    assert headers.format_milliseconds(seconds) == text
    assert headers.parse_milliseconds(text) is not None


@given(st.floats(0, 1e9))
def test_milliseconds_never_lengthen_a_deadline(seconds):
    read = headers.parse_milliseconds(headers.format_milliseconds(seconds))
    assert read is not None
    assert seconds - 0.0010001 <= read <= seconds * (1 + 1e-12)


def test_of_several_timeouts_the_least_counts():
    pairs = [("grpc-timeout", "2S"), ("X-Request-Timeout-Ms", "1500"), ("x-envoy-expected-rq-timeout-ms", "1700"), ("host", "1")]
    assert headers.timeout(pairs) == 1.5
    assert headers.timeout(reversed(pairs)) == 1.5
    assert headers.timeout([("X-ENVOY-Expected-RQ-Timeout-Ms", "9")]) == 0.009
    assert headers.timeout([("GRPC-TIMEOUT", "3S"), ("grpc-timeout", "2S"), ("grpc-timeout", "4S")]) == 2.0


def test_a_timeout_that_cannot_be_read_is_as_if_it_were_not_there():
    assert headers.timeout([("grpc-timeout", "soon"), ("x-request-timeout-ms", "400")]) == 0.4
    assert headers.timeout([("grpc-timeout", "soon")]) is None
    assert headers.timeout([("timeout", "3")]) is None
    assert headers.timeout([]) is None


def test_a_timeout_of_nothing_is_a_timeout():
    assert headers.timeout([("x-request-timeout-ms", "0"), ("grpc-timeout", "1S")]) == 0.0


def test_a_date_is_read_up_to_the_length_that_any_date_has():
    longest = "Mon, 03 Jun 2019" + " " * 36 + "11:30:12 GMT"
    assert len(longest) == 64
    assert headers.parse_retry_after(longest, 1_559_559_600.0) == 1812
    assert headers.parse_retry_after(longest.replace("2019", "2019 "), 1_559_559_600.0) is None


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be changed here")
def test_the_zone_of_the_machine_does_not_matter(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Jerusalem")
        time.tzset()
        assert headers.parse_retry_after("Mon, 03 Jun 2019 11:30:12 -0000", 1_559_559_600.0) == 1812
    time.tzset()
