"""The forms in which deadlines and delays travel in headers. Everything here comes from outside and may be hostile.

A timeout header can only shorten a deadline: what cannot be read is as if it were not there, and the reader takes
the least of all that can be (see `timeout`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC

# gRPC over HTTP/2: TimeoutValue is a positive integer of at most 8 ASCII digits, then one unit.
_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_GRPC_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_GRPC_LONGEST = (10**8 - 1) * 3600.0

# Eighteen digits of milliseconds are 30 million years; more is noise, and int() of a megabyte of digits is an attack.
_MILLISECONDS = re.compile(r"[0-9]{1,18}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,18}", re.ASCII)
_LONGEST_MILLISECONDS = 10**15 - 1  # written for no deadline at all: a reader takes it, and a float tells it from the next


def parse_grpc_timeout(text: str) -> float | None:
    """Seconds of a `grpc-timeout` header; None for anything that the specification does not allow."""
    match = _GRPC.fullmatch(text)
    return int(match[1]) * _GRPC_UNITS[match[2]] if match else None


def format_grpc_timeout(seconds: float) -> str:
    """A `grpc-timeout` header that is never longer than `seconds`, in the finest unit that fits 8 digits."""
    left = min(max(0.0, seconds), _GRPC_LONGEST)
    for unit, scale in (("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("S", 1.0), ("M", 60.0)):
        value = math.floor(left / scale)
        if value < 10**8:
            return f"{value}{unit}"
    return f"{math.floor(left / 3600)}H"


def parse_milliseconds(text: str) -> float | None:
    """Seconds of an `X-Request-Timeout-Ms` or `x-envoy-expected-rq-timeout-ms` header; None where it cannot be read."""
    stripped = text.strip(" \t")
    return int(stripped) / 1000.0 if _MILLISECONDS.fullmatch(stripped) else None


def format_milliseconds(seconds: float) -> str:
    """An `X-Request-Timeout-Ms` header: whole milliseconds, rounded down so that it never lengthens."""
    milliseconds = seconds * 1000.0
    if milliseconds > _LONGEST_MILLISECONDS:
        return str(_LONGEST_MILLISECONDS)
    return str(int(milliseconds)) if milliseconds > 0.0 else "0"


_READERS = {
    "x-request-timeout-ms": parse_milliseconds,
    "grpc-timeout": parse_grpc_timeout,
    "x-envoy-expected-rq-timeout-ms": parse_milliseconds,
}


def timeout(headers: Iterable[tuple[str, str]]) -> float | None:
    """Seconds that the caller still waits: the least that any timeout header says, or None.

    Args:
        headers: pairs of name (any case) and value. A repeated header counts each time.
    """
    least: float | None = None
    for name, value in headers:
        reader = _READERS.get(name.lower())
        seconds = reader(value) if reader else None
        if seconds is not None and (least is None or seconds < least):
            least = seconds
    return least


def parse_retry_after(text: str, now: float) -> float | None:
    """Seconds of a `Retry-After` header: whole seconds or an HTTP date; None where it cannot be read.

    Args:
        text: the value; white space around it is allowed, signs, fractions and non-ASCII digits are not.
        now: the wall clock, in seconds since the epoch, for dates. A date in the past is 0.
    """
    stripped = text.strip(" \t")
    if _SECONDS.fullmatch(stripped):
        return float(stripped)
    if not stripped.isascii() or not stripped[:1].isalpha() or len(stripped) > 64:
        return None
    from email.utils import parsedate_to_datetime  # a heavy import for a rare form

    try:
        date = parsedate_to_datetime(stripped)
        if date.tzinfo is None:  # "-0000", or no zone at all: HTTP dates are always GMT
            date = date.replace(tzinfo=UTC)
        return max(0.0, date.timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
