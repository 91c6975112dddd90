"""One blocking socket operation, bound by the ambient deadline.

For the length of the operation the socket's timeout is the lesser of its own and what is left; afterwards it is as it was. A timeout
that comes because of the deadline is DeadlineExceeded, any other is what it always was. So a peer that sends a byte every now and then,
each in good time, ends at the deadline all the same: what is left shrinks with every operation.

A socket's timeout belongs to all threads that use it. While two are in operations on the same socket, each waits in short turns and
looks at its own deadline in between, and a thread that has no deadline never sees a timeout that it did not set.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock

P = ParamSpec("P")
R = TypeVar("R")

# How long a turn is where threads with different deadlines share a socket.
_TURN = 0.05
# A timeout of 0 would mean: do not wait, and raise something else.
_LEAST = 1e-6


class _Held:
    """A socket whose timeout is ours for the moment: what it was, and how many operations hold it."""

    __slots__ = ("holders", "own")

    def __init__(self, own: float | None) -> None:
        self.own = own
        self.holders = 0


# By socket; empty for as long as no thread is in a bounded operation.
_held: dict[int, _Held] = {}
_lock = threading.Lock()


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
    own_end = float("inf") if held.own is None else began + held.own
    now = began
    while True:
        wait = min(limit.at, own_end) - now
        sock.settimeout(max(_LEAST, wait if held.holders == 1 else min(wait, _TURN)))
        try:
            return operation(*args, **kwargs)
        except TimeoutError as error:
            now = clock.now()
            if now >= limit.at:
                raise limit.exceeded(now) from error
            if now >= own_end:
                raise
            if held.holders == 1 and now < min(limit.at, own_end) - _TURN:
                raise  # it was the operation's own timeout (a proxy's, the kernel's), not the socket's


def _unbounded(sock: socket.socket, operation: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    began = clock.now() if _held else 0.0
    while True:
        try:
            return operation(*args, **kwargs)
        except TimeoutError:
            held = _held.get(id(sock))
            if held is None or (held.own is not None and clock.now() - began >= held.own):
                raise


def _hold(sock: socket.socket) -> _Held:
    with _lock:
        held = _held.get(id(sock))
        if held is None:
            held = _held[id(sock)] = _Held(sock.gettimeout())
        held.holders += 1
        return held


def _let_go(sock: socket.socket, held: _Held) -> None:
    with _lock:
        held.holders -= 1
        if held.holders:
            return
        del _held[id(sock)]
        with suppress(OSError):  # the operation ended with the socket closed
            sock.settimeout(held.own)


def is_held(sock: socket.socket) -> bool:
    """Whether the socket's timeout is that of a bounded operation for the moment."""
    return bool(_held) and id(sock) in _held
