"""A container, as far as an incident needs one: a server under a memory limit that is killed beyond it and started again.

    with MemoryLimit(768 * 2**20, "billing") as limit:
        server = Gunicorn(..., config=limit.joining)
        with Container(server, limit, delay=1.0) as container: ...

The limit is the kernel's where this user may make cgroups (version 2 or 1). Elsewhere a watchdog looks at the memory that the server's
processes have to themselves, twenty times a second, and kills them; `kind` says which it is.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from holdfast.replay.parts.gunicorn import Gunicorn
from holdfast.replay.parts.process import StartFailed

_LOOK = 0.02
_WATCHDOG = 0.05  # adding up the memory of a dozen processes takes a hundredth of a second


class MemoryLimit:
    """How much memory a server and all its processes may have together.

    Args:
        size: bytes.
        name: of the cgroup.
        kernel: False has the watchdog do it, also where the kernel could.
    """

    def __init__(self, size: int, name: str, *, kernel: bool = True) -> None:
        self.size = size
        self._group = _make_group(f"holdfast-{name}-{uuid.uuid4().hex[:8]}", size) if kernel else None
        self._watched: psutil.Process | None = None
        self._killed = 0

    @property
    def kind(self) -> str:
        """What enforces it."""
        if self._group is None:
            return "watchdog"
        return "cgroup v2" if (self._group / "memory.max").exists() else "cgroup v1"

    @property
    def joining(self) -> str:
        """A line of Python by which a process puts itself, and those it forks, under the limit."""
        if self._group is None:
            return ""
        return f"import os; open({str(self._group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"

    @property
    def kills(self) -> int:
        """How often somebody was killed for it."""
        if self._group is None:
            return self._killed
        file = "memory.events" if self.kind == "cgroup v2" else "memory.oom_control"
        words = (self._group / file).read_text().split()
        return int(words[words.index("oom_kill") + 1])

    def used(self) -> int:
        """Bytes in use; under a cgroup the file cache counts, as it does for the limit."""
        if self._group is not None:
            return int((self._group / ("memory.current" if self.kind == "cgroup v2" else "memory.usage_in_bytes")).read_text())
        total = 0
        for process in _family(self._watched):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().uss
        return total

    def look(self, pid: int) -> None:
        """The watchdog's round: kill the processes below `pid` where they have too much."""
        if self._group is not None:
            return
        with contextlib.suppress(psutil.Error):
            if self._watched is None or self._watched.pid != pid:
                self._watched = psutil.Process(pid)
            if self.used() > self.size:
                self._killed += 1
                for process in _family(self._watched):
                    with contextlib.suppress(psutil.Error):
                        process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        group, self._group = self._group, None
        give_up = time.monotonic() + 5.0
        while group is not None and time.monotonic() < give_up:  # a killed process leaves a moment later
            with contextlib.suppress(OSError):
                group.rmdir()
                return
            time.sleep(_LOOK)


def _family(process: psutil.Process | None) -> list[psutil.Process]:
    if process is None:
        return []
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _make_group(name: str, size: int) -> Path | None:
    """A cgroup with that limit below the one we are in, or below the root; None where this user may make none."""
    for parent in _parents():
        group = parent / name
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                _limit(group, size)
            except OSError:
                group.rmdir()
                raise
            return group
    return None


def _limit(group: Path, size: int) -> None:
    if (group / "memory.max").exists():
        (group / "memory.max").write_text(str(size))
        (group / "memory.oom.group").write_text("1")  # the container is killed, and not one process of it
        swap = group / "memory.swap.max"
    else:
        (group / "memory.limit_in_bytes").write_text(str(size))
        swap = group / "memory.memsw.limit_in_bytes"
    with contextlib.suppress(OSError):  # where there is no swap, it cannot be limited
        swap.write_text("0" if swap.name == "memory.swap.max" else str(size))


def _parents() -> list[Path]:
    found = []
    mine = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mine[controllers] = path.lstrip("/")
    for mounted, controllers in ((Path("/sys/fs/cgroup"), ""), (Path("/sys/fs/cgroup/memory"), "memory")):
        own = mounted / mine.get(controllers, "")
        for place in (own, mounted):
            has_memory = (place / "memory.limit_in_bytes").exists() or "memory" in _read(place / "cgroup.subtree_control")
            if has_memory and place not in found:
                found.append(place)
    return found


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


@dataclass(frozen=True, slots=True)
class Started:
    """One start. `ready` and `ended` are times of the monotonic clock like `at`; None where that did not come."""

    at: float
    ready: float | None
    ended: float | None
    out_of_memory: bool


class Container:
    """A server that is killed when its memory is used up, and started again whenever it ended.

    Args:
        server: with `limit.joining` in its configuration.
        limit: of its memory.
        delay: seconds between its end and the next start.
        fresh: called before each start: a new container has a new file system.
    """

    def __init__(self, server: Gunicorn, limit: MemoryLimit, *, delay: float, fresh: Callable[[], None]) -> None:
        self._server = server
        self._limit = limit
        self._delay = delay
        self._fresh = fresh
        self._crash = threading.Event()
        self._stop = threading.Event()
        self._up = threading.Event()
        self._threads = [threading.Thread(target=work, name="holdfast-replay-container", daemon=True) for work in (self._run, self._guard)]
        self.starts: list[Started] = []

    def crash(self) -> None:
        """Kill it now, as when its machine goes away."""
        self._crash.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.starts.append(self._live())
            self._stop.wait(self._delay)

    def _live(self) -> Started:
        """From one start to the end."""
        process, ready = self._server.process, None
        self._server.forget_workers()
        self._fresh()
        self._crash.clear()
        before, began = self._limit.kills, time.monotonic()
        with contextlib.suppress(StartFailed):
            process.start()
            ready = time.monotonic()
            self._up.set()
        while process.running and not self._crash.is_set() and not self._stop.is_set() and self._limit.kills == before:
            time.sleep(_LOOK)
        out_of_memory = self._limit.kills > before
        process.kill()  # all of it: whoever is killed for memory takes the container along
        return Started(began, ready, None if self._stop.is_set() else time.monotonic(), out_of_memory)

    def _guard(self) -> None:
        while self._limit.kind == "watchdog" and not self._stop.wait(_WATCHDOG):
            with contextlib.suppress(RuntimeError):  # it was not started yet
                self._limit.look(self._server.process.pid)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        try:
            if not self._up.wait(60.0):
                raise StartFailed(f"the container did not start:\n{self._server.process.tail()}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
