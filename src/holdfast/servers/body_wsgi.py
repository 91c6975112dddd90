"""The body of a WSGI request, read no longer than until the request's deadline.

The timeout of a socket counts anew with every byte that arrives, so a client that sends one now and then would hold a thread for as long as
it likes. Only somebody else can end such a wait: a thread that closes the reading side of the connection when its time is over. The
answer can still be written.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.drivers import clock

if TYPE_CHECKING:
    from holdfast.deadlines import Deadline

T = TypeVar("T")


class BoundedBody:
    """`wsgi.input` whose methods raise DeadlineExceeded when the time is over.

    Args:
        source: the server's.
        limit: of the request.
        sock: the connection that the source reads from.
    """

    def __init__(self, source: Any, limit: Deadline, sock: socket.socket) -> None:
        self._source = source
        self._limit = limit
        self._sock = sock

    def read(self, *size: int) -> bytes:
        """As the server's."""
        data: bytes = self._within(self._source.read, *size)
        return data

    def readline(self, *size: int) -> bytes:
        """As the server's."""
        line: bytes = self._within(self._source.readline, *size)
        return line

    def readlines(self, *hint: int) -> list[bytes]:
        """As the server's."""
        lines: list[bytes] = self._within(self._source.readlines, *hint)
        return lines

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def _within(self, read: Callable[..., T], *args: int) -> T:
        try:
            with _closer.closes(self._sock, self._limit.at):
                result = read(*args)
        except Exception as error:
            self._check(error)
            raise
        self._check(None)
        return result

    def _check(self, cause: Exception | None) -> None:
        now = clock.now()
        if now >= self._limit.at:
            raise self._limit.exceeded(now) from cause


class _Closer:
    """The thread that ends reading where it is due; there is none before the first body is read."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._due: dict[object, tuple[float, socket.socket]] = {}
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    @contextmanager
    def closes(self, sock: socket.socket, at: float) -> Iterator[None]:
        """While the block runs: nothing more is read from the socket after `at`, in monotonic seconds."""
        mine = object()
        with self._changed:
            self._due[mine] = (at, sock)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="holdfast-body", daemon=True)
                self._thread.start()
            elif at < self._wakes_at:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:  # after this the connection may belong to another request
                del self._due[mine]

    def _run(self) -> None:
        with self._changed:
            while True:
                now = clock.now()
                for at, sock in self._due.values():
                    if at <= now:
                        _stop_reading(sock)
                self._wakes_at = min((at for at, _ in self._due.values() if at > now), default=now + threading.TIMEOUT_MAX / 2)
                self._changed.wait(self._wakes_at - now)


def _stop_reading(sock: socket.socket) -> None:
    with suppress(OSError):  # the client was faster
        socket.socket.shutdown(sock, socket.SHUT_RD)  # not by the method of TLS, which would end the encryption of the answer as well


_closer = _Closer()


def _after_fork() -> None:
    global _closer
    _closer = _Closer()  # the thread of the parent is not here, and its lock may be taken


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
