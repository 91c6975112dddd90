"""A TCP connection, within the deadline, by whichever of the host's addresses answers first.

A host has several addresses, and the first may be a black hole (IPv6 that goes nowhere is the usual one). Trying one after the
other, each with the whole timeout, spends the deadline on the first. Here the next is tried when the one before has failed or has
not answered for a quarter of a second, and the first to connect wins (Happy Eyeballs, RFC 8305: families take turns, 250 ms apart).
"""

from __future__ import annotations

import errno
import math
import os
import selectors
import socket
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded
from holdfast.net.dns import AddressInfo, getaddrinfo
from holdfast.net.sockets import Socket

_STAGGER = 0.25

# Small writes go out at once; every HTTP client sets this.
NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
STREAM = socket.SOCK_STREAM

SocketOptions = Iterable[tuple[int, int, int | bytes]]


def connect(
    address: tuple[str, int],
    timeout: float | None = None,
    source_address: tuple[str, int] | None = None,
    options: SocketOptions = (),
) -> Socket:
    """Connect to a host and port, within the timeout and the ambient deadline, whichever ends first.

    Args:
        address: host (a name or an address) and port.
        timeout: seconds for everything, the look-up included; None for no bound but the deadline. It stays the socket's timeout.
        source_address: where to connect from.
        options: for `setsockopt`, before connecting.

    Raises:
        DeadlineExceeded: the deadline passed.
        TimeoutError: the timeout passed.
        OSError: the look-up failed, or no address accepts; then the error of the first.
    """
    limit = ambient.get()
    began = clock.now()
    end = math.inf if timeout is None else began + timeout
    addresses = interleave(_look_up(address, timeout, end))
    if not addresses:
        raise OSError(f"{address[0]!r} has no address")
    race = _Race(addresses, source_address, options)
    try:
        sock = race.run(end if limit is None else min(end, limit.at))
    finally:
        race.close()
    if sock is None:
        now = clock.now()
        if limit is not None and now >= limit.at:
            raise limit.exceeded(now)
        if race.errors and not race.timed_out:
            raise race.errors[0]
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    sock.settimeout(timeout)
    return sock


def _look_up(address: tuple[str, int], timeout: float | None, end: float) -> list[AddressInfo]:
    limit = ambient.get()
    if timeout is None or (limit is not None and limit.at <= end):
        return getaddrinfo(address[0], address[1], 0, socket.SOCK_STREAM)
    token = ambient.set(Deadline(end, timeout, None, limit))
    try:
        return getaddrinfo(address[0], address[1], 0, socket.SOCK_STREAM)
    except DeadlineExceeded:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None  # ours in disguise: the timeout passed
    finally:
        ambient.reset(token)


def interleave(addresses: list[AddressInfo]) -> list[AddressInfo]:
    """The addresses in the resolver's order, but with the families taking turns."""
    first = [info for info in addresses if info[0] == addresses[0][0]]
    others = [info for info in addresses if info[0] != addresses[0][0]]
    return [info for pair in zip_longest(first, others) for info in pair if info is not None]


class _Race:
    """Connections on their way; the first that stands wins."""

    def __init__(self, addresses: list[AddressInfo], source: tuple[str, int] | None, options: SocketOptions) -> None:
        self._waiting = list(addresses)
        self._source = source
        self._options = tuple(options)
        self._trying: list[Socket] = []
        self._selector = selectors.DefaultSelector()
        self._next_at = 0.0  # when the next address is tried, though the one before has not failed
        self.errors: list[OSError] = []
        self.timed_out = False

    def run(self, end: float) -> Socket | None:
        """The connected socket; None when all failed, or `end` has come."""
        while self._waiting or self._trying:
            now = clock.now()
            if now >= end:
                self.timed_out = True
                return None
            if self._waiting and (now >= self._next_at or not self._trying):
                done = self._begin(self._waiting.pop(0))
                if done is not None:
                    return done
                continue
            wait = min(end, self._next_at if self._waiting else math.inf) - now
            for key, _ in self._selector.select(None if wait == math.inf else wait):
                done = self._finish(key.fileobj)
                if done is not None:
                    return done
        return None

    def _begin(self, info: AddressInfo) -> Socket | None:
        family, kind, protocol, _, address = info
        try:
            sock = Socket(family, kind, protocol)
        except OSError as error:  # a family that this system does not have
            self.errors.append(error)
            return None
        self._trying.append(sock)
        self._next_at = clock.now() + _STAGGER
        try:
            for level, name, value in self._options:
                sock.setsockopt(level, name, value)
            if self._source is not None:
                sock.bind(self._source)
            sock.setblocking(False)
            code = sock.connect_ex(address)
        except OSError as error:
            self._failed(sock, error)
            return None
        if code == 0:
            return self._won(sock)
        if code != errno.EINPROGRESS:
            self._failed(sock, OSError(code, os.strerror(code)))
            return None
        self._selector.register(sock, selectors.EVENT_WRITE)
        return None

    def _finish(self, sock: Any) -> Socket | None:
        self._selector.unregister(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            return self._won(sock)
        self._failed(sock, OSError(code, os.strerror(code)))
        return None

    def _failed(self, sock: Socket, error: OSError) -> None:
        self.errors.append(error)
        self._trying.remove(sock)
        self._next_at = 0.0  # a failure is an answer: nothing to wait for
        sock.close()

    def _won(self, sock: Socket) -> Socket:
        self._trying.remove(sock)
        return sock

    def close(self) -> None:
        """Close whoever did not win."""
        self._selector.close()
        for sock in self._trying:
            sock.close()
