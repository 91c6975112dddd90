"""psycopg's waiting, bounded: its operations are generators that say what they wait for, and here is who waits.

`bounded` turns such a generator into one that also watches the deadline and the server; `run` and `arun` do its waits.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import Generator
from typing import NamedTuple, TypeAlias, TypeVar, cast

import psycopg
from psycopg.abc import PQGen, PQGenConn

from holdfast.clients.postgres.liveness import Liveness
from holdfast.deadlines import Deadline
from holdfast.drivers import clock

T = TypeVar("T")

# As psycopg's Wait and Ready, which are those of `selectors`.
_READ, _WRITE = 1, 2


class Want(NamedTuple):
    """What is waited for: a file descriptor to be ready, maybe the probe's too, and how many seconds at most."""

    fileno: int
    events: int
    probe: int | None
    probe_writes: bool
    seconds: float


class Got(NamedTuple):
    """What came: which of the events, and whether the probe is ready."""

    events: int
    probe: bool


Bounded: TypeAlias = Generator[Want, Got, T]


class ServerGone(psycopg.OperationalError):
    """The server has said nothing for `dead_after` seconds, on a new connection neither."""


def bounded(
    gen: PQGen[T] | PQGenConn[T],
    fileno: int | None,
    limit: Deadline | None,
    liveness: Liveness,
    *,
    interval: float,
    until: float = math.inf,
) -> Bounded[T]:
    """Do an operation of psycopg until the deadline.

    Args:
        gen: the operation.
        fileno: of the connection; None where the operation tells it by itself (connecting).
        limit: the deadline.
        liveness: how the server is.
        interval: seconds after which `gen` wants to be asked again in any case.
        until: the end of the caller's own timeout, in monotonic seconds.

    Raises:
        DeadlineExceeded: the deadline passed.
        ServerGone: the server is dead.
        psycopg.OperationalError: the caller's own timeout passed.
    """
    bounds = _Bounds(limit, liveness, interval, until)
    try:
        state = next(gen)
        while True:
            bounds.check()
            where, events = (fileno, state) if fileno is not None else cast("tuple[int, int]", state)
            got = yield bounds.want(where, int(cast("int", events)))
            bounds.heed(got)
            state = gen.send(got.events)
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        liveness.close()


class _Bounds:
    """What bounds an operation: the deadline, the caller's own timeout, and whether the server is alive."""

    __slots__ = ("_interval", "_limit", "_liveness", "_until")

    def __init__(self, limit: Deadline | None, liveness: Liveness, interval: float, until: float) -> None:
        self._limit = limit
        self._liveness = liveness
        self._interval = interval
        self._until = until

    def check(self) -> None:
        """Raise what ends the operation, if something does."""
        now = clock.now()
        over = None if self._limit is None else self._limit.over(now)
        if over is not None:
            raise over
        if now >= self._until:
            raise psycopg.errors._WaitTimeout("wait timeout expired")
        if not self._liveness.look(now):
            raise ServerGone("the server does not answer, on a new connection neither")

    def want(self, fileno: int, events: int) -> Want:
        """What is waited for, until there is something to look at."""
        now, limit, probe = clock.now(), self._limit, self._liveness.probe
        look = min(now + self._interval, self._until, self._liveness.next_look, math.inf if limit is None else limit.look_at(now))
        return Want(fileno, events, None if probe is None else probe.sock.fileno(), probe is not None and probe.writes, look - now)

    def heed(self, got: Got) -> None:
        """Take note of what came: anything from the server shows that it lives."""
        now = clock.now()
        if got.events:
            self._liveness.heard(now)
        elif got.probe and not self._liveness.ready(now):
            raise ServerGone("the server does not accept connections any more")


def run(gen: Bounded[T]) -> T:
    """Wait by blocking the thread."""
    try:
        want = next(gen)
        while True:
            want = gen.send(_poll(want))
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        gen.close()


def _poll(want: Want) -> Got:
    poller = select.poll()
    poller.register(want.fileno, (select.POLLIN if want.events & _READ else 0) | (select.POLLOUT if want.events & _WRITE else 0))
    if want.probe is not None:
        poller.register(want.probe, select.POLLOUT if want.probe_writes else select.POLLIN)
    ready = dict(poller.poll(math.ceil(max(0.0, want.seconds) * 1000)))
    found = ready.get(want.fileno, 0)
    events = (_READ if found & ~select.POLLOUT else 0) | (_WRITE if found & ~select.POLLIN else 0)  # an error is for both to see
    return Got(events & want.events, want.probe in ready)


async def arun(gen: Bounded[T]) -> T:
    """Wait in the event loop."""
    try:
        want = next(gen)
        while True:
            want = gen.send(await _watch(want))
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        gen.close()


async def _watch(want: Want) -> Got:
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()
    events, probe = 0, False

    def ready(found: int) -> None:
        nonlocal events
        events |= found
        wake()

    def probed() -> None:
        nonlocal probe
        probe = True
        wake()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    timer = loop.call_later(max(0.0, want.seconds), wake)
    if want.events & _READ:
        loop.add_reader(want.fileno, ready, _READ)
    if want.events & _WRITE:
        loop.add_writer(want.fileno, ready, _WRITE)
    if want.probe is not None:
        (loop.add_writer if want.probe_writes else loop.add_reader)(want.probe, probed)
    try:
        await woken
    finally:
        timer.cancel()
        loop.remove_reader(want.fileno)
        loop.remove_writer(want.fileno)
        if want.probe is not None:
            loop.remove_reader(want.probe)
            loop.remove_writer(want.probe)
    return Got(events, probe)
