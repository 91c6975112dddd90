"""Worker pools as figures: how many workers are busy, how many requests wait, and for how long.

A pool whose workers all wait for something slow shows neither on the CPU nor in memory. It shows here:

    app = Workers("web").asgi(app)          # or .wsgi(app); under gunicorn the hooks in `holdfast.servers.gunicorn` do it
    workers.snapshot("web")                 # from any process of the same user and machine

The queue is what the kernel has accepted and no worker has taken yet, and under threads also what waits inside of the process. A wait
is the time between the last byte of a request and the beginning of the work on it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypedDict

from holdfast.drivers.host import folder
from holdfast.servers import kernel
from holdfast.servers.calling import call_app
from holdfast.servers.scoreboard import (
    BOUNDS,
    BUSY,
    BUSY_US,
    INODES,
    PLACES,
    QUEUED,
    REQUESTS,
    ROOM,
    WAIT_US,
    WAITS,
    Scoreboard,
    check_name,
    remove_stale,
    wait_class,
)
from holdfast.validation import count

if TYPE_CHECKING:
    from holdfast.servers.interfaces import ASGIApp, Environ, Receive, Scope, Send, StartResponse, WSGIApp


class PoolSnapshot(TypedDict):
    """A pool in plain data; counts since its file was made, over all workers that it ever had."""

    name: str
    workers: int  # processes that live
    places: int | None  # requests that they can work on at once; None where an event loop sets no bound
    busy: int  # requests that are worked on
    idle: int | None  # places that are free
    queue: int | None  # requests that nobody works on yet; None where the system does not tell
    queue_limit: int | None  # how many the kernel keeps before it turns connections away
    requests: int  # begun; where a whole connection is counted (gunicorn sync), one that brought no request counts too
    busy_seconds: float
    wait_seconds: float
    waits: dict[str, int]  # how many waited at most this many seconds, cumulative; "+Inf" is all


class Workers:
    """One pool: this process is a worker of it from its first request on.

    Args:
        name: of the pool, in the figures; the same in all its processes.
        places: how many requests this process can work on at once, >= 1; None for an event loop without a bound.

    Raises:
        ValueError: the name cannot be a file's, or `places` is out of its range.
    """

    def __init__(self, name: str, *, places: int | None = None) -> None:
        self.name = check_name(name)
        self._places = None if places is None else count("Workers.places", places)
        self._lock = threading.Lock()
        self._board: Scoreboard | None = None
        self._pid = 0
        self._slot = 0

    def join(self, listeners: Iterable[object] | None = None, *, places: int | None = None) -> None:
        """Take a slot for this process; again after a fork. Joining twice is joining once.

        Args:
            listeners: the sockets on which the pool listens; None to look for those of this process.
            places: as above, where only now it is known.
        """
        with self._lock:
            if self._pid == os.getpid():
                return
            if self._board is None:
                self._board = Scoreboard(self.name, create=True)
                remove_stale()
            self._slot = self._board.take(os.getpid())
            if self._slot:
                self._describe(self._board, listeners, places or self._places)
            self._pid = os.getpid()  # at last: another thread that sees it counts in the slot

    def _describe(self, board: Scoreboard, listeners: Iterable[object] | None, places: int | None) -> None:
        given = None if listeners is None else list(listeners)
        inodes = kernel.own_listeners() if given is None else [number for number in map(kernel.inode, given) if number]
        for field, number in zip(INODES, inodes, strict=False):
            board.numbers[self._slot + field] = number
        board.numbers[self._slot + ROOM] = sum(kernel.room(sock) or 0 for sock in given or ())
        board.numbers[self._slot + PLACES] = places or 0

    def begin(self, waited: float | None = None) -> float:
        """A request begins.

        Args:
            waited: seconds that it had waited, where known.

        Returns:
            What `end` takes.
        """
        if self._pid != os.getpid():
            self.join()
        if self._board is not None and self._slot:
            with self._lock:
                numbers, slot = self._board.numbers, self._slot
                numbers[slot + BUSY] += 1
                numbers[slot + REQUESTS] += 1
                if waited is not None and waited >= 0:
                    numbers[slot + WAIT_US] += int(waited * 1e6)
                    numbers[slot + wait_class(waited)] += 1
        return time.monotonic()

    def end(self, began: float) -> None:
        """A request has ended."""
        if self._board is not None and self._slot and self._pid == os.getpid():
            with self._lock:
                numbers, slot = self._board.numbers, self._slot
                numbers[slot + BUSY] -= 1
                numbers[slot + BUSY_US] += int((time.monotonic() - began) * 1e6)

    def queued(self, change: int) -> None:
        """More or fewer requests wait inside of this process."""
        if self._board is not None and self._slot and self._pid == os.getpid():
            with self._lock:
                self._board.numbers[self._slot + QUEUED] += change

    def left(self, pid: int) -> None:
        """A worker of this pool is gone; whoever sees that first may say so, and nobody needs to."""
        if self._board is None:
            self._board = Scoreboard(self.name, create=True)
        self._board.left(pid)

    def asgi(self, app: ASGIApp) -> ASGIApp:
        """The same app, counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            began = self.begin()
            try:
                await app(scope, receive, send)
            finally:
                self.end(began)

        return counted

    def wsgi(self, app: WSGIApp) -> WSGIApp:
        """The same app, counted until its response is closed."""

        def counted(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
            sock = environ.get("gunicorn.socket")
            began = self.begin(None if sock is None else kernel.since_data(sock))
            try:
                return _Counted(call_app(app, environ, start_response), self, began)
            except BaseException:
                self.end(began)
                raise

        return counted


class _Counted:
    """A response whose end is the request's."""

    __slots__ = ("_began", "_body", "_pool")

    def __init__(self, body: Iterable[bytes], pool: Workers, began: float) -> None:
        self._body = body
        self._pool: Workers | None = pool
        self._began = began

    def __iter__(self) -> Any:
        return iter(self._body)

    def close(self) -> None:
        """The server is done with it."""
        pool, self._pool = self._pool, None
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            if pool is not None:
                pool.end(self._began)


def snapshot(name: str) -> PoolSnapshot:
    """One pool of this user and machine, from any process.

    Raises:
        FileNotFoundError: there is no such pool.
    """
    board = Scoreboard(name, create=False)
    try:
        living, gone = board.slots()
    finally:
        board.close()
    return _summary(name, living, gone)


def snapshots() -> list[PoolSnapshot]:
    """Every pool of this user and machine, by name."""
    found = []
    for path in sorted(folder().glob("*.workers")):
        with suppress(FileNotFoundError, ValueError):  # removed meanwhile, or somebody else's file
            found.append(snapshot(path.stem))
    return found


def _summary(name: str, living: list[list[int]], gone: list[list[int]]) -> PoolSnapshot:
    every = living + gone
    busy = sum(max(0, slot[BUSY]) for slot in living)
    bounded = all(slot[PLACES] for slot in living)
    places = sum(slot[PLACES] for slot in living)
    outside = kernel.accept_queue({slot[field] for slot in living + gone[1:] for field in INODES if slot[field]})
    inside = sum(max(0, slot[QUEUED]) for slot in living)
    waits, so_far = {}, 0
    for bound, field in zip((*BOUNDS, None), WAITS, strict=True):
        so_far += sum(slot[field] for slot in every)
        waits["+Inf" if bound is None else f"{bound:g}"] = so_far
    return {
        "name": name,
        "workers": len(living),
        "places": places if bounded else None,
        "busy": busy,
        "idle": max(0, places - busy) if bounded else None,
        "queue": None if outside is None else outside + inside,
        "queue_limit": max((slot[ROOM] for slot in living), default=0) or None,
        "requests": sum(slot[REQUESTS] for slot in every),
        "busy_seconds": sum(slot[BUSY_US] for slot in every) / 1e6,
        "wait_seconds": sum(slot[WAIT_US] for slot in every) / 1e6,
        "waits": waits,
    }
