"""Bad fields are errors which name field and range; nothing here takes time."""

from __future__ import annotations

import dataclasses
import math
import re
from datetime import timedelta

import pytest

from holdfast.testing.faults import (
    Bandwidth,
    Cut,
    Drip,
    EndlessHeaders,
    FaultProxy,
    HalfClose,
    Latency,
    Refused,
    Reset,
    Silence,
    TlsStall,
    Trickle1xx,
    parse_fault,
    stalled_dns,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Drip(interval=0), "Drip.interval must be > 0 seconds and finite, got 0"),
        (lambda: Drip(interval=math.nan), "Drip.interval must be > 0 seconds and finite, got nan"),
        (lambda: Drip(interval=1, size=0), "Drip.size must be a whole number >= 1, got 0"),
        (lambda: Latency(delay=-1), "Latency.delay must be >= 0 seconds and finite, got -1"),
        (lambda: Latency(delay=1, jitter="much"), "Latency.jitter must be seconds, a timedelta or text like \"250ms\", got 'much'"),
        (lambda: Bandwidth(rate=0), "Bandwidth.rate must be > 0 and finite, got 0"),
        (lambda: Silence(after=-1), "Silence.after must be a whole number >= 0, got -1"),
        (lambda: Reset(direction="left"), "Reset.direction must be one of down, up, got 'left'"),
        (lambda: Reset(probability=0), "Reset.probability must be in (0, 1], got 0"),
        (lambda: TlsStall(probability=1.5), "TlsStall.probability must be in (0, 1], got 1.5"),
        (lambda: Cut(where="end"), "Cut.where must be one of start, data, headers, body, got 'end'"),
        (lambda: HalfClose(after=1.5), "HalfClose.after must be a whole number >= 0, got 1.5"),
        (lambda: Trickle1xx(interval=0), "Trickle1xx.interval must be > 0 seconds and finite, got 0"),
        (lambda: Trickle1xx(interval=1, count=0), "Trickle1xx.count must be a whole number >= 1, got 0"),
        (lambda: Trickle1xx(interval=1, status=200), "Trickle1xx.status must be one of 100, 102, 103, got 200"),
        (lambda: EndlessHeaders(interval=-1), "EndlessHeaders.interval must be >= 0 seconds and finite, got -1"),
        (lambda: FaultProxy(to=("127.0.0.1", 0)), "FaultProxy.to port must be a whole number in [1, 65535], got 0"),
        (lambda: FaultProxy(listen=("127.0.0.1", 65536)), "FaultProxy.listen port must be a whole number in [0, 65535], got 65536"),
        (lambda: FaultProxy(seed=-1), "FaultProxy.seed must be a whole number >= 0, got -1"),
        (lambda: stalled_dns(-1), "stalled_dns.seconds must be >= 0 seconds and finite, got -1"),
    ],
)
def test_a_field_out_of_range_is_a_value_error(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_what_is_no_fault_is_a_type_error():
    for bad in (Drip, "drip", None):
        with pytest.raises(TypeError, match="takes faults"):
            FaultProxy(faults=[bad])
        with pytest.raises(TypeError, match="takes faults"):
            FaultProxy().set(bad)


def test_faults_are_values():
    assert Drip(interval=1.0) == Drip(interval=1.0)
    assert len({Reset(), Reset(), Reset(after=1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Reset().after = 2
    with pytest.raises(TypeError):
        Drip(1.0)
    Drip(interval=timedelta(seconds=1))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drip=1.0", Drip(interval=1.0)),
        ("drip=50ms,size=3,direction=up", Drip(interval="50ms", size=3, direction="up")),
        ("latency=100ms,jitter=20ms", Latency(delay="100ms", jitter="20ms")),
        ("bandwidth=64000", Bandwidth(rate=64000)),
        ("silence=100,probability=0.5", Silence(after=100, probability=0.5)),
        ("reset", Reset()),
        ("cut,where=body,after=3", Cut(where="body", after=3)),
        ("half-close=10", HalfClose(after=10)),
        ("refused", Refused()),
        ("tls-stall", TlsStall()),
        ("trickle-1xx=0.2,count=5", Trickle1xx(interval=0.2, count=5)),
        ("endless-headers", EndlessHeaders()),
    ],
)
def test_a_fault_in_words(text, fault):
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dirp=1", "unknown fault 'dirp', known are bandwidth, cut, drip"),
        ("", "unknown fault ''"),
        ("drip", "drip needs a value: drip=INTERVAL"),
        ("drip=", "Drip.interval must be seconds, a timedelta or text"),
        ("drip=0", "Drip.interval must be > 0 seconds and finite, got 0"),
        ("drip=nan", "Drip.interval must be > 0 seconds and finite, got nan"),
        ("drip=1,interval=2", "drip has interval twice"),
        ("drip=1,speed=2", "drip takes direction, interval, probability, size as name=value, got 'speed=2'"),
        ("drip=1,", "drip takes direction, interval, probability, size as name=value, got ''"),
        ("refused=1", "refused takes no value, got '1'"),
        ("refused,x=1", "refused takes no fields as name=value, got 'x=1'"),
    ],
)
def test_bad_words_are_a_value_error(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_fault(text)
