"""Warm-ups: what has to be there before the first request, run once per machine and not once per worker.

1. In a master that loads the application before it forks (gunicorn's `preload_app`), everything runs there, once, and the workers inherit
   it: what was loaded is in their memory, and shared with the master's until somebody writes to it.
2. Where each worker loads the application for itself, one of them runs the machine's warm-ups while the others wait, and they skip them.
   They share what these leave in files; what has to be in each worker's memory is the worker's warm-up, and the workers take turns with
   it, so that their peaks do not add up.
3. A warm-up that fails is tried again by the next who needs it, `RETRY` seconds later.
4. At the end of their time they are stopped: async ones by cancellation, blocking ones in a main thread (of gunicorn's master and workers)
   by an interrupt, in others where they wait on something that obeys deadlines. The server does not serve then.

"Once" means once per run of the server: the file that says it was done is named after the master, and forgotten when that is gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import iscoroutine
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from holdfast.drivers import clock
from holdfast.drivers.host import folder
from holdfast.drivers.interrupt import can_interrupt
from holdfast.scope import deadline, remaining
from holdfast.servers import machine_lock

WarmUp = Callable[[], object]

RETRY = 1.0

_DONE = b"done"

# Workers that load the same application make the same things in the same order.
_numbers = count()


class Warming:
    """What has to be done before this process may serve.

    Args:
        machine: once per machine.
        worker: once per process that serves.
        within: seconds that all of it may take.
    """

    def __init__(self, machine: Sequence[WarmUp], worker: Sequence[WarmUp], within: float) -> None:
        self._machine = machine
        self._worker = worker
        self._number = next(_numbers)
        self.within = within
        self._lock = Lock()
        self._machine_done = not machine
        self._worker_done = None if worker else 0  # the process that it was done in; 0: in all
        self._failed_at: float | None = None
        self.error: BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether this process may serve."""
        return self._machine_done and (self._worker_done == 0 or self._worker_done == os.getpid())

    def run(self) -> None:
        """Do what is not done yet, or wait for whoever does it.

        Raises:
            Exception: what a warm-up raised.
            DeadlineExceeded: it took too long.
        """
        if self.done:
            return
        with deadline(self.within, interrupt=can_interrupt()), self._lock:
            try:
                with _run_of_server(self._number) as descriptor:
                    self._run(descriptor)
            except BaseException as error:
                self.error = error.with_traceback(None)
                self._failed_at = clock.now()
                raise
            self.error = None

    def _run(self, descriptor: int | None) -> None:
        if not self._machine_done:
            if descriptor is None or os.pread(descriptor, len(_DONE), 0) != _DONE:
                for warm_up in self._machine:
                    _finish(warm_up())
                if descriptor is not None:
                    os.pwrite(descriptor, _DONE, 0)
            self._machine_done = True
        if self._worker_done is None or self._worker_done not in {0, os.getpid()}:
            for warm_up in self._worker:
                _finish(warm_up())
            self._worker_done = os.getpid()

    def run_in_master(self) -> None:
        """In a process that is about to fork the workers: do everything, for all of them."""
        self.run()
        self._worker_done = 0

    def may_begin(self) -> bool:
        """Whether somebody who needs it now should run it: it is not done, nobody is at it, and the last failure is over."""
        waited = self._failed_at is None or clock.now() - self._failed_at >= RETRY
        return not self.done and waited and not self._lock.locked()

    def after_fork(self) -> None:
        """In a child: whoever was at it in the parent is not here."""
        self._lock = Lock()


def _finish(result: object) -> None:
    if iscoroutine(result):
        import asyncio

        # Warm-ups run outside of the server's event loop, before it serves or in a thread beside it.
        asyncio.run(_in_time(result))


async def _in_time(warm_up: Coroutine[Any, Any, object]) -> None:
    async with deadline(remaining()):
        await warm_up


@contextmanager
def _run_of_server(number: int) -> Iterator[int | None]:
    """Hold what the workers of this run of the server have in common: a file that says what was done; None where there are no others."""
    master = _master()
    if master == os.getpid():
        yield None
        return
    place = folder()
    for old in place.glob("warm-*"):
        with suppress(ValueError, OSError):
            _, pid, began, _ = old.name.split("-")
            if _began(int(pid)) != int(began):
                old.unlink()
    with machine_lock.held(place / f"warm-{master}-{_began(master)}-{number}") as descriptor:
        yield descriptor


def _master() -> int:
    """The process whose end is the end of this run: the workers' master, where there is one."""
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:  # as uvicorn makes its workers
        return os.getppid()
    mine, theirs = _command(os.getpid()), _command(os.getppid())
    # A forked worker has its master's command line, unless both were renamed.
    is_worker = bool(mine) and (mine == theirs or (mine.startswith(b"gunicorn: worker") and theirs.startswith(b"gunicorn: master")))
    return os.getppid() if is_worker else os.getpid()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _began(pid: int) -> int:
    """When a process began, so that its number is not taken for another's; 0 where the system does not tell, -1 where there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return -1 if Path("/proc/self").exists() else 0
