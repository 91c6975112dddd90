"""A TCP proxy in which things go wrong as they are told to, while it runs.

with FaultProxy(to=("127.0.0.1", 8000)) as proxy:
    client = Client(f"http://127.0.0.1:{proxy.port}")
    proxy.set(Drip(interval=1.0))
    ...
    proxy.clear()
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from holdfast.testing.faults.connection import Connection, Resolved
from holdfast.testing.faults.fault import Fault
from holdfast.testing.faults.listener import Listener
from holdfast.testing.faults.refused import Refused
from holdfast.validation import count

if TYPE_CHECKING:
    from typing import Self

R = TypeVar("R")

# How often, in seconds, the thread looks whether the process wants to end: a proxy that nobody stopped must not keep it.
_LOOK = 0.5


class Counts(NamedTuple):
    """What went through a proxy: connections accepted, those open now, and bytes passed on to the server and to the client."""

    connections: int
    open: int
    up: int
    down: int


class FaultProxy:
    """A TCP proxy that runs in a thread of its own and makes its connections suffer.

    Use it as `with` or `async with` (start and stop take a few milliseconds and nothing of the caller's loop), or by `start` and `stop`.

    Args:
        to: host and port of the server; None where the faults answer by themselves, or nothing is to answer. A server that refuses is, to
            a client, a connection which is reset at once.
        listen: host and port to listen on, port 0 for any free one. It is the loopback, unless told otherwise.
        faults: what goes wrong to begin with.
        seed: of all that is drawn. The same seed draws the same for the n-th connection, whatever the others do.

    Raises:
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """

    def __init__(
        self,
        to: tuple[str, int] | None = None,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        faults: Iterable[Fault] = (),
        seed: int = 0,
    ) -> None:
        self._to = None if to is None else _checked_address("FaultProxy.to", to, lowest=1)
        self._listen = _checked_address("FaultProxy.listen", listen, lowest=0)
        self._seed = count("FaultProxy.seed", seed, low=0)
        self._faults = _checked_faults(tuple(faults))
        self._lock = threading.Lock()  # start, stop and set, one at a time
        self._running: _Running | None = None
        self._last = Counts(0, 0, 0, 0)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on. RuntimeError where it does not run."""
        if self._running is None:
            raise RuntimeError("the FaultProxy does not run: it has no address before start() and after stop()")
        return self._running.listener.address

    @property
    def port(self) -> int:
        """The port that it listens on. RuntimeError where it does not run."""
        return self.address[1]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What goes wrong now."""
        return self._faults

    @property
    def counts(self) -> Counts:
        """What went through it; after `stop`, until then. It begins anew with `start`."""
        with self._lock:
            running = self._running
            return self._last if running is None else running.ask(running.count)

    def set(self, *faults: Fault) -> None:
        """From now on these faults, and no others, on new connections and on those that exist. It returns when that is so.

        Raises:
            TypeError: one of them is no fault.
            OSError: the port could not be opened again after `Refused`.
        """
        checked = _checked_faults(faults)
        with self._lock:
            running = self._running
            if running is not None:
                running.ask(lambda: running.switch(checked))
            self._faults = checked

    def clear(self) -> None:
        """From now on nothing goes wrong: `set` without any."""
        self.set()

    def start(self) -> Self:
        """Listen, and begin to pass on.

        Raises:
            OSError: the address cannot be had, or a name is not known.
            RuntimeError: it runs already.
        """
        with self._lock:
            if self._running is not None:
                raise RuntimeError("the FaultProxy runs already")
            upstream = None if self._to is None else _resolved(self._to)
            self._running = _Running(Listener(_resolved(self._listen)), upstream, self._faults, self._seed)
        return self

    def stop(self) -> None:
        """Close every connection and the port, and end the thread. Where it does not run, nothing."""
        with self._lock:
            if self._running is not None:
                self._last = self._running.end()
                self._running = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        # Not in another thread: that would be one of the caller's executor, and stay behind.
        return self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class _Running:
    """From start to stop: the thread, its loop, and the connections. Except for `ask` and `end`, all of it belongs to the thread."""

    def __init__(self, listener: Listener, upstream: Resolved | None, faults: tuple[Fault, ...], seed: int) -> None:
        self.listener = listener
        self._upstream = upstream
        self._faults = faults
        self._seed = seed
        self._connections: dict[asyncio.Task[None], Connection] = {}
        self._accepted = self._up = self._down = 0
        self._over = asyncio.Event()
        # Not the loop of some policy: add_reader and add_writer are used, which not every loop has.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._main, name=f"holdfast-faults-{listener.address[1]}", daemon=False)
        try:
            self.switch(faults)
            self._thread.start()
        except BaseException:
            listener.close()
            self._loop.close()
            raise

    def ask(self, question: Callable[[], R]) -> R:
        """Run something in the thread, and wait for what it returns or raises."""
        answer: Future[R] = Future()

        def run() -> None:
            try:
                answer.set_result(question())
            except BaseException as error:
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return answer.result()

    def end(self) -> Counts:
        """Close everything; what was counted."""
        if self._thread.is_alive():
            self.ask(self._over.set)
            self._thread.join()
        return self.count()

    def count(self) -> Counts:
        """See `Counts`."""
        up = self._up + sum(connection.up.passed for connection in self._connections.values())
        down = self._down + sum(connection.down.passed for connection in self._connections.values())
        return Counts(self._accepted, len(self._connections), up, down)

    def switch(self, faults: tuple[Fault, ...]) -> None:
        """See `FaultProxy.set`."""
        if any(isinstance(fault, Refused) for fault in faults):
            self.listener.pause(self._loop)
            self.listener.refuse(self._accept)
        else:
            self.listener.open()
            self.listener.serve(self._loop, self._accept)
        self._faults = faults
        for connection in self._connections.values():
            connection.switch(faults)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        try:
            while not self._over.is_set() and threading.main_thread().is_alive():
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK):
                        await self._over.wait()
        finally:
            self.listener.pause(self._loop)
            self.listener.close()
            tasks = list(self._connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, client: socket.socket) -> None:
        self._accepted += 1
        rng = Random(f"{self._seed}:{self._accepted}")
        try:
            connection = Connection(client, self._upstream, rng)
        except OSError:  # no file descriptor left for the other side
            client.close()
            return
        connection.switch(self._faults)
        task = self._loop.create_task(connection.run())
        self._connections[task] = connection
        task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        connection = self._connections.pop(task)
        connection.close()  # here and not in the task: one that is cancelled before it began runs nothing
        self._up += connection.up.passed
        self._down += connection.down.passed


def _checked_address(field: str, address: tuple[str, object], *, lowest: int) -> tuple[str, int]:
    host, port = address
    if isinstance(port, bool) or not isinstance(port, int) or not lowest <= port <= 65535:
        raise ValueError(f"{field} port must be a whole number in [{lowest}, 65535], got {port!r}")
    return host, port


def _checked_faults(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    for fault in faults:
        if not isinstance(fault, Fault):
            raise TypeError(f"a FaultProxy takes faults, like Drip(interval=1.0), got {fault!r}")
    return faults


def _resolved(address: tuple[str, int]) -> Resolved:
    family, _, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    return family, where
