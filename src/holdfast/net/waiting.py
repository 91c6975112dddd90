"""Waiting for a socket under the ambient deadline."""

from __future__ import annotations

import math
import select
import selectors
import socket

from holdfast.deadlines import ambient
from holdfast.drivers import clock

# For one socket: epoll takes a file descriptor of its own, and three system calls more.
_Selector = getattr(selectors, "PollSelector", selectors.DefaultSelector)
_poll = getattr(select, "poll", None)


def wait_readable(sock: socket.socket, timeout: float | None = None) -> None:
    """Block until there is something to read, or the peer has closed.

    Raises:
        DeadlineExceeded: the ambient deadline passed.
        TimeoutError: `timeout` seconds passed.
    """
    _wait(sock, selectors.EVENT_READ, timeout)


def wait_writable(sock: socket.socket, timeout: float | None = None) -> None:
    """Block until something can be written. Raises as `wait_readable` does."""
    _wait(sock, selectors.EVENT_WRITE, timeout)


def is_readable(sock: socket.socket) -> bool:
    """Whether a read would return at once: data, or the end of the connection. A closed socket is readable."""
    if sock.fileno() < 0:
        return True
    if _poll is not None:  # selectors say the same in four times as long, and clients ask before every request
        poll = _poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    with _Selector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return bool(selector.select(0))


def _wait(sock: socket.socket, event: int, timeout: float | None) -> None:
    limit = ambient.get()
    now = clock.now()
    own_end = math.inf if timeout is None else now + timeout
    with _Selector() as selector:
        selector.register(sock, event)
        while True:
            if limit is not None:
                over = limit.over(now)
                if over is not None:
                    raise over
            if now >= own_end:
                raise TimeoutError(f"nothing for {timeout:g} s")
            end = own_end if limit is None else min(own_end, limit.look_at(now))
            if selector.select(None if end == math.inf else end - now):
                return
            now = clock.now()
