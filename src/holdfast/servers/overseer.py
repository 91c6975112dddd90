"""Transactions on connections that know no deadline, as those of a plain engine: another thread ends what runs on them.

A driver waits in C, where neither `check` nor a signal reaches it. So while a transaction is open, a thread looks after it:

1. When its request is over, the server is told to cancel the statement that runs.
2. A server that does not do so within `GRACE` has stopped: the socket is shut down, which wakes the driver wherever it waits.
3. Either leaves the connection in doubt: it is `cut`, and must not go back to its pool.

An async driver cancels by itself when its task is cancelled, and needs only the second.
"""

from __future__ import annotations

import math
import os
import socket
import threading
from contextlib import suppress
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from holdfast.deadlines import ambient
from holdfast.drivers import clock

if TYPE_CHECKING:
    from holdfast.deadlines import Deadline

# Seconds from the request's end until its socket is shut down: a round trip or two to a server that is well.
GRACE = 0.5


class Overseen:
    """One transaction that is looked after until `end`.

    Args:
        driver: its connection, of psycopg, psycopg2 or whatever else has a `fileno`.
        sock: a duplicate of its socket: the driver may close its own at any time. None where there is nothing to look after.
    """

    __slots__ = ("_cancel", "_sock", "cut", "limit", "shuts_at")

    def __init__(self, driver: Any, sock: socket.socket | None) -> None:
        cancel = getattr(driver, "cancel_safe", None) or getattr(driver, "cancel", None)
        self._cancel = None if iscoroutinefunction(cancel) else cancel
        self._sock = sock
        self.limit: Deadline | None = ambient.get()
        self.cut = False
        self.shuts_at = math.inf

    def under_ambient(self) -> None:
        """What follows is bound by the deadline that surrounds it now: a transaction ends in a shield."""
        if self._sock is not None and not self.cut:
            _overseer.bind(self, ambient.get())

    def end(self) -> None:
        """Nobody works on the connection any more, or only to close it."""
        if self._sock is not None:
            _overseer.forget(self)
            self._sock.close()

    # What the overseer's thread does. It must not wait.

    def next_look(self, now: float) -> float:
        """When there may be something to do."""
        return self.shuts_at if self.cut or self.limit is None else self.limit.look_at(now)

    def look(self, now: float) -> None:
        """Do what there is to do."""
        if self.cut:
            if now >= self.shuts_at:
                self.shuts_at = math.inf
                if self._sock is not None:
                    self._sock.shutdown(socket.SHUT_RDWR)
        elif self.limit is not None and self.limit.over(now) is not None:
            self.cut = True
            self.shuts_at = now + GRACE
            if self._cancel is not None:  # by a connection of its own, so it waits
                threading.Thread(target=self._quietly_cancel, name="holdfast-cancel", daemon=True).start()

    def _quietly_cancel(self) -> None:
        with suppress(Exception):  # closed by now, or nobody answers
            if self._cancel is not None:
                self._cancel()


def oversee(driver: Any) -> Overseen:
    """Look after the transaction that begins on a driver's connection. One that obeys deadlines by itself, as those of this package do, or
    that has no socket to be seen, is left alone.
    """
    sock = None
    if not type(driver).__module__.startswith("holdfast."):
        with suppress(Exception):  # drivers differ in what they raise
            sock = socket.socket(fileno=os.dup(driver.fileno()))
    overseen = Overseen(driver, sock)
    if sock is not None:
        _overseer.add(overseen)
    return overseen


class _Overseer:
    """The thread; there is none before the first transaction."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._all: dict[Overseen, None] = {}
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    def add(self, overseen: Overseen) -> None:
        with self._changed:
            self._all[overseen] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="holdfast-overseer", daemon=True)
                self._thread.start()
            self._wake_for(overseen)

    def bind(self, overseen: Overseen, limit: Deadline | None) -> None:
        with self._changed:
            overseen.limit = limit
            self._wake_for(overseen)

    def forget(self, overseen: Overseen) -> None:
        with self._changed:  # after this nothing is done to it
            self._all.pop(overseen, None)

    def _wake_for(self, overseen: Overseen) -> None:
        if overseen.next_look(clock.now()) < self._wakes_at:
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while True:
                now = clock.now()
                for overseen in self._all:
                    with suppress(Exception):  # a socket that is closed; a server's own way to tell whether the client has gone
                        overseen.look(now)
                self._wakes_at = min((one.next_look(now) for one in self._all), default=math.inf)
                self._changed.wait(min(self._wakes_at - now, threading.TIMEOUT_MAX))


_overseer = _Overseer()


def _after_fork() -> None:
    global _overseer
    _overseer = _Overseer()  # the thread of the parent is not here, and its transactions are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
