"""Name look-up that obeys the ambient deadline.

The system's resolver blocks for as long as it likes (30 s by default, per server and try) and cannot be interrupted, so it runs in
threads of its own; whoever asked waits for the answer until the deadline.

1. At most `THREADS` threads, made when needed, ended after some seconds without work. One look-up of a name serves everybody who asks for
   it meanwhile, so a name that hangs holds one thread, however many callers gave up on it.
2. A look-up that nobody waits for any more is not begun.
3. The threads are daemons: a process ends at once, whatever the resolver does.
4. Without a deadline, and for addresses that need no look-up, the caller asks the system directly as ever.
5. A look-up that waits gets a thread at once while there are fewer than `THREADS`, so it never stands behind one that hangs.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from functools import wraps
from typing import Any, TypeAlias, cast

from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock

# What socket.getaddrinfo returns: family, type, protocol, canonical name, address.
AddressInfo: TypeAlias = (
    "tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]"
)
Host: TypeAlias = "bytes | str | None"
Port: TypeAlias = "bytes | str | int | None"
_Query: TypeAlias = tuple[str, tuple[Any, ...]]  # the function's name in `socket`, and its arguments

THREADS = 8
_IDLE = 5.0

# What `install` has put ours in the place of, by name.
replaced: dict[str, Callable[..., Any]] = {}


def _system(name: str, *args: Any) -> Any:
    # Looked up each time: a test or another library may have put its own there (holdfast.testing.faults.stalled_dns does).
    return (replaced.get(name) or getattr(socket, name))(*args)


class _Lookup:
    """One look-up and those who wait for it."""

    __slots__ = ("answer", "callbacks", "done", "error", "query")

    def __init__(self, query: _Query) -> None:
        self.query = query
        self.done = threading.Event()
        self.answer: Any = None
        self.error: BaseException | None = None
        self.callbacks: list[Callable[[], object]] = []

    def result(self) -> Any:
        """The answer; raises what the resolver raised. Each caller gets a copy of its own."""
        if self.error is None:
            return copy(self.answer)
        raise type(self.error)(*self.error.args)


class Resolver:
    """Look-ups in a bounded number of threads.

    Args:
        threads: how many at most.
        look_up: what answers; the system.
    """

    def __init__(self, threads: int = THREADS, look_up: Callable[..., Any] = _system) -> None:
        self._most = threads
        self._look_up = look_up
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # A child has none of the threads, and nobody who waits.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._queue: deque[_Lookup] = deque()
        self._pending: dict[_Query, _Lookup] = {}
        self._threads = 0
        self._idle = 0

    def resolve(self, query: _Query, limit: Deadline) -> Any:
        """Answer, at most until the deadline.

        Raises:
            DeadlineExceeded: it has passed.
            OSError: as the function of `socket`.
        """
        left = limit.at - clock.now()
        if left <= 0:
            raise limit.exceeded(clock.now())
        lookup = self.ask(query, None)
        if not lookup.done.wait(left):
            self.forget(lookup, None)
            raise limit.exceeded(clock.now())
        return lookup.result()

    def ask(self, query: _Query, callback: Callable[[], object] | None) -> _Lookup:
        """Begin a look-up, or join the one that runs. `callback` is called from a thread of the resolver when it is done."""
        with self._lock:
            lookup = self._pending.get(query)
            if lookup is None:
                lookup = self._pending[query] = _Lookup(query)
                self._queue.append(lookup)
                self._staff()
            lookup.callbacks.append(callback or _nobody)
            return lookup

    def _staff(self) -> None:
        # Those that were woken for an earlier one count as idle until they run, so it is as many idle ones as there are look-ups.
        if self._idle >= len(self._queue):
            self._work.notify()
        elif self._threads < self._most:
            try:
                threading.Thread(target=self._serve, name="holdfast-dns", daemon=True).start()
            except RuntimeError:  # the system gives no more threads, or the interpreter ends
                if not self._threads:
                    del self._pending[self._queue.pop().query]
                    raise
            else:
                self._threads += 1

    def forget(self, lookup: _Lookup, callback: Callable[[], object] | None) -> None:
        """A caller does not wait any more; what nobody waits for is not begun."""
        with self._lock:
            if (callback or _nobody) in lookup.callbacks:
                lookup.callbacks.remove(callback or _nobody)
            if not lookup.callbacks and lookup in self._queue:
                self._queue.remove(lookup)
                del self._pending[lookup.query]

    def _serve(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._idle += 1
                    self._work.wait(_IDLE)
                    self._idle -= 1
                if not self._queue:
                    self._threads -= 1
                    return
                lookup = self._queue.popleft()
            try:
                lookup.answer = self._look_up(lookup.query[0], *lookup.query[1])
            except BaseException as error:
                lookup.error = error.with_traceback(None)
            with self._lock:
                self._pending.pop(lookup.query, None)
                callbacks = list(lookup.callbacks)
            lookup.done.set()
            for callback in callbacks:
                callback()


def _nobody() -> None:
    """The callback of those who wait for the event."""


RESOLVER = Resolver()


def getaddrinfo(host: Host, port: Port, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[AddressInfo]:  # noqa: A002
    """`socket.getaddrinfo` under the ambient deadline.

    Raises:
        DeadlineExceeded: the deadline passed before there was an answer.
        OSError: as `socket.getaddrinfo`.
    """
    limit = ambient.get()
    if limit is None or is_address(host):
        return cast("list[AddressInfo]", _system("getaddrinfo", host, port, family, type, proto, flags))
    return cast("list[AddressInfo]", RESOLVER.resolve(("getaddrinfo", (host, port, family, type, proto, flags)), limit))


def guarded(name: str) -> Callable[..., Any]:
    """A function of `socket` that asks the resolver (`gethostbyname` and its like), under the ambient deadline."""

    @wraps(getattr(socket, name))
    def look_up(*args: Any) -> Any:
        limit = ambient.get()
        return _system(name, *args) if limit is None else RESOLVER.resolve((name, args), limit)

    return look_up


async def agetaddrinfo(host: Host, port: Port, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> list[AddressInfo]:  # noqa: A002
    """The same for asyncio and trio: it waits in the loop, and can be cancelled. Their own threads are left alone: `asyncio.run` waits for
    its executor to end, and so for the resolver; trio's are 40, and hung look-ups would hold them from whatever else is to be done there.
    """
    if is_address(host):
        return cast("list[AddressInfo]", _system("getaddrinfo", host, port, family, type, proto, flags))
    done, callback = _wake_up()
    lookup = RESOLVER.ask(("getaddrinfo", (host, port, family, type, proto, flags)), callback)
    try:
        if not lookup.done.is_set():
            await done.wait()
    except BaseException:
        RESOLVER.forget(lookup, callback)
        raise
    return cast("list[AddressInfo]", lookup.result())


def _wake_up() -> tuple[Any, Callable[[], None]]:
    """An event of the running loop, and what sets it from another thread."""
    import asyncio

    call_soon: Callable[[Callable[[], object]], object]
    try:
        call_soon = asyncio.get_running_loop().call_soon_threadsafe
        done: Any = asyncio.Event()
    except RuntimeError:
        trio = sys.modules.get("trio")
        if trio is None:
            raise
        call_soon = trio.lowlevel.current_trio_token().run_sync_soon
        done = trio.Event()

    def callback() -> None:
        with suppress(RuntimeError):  # the loop was closed (trio's error is one too): nobody waits there any more
            call_soon(done.set)

    return done, callback


def is_address(host: Host) -> bool:
    """Whether `host` is an address, which needs no look-up."""
    if host is None:
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False
