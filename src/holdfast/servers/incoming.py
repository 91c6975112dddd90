"""What the shield reads of a request's headers, from WSGI's environ and ASGI's scope alike. Everything here may be hostile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from holdfast import headers

if TYPE_CHECKING:
    from holdfast.servers.interfaces import Environ, Scope

_TIMEOUTS = ("x-request-timeout-ms", "grpc-timeout", "x-envoy-expected-rq-timeout-ms")
_STARTS = ("x-request-start", "x-queue-start")

_TIMEOUT_BYTES = frozenset(name.encode() for name in _TIMEOUTS)
_START_BYTES = frozenset(name.encode() for name in _STARTS)
_TIMEOUT_KEYS = tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in _TIMEOUTS)
_START_KEYS = tuple(f"HTTP_{name.upper().replace('-', '_')}" for name in _STARTS)

# nginx writes seconds with a fraction, Heroku milliseconds, Apache microseconds; 19 digits are nanoseconds.
_START = re.compile(r"(?:t=)?([0-9]{1,19})(?:\.([0-9]{1,9}))?", re.ASCII)

# Nobody waits longer than this: a start before it is a wrong clock or a joke, and says nothing.
_LONGEST_WAIT = 3600.0


def path_of(environ: Environ) -> str:
    """The path of a WSGI request, with the mount point, as ASGI's `path` has it."""
    mount = environ.get("SCRIPT_NAME")
    path: str = environ.get("PATH_INFO", "")
    return f"{mount}{path}" if mount else path


def timeout_of_scope(scope: Scope) -> float | None:
    """Seconds that the caller still waits, by its headers; None where it does not say. Proxies and servers may join by commas what came
    more than once.
    """
    found = None
    for name, value in scope["headers"]:
        if name in _TIMEOUT_BYTES:
            read = headers.parse_grpc_timeout if name == b"grpc-timeout" else headers.parse_milliseconds
            for part in value.decode("latin-1").split(","):
                seconds = read(part)
                if seconds is not None and (found is None or seconds < found):
                    found = seconds
    return found


def timeout_of_environ(environ: Environ) -> float | None:
    """The same of a WSGI request."""
    found = None
    for key in _TIMEOUT_KEYS:
        if key in environ:
            read = headers.parse_grpc_timeout if key == "HTTP_GRPC_TIMEOUT" else headers.parse_milliseconds
            for part in str(environ[key]).split(","):
                seconds = read(part)
                if seconds is not None and (found is None or seconds < found):
                    found = seconds
    return found


def waited_by_scope(scope: Scope, wall: Callable[[], float] = time.time) -> float:
    """Seconds that the request has waited since the first proxy that stamped it; 0 where nobody did.

    Args:
        scope: the request.
        wall: the wall clock, in seconds since the epoch; most requests need not ask it.
    """
    longest = 0.0
    for name, value in scope["headers"]:
        if name in _START_BYTES:
            longest = max(longest, waited(value.decode("latin-1").split(","), wall()))
    return longest


def waited_by_environ(environ: Environ, wall: Callable[[], float] = time.time) -> float:
    """The same of a WSGI request."""
    longest = 0.0
    for key in _START_KEYS:
        if key in environ:
            longest = max(longest, waited(str(environ[key]).split(","), wall()))
    return longest


def waited(stamps: Iterable[str], now: float) -> float:
    """The longest wait that any of these stamps tells of. One that cannot be read, is in the future, or is hours ago tells nothing.

    Args:
        stamps: what the headers said.
        now: the wall clock, in seconds since the epoch.
    """
    longest = 0.0
    for stamp in stamps:
        match = _START.fullmatch(stamp.strip(" \t"))
        if match is None:
            continue
        number = float(f"{match[1]}.{match[2] or 0}")
        wait = now - number / _unit(number)
        if longest < wait <= _LONGEST_WAIT:
            longest = wait
    return longest


def _unit(number: float) -> float:
    """How many of the stamp's units are a second, by its size: seconds have 10 digits until the year 2286."""
    for unit in (1e9, 1e6, 1e3):
        if number >= 1e8 * unit:
            return unit
    return 1.0
