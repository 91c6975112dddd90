"""One blocking socket operation, bound by the ambient deadline.

For the length of the operation the socket's timeout is the lesser of its own and what is left; afterwards it is as it was. A timeout
that comes because of the deadline is DeadlineExceeded, any other is what it always was. So a peer that sends a byte every now and then,
each in good time, ends at the deadline all the same: what is left shrinks with every operation.

A socket's timeout belongs to all threads that use it. While two are in operations on the same socket, each waits in short turns and
looks at its own deadline in between, and a thread that has no deadline never sees a timeout that it did not set.
"""

from __future__ import annotations

import math
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock

P = ParamSpec("P")
R = TypeVar("R")

# How long a turn is where threads with different deadlines share a socket.
_TURN = 0.05
# Timers ring a rounding early.
_GRAIN = 1e-3
# A timeout of 0 would mean: do not wait, and raise something else.
LEAST = 1e-6


# A timeout in the middle of these does not leave things as they were, so they are made in one turn.
_ONCE = frozenset({"connect", "connect_ex"})


class _Held:
    """A socket whose timeout is ours for the moment: what it was, and how many operations hold it."""

    __slots__ = ("holders", "own")

    def __init__(self, own: float | None) -> None:
        self.own = own
        self.holders = 0


# By socket; empty for as long as no thread is in a bounded operation.
holds: dict[int, _Held] = {}
_lock = threading.Lock()


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()
    holds.clear()  # the operations are those of threads that only the parent has


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def bounded(sock: socket.socket, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Do one blocking operation of `sock` under the ambient deadline.

    Raises:
        DeadlineExceeded: the deadline passed.
        TimeoutError: the socket's own timeout passed.
    """
    limit = ambient.get()
    if limit is None:
        return _unbounded(sock, operation, *args, **kwargs)
    own = sock.gettimeout()
    if own == 0.0:  # it never waits, so there is nothing to bound
        return operation(*args, **kwargs)
    began = clock.now()
    if began >= limit.at:
        raise limit.exceeded(began)
    held = _hold(sock)
    try:
        return _in_turns(sock, held, limit, began, operation, *args, **kwargs)
    finally:
        _let_go(sock, held)


def _in_turns(
    sock: socket.socket, held: _Held, limit: Deadline, began: float, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> R:
    own_end = math.inf if held.own is None else began + held.own
    now = began
    look_at = _ends if operation.__name__ in _ONCE else Deadline.look_at
    while True:
        wait = min(look_at(limit, now), own_end) - now
        sock.settimeout(max(LEAST, wait if held.holders == 1 else min(wait, _TURN)))
        try:
            return operation(*args, **kwargs)
        except TimeoutError as error:
            now = clock.now()
            over = limit.over(now)
            if over is not None:
                raise over from error
            if now >= own_end:
                raise
            if error.errno is not None:
                raise  # the kernel gave the connection up (ETIMEDOUT); the end of a socket's timeout has no number


def _ends(limit: Deadline, _now: float) -> float:
    return limit.at


def _unbounded(sock: socket.socket, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """An operation without a deadline, on a socket that other threads hold or held: their timeouts are not its own."""
    began = clock.now()
    while True:
        try:
            return operation(*args, **kwargs)
        except TimeoutError as error:
            own = own_timeout(sock)
            if error.errno is not None or (own is not None and clock.now() - began >= own - _GRAIN):
                raise


def disturbed(sock: socket.socket, error: TimeoutError) -> bool:
    """Whether an operation without a deadline met a timeout that its socket does not have: another thread's, that came in between."""
    return error.errno is None and own_timeout(sock) is None


def alone(sock: socket.socket, timeout: float | None, operation: Callable[..., R], *args: Any, again: bool = True) -> R:
    """One operation on a socket whose timeout is nobody else's business: within `timeout` and the ambient deadline.

    It leaves the socket with whatever timeout it took: setting one is a system call, and this sets one where `bounded` sets two.

    Args:
        sock: the socket.
        timeout: its own, in seconds.
        operation: what to do with it.
        args: more for the operation.
        again: whether it can be done again after a timeout, as if nothing had been done; then a client that goes is noticed.

    Raises:
        DeadlineExceeded: the deadline passed.
        TimeoutError: `timeout` seconds passed.
    """
    limit = ambient.get()
    if limit is None:
        if sock.gettimeout() != timeout:
            sock.settimeout(timeout)
        return operation(sock, *args)
    now = clock.now()
    own_end = math.inf if timeout is None else now + timeout
    while True:
        left = (limit.look_at(now) if again else limit.at) - now
        if left <= 0:
            raise limit.exceeded(now)
        ours = now + left < own_end
        sock.settimeout(left if ours else max(LEAST, own_end - now))
        try:
            return operation(sock, *args)
        except TimeoutError as error:
            if not ours or error.errno is not None:
                raise
            now = max(clock.now(), now + left)  # timers ring a rounding early
            over = limit.over(now)
            if over is not None:
                raise over from error


def own_timeout(sock: socket.socket) -> float | None:
    """The timeout that the socket's owner has set, also while another is in force."""
    held = holds.get(id(sock))
    return sock.gettimeout() if held is None else held.own


def _hold(sock: socket.socket) -> _Held:
    with _lock:
        held = holds.get(id(sock))
        if held is None:
            held = holds[id(sock)] = _Held(sock.gettimeout())
        held.holders += 1
        return held


def _let_go(sock: socket.socket, held: _Held) -> None:
    with _lock:
        held.holders -= 1
        if held.holders:
            return
        del holds[id(sock)]
        with suppress(OSError):  # the operation ended with the socket closed
            sock.settimeout(held.own)
