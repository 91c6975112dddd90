"""A file that the workers of a pool write and anybody may read: who works on how much.

Each worker has a slot of its own, of numbers of 64 bits, and is the only one that writes there; a store of eight bytes is one step, so
readers need no lock. Only taking a slot does (flock). Whoever was killed cannot clear up: its slot counts no more once its process
is gone, and what it had counted is moved to the pool's sums by the next who needs a slot.

The file is made before the fork or found by its name, so it serves processes that share nothing else. It lies in a folder that only its
user can read.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from holdfast.drivers.host import folder

# Seconds after which the file of a pool that nobody joined or left any more is removed by the next pool that begins.
_STALE = 86400.0

_MAGIC = 0x686F6C6466617301  # "holdfas" and the version of the layout
_WIDTH = 32  # numbers in a slot; the first slot is the pool's own
_SLOTS = 1024

# What a slot holds. In the pool's own, counters are those of workers that are gone.
PID, BORN, PLACES, BUSY, QUEUED, ROOM = range(6)
INODES = range(6, 10)
REQUESTS, BUSY_US, WAIT_US = range(10, 13)
WAITS = range(13, 25)
COUNTERS = (REQUESTS, BUSY_US, WAIT_US, *WAITS)

_FIRST, _USED = 0, 1  # of the pool's own: the magic number, and how many slots were ever taken

# Upper ends in seconds of the classes in which waits are counted; the last has none.
BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


def check_name(name: object) -> str:
    """The name of a pool, which is a file's name.

    Raises:
        ValueError: it would not be one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"Workers.name must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or a digit, got {name!r}")
    return name


class Scoreboard:
    """The file of one pool, mapped.

    Args:
        name: of the pool.
        create: make it where it is not there.

    Raises:
        FileNotFoundError: there is none, and it was not to be made.
        ValueError: it is something else.
    """

    __slots__ = ("_file", "_map", "name", "numbers")

    def __init__(self, name: str, *, create: bool) -> None:
        self.name = check_name(name)
        path = folder() / f"{name}.workers"
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        self._file = os.open(path, flags, 0o600)
        if create:
            os.utime(self._file)  # at once, so that nobody takes it for a stale one
        try:
            with self._locked():
                size = 8 * _WIDTH * (_SLOTS + 1)
                if os.fstat(self._file).st_size == 0:
                    if not create:
                        raise FileNotFoundError(errno.ENOENT, "somebody makes it just now", str(path))
                    os.ftruncate(self._file, size)
                if os.fstat(self._file).st_size != size:
                    raise ValueError(f"{path} is no file of a worker pool, or of another version; remove it")
                self._map = mmap.mmap(self._file, size)
                self.numbers = memoryview(self._map).cast("q")
                if create and self.numbers[_FIRST] == 0:
                    self.numbers[_FIRST] = _MAGIC
            if self.numbers[_FIRST] != _MAGIC:
                raise ValueError(f"{path} is no file of a worker pool, or of another version; remove it")
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Let go of the file, which stays."""
        self.numbers.release()
        self._map.close()
        os.close(self._file)

    def take(self, pid: int) -> int:
        """A slot for this process: the index of its first number, or 0 where all are taken."""
        numbers = self.numbers
        os.utime(self._file)
        with self._locked():
            for slot in range(1, _SLOTS + 1):
                first = slot * _WIDTH
                if slot > numbers[_USED] or not _lives(numbers[first + PID], numbers[first + BORN]):
                    self._fold(first)
                    numbers[first + BORN] = _born(pid) or 0
                    numbers[first + PID] = pid
                    numbers[_USED] = max(numbers[_USED], slot)
                    return first
        return 0

    def left(self, pid: int) -> None:
        """The process is gone: its slot is free."""
        os.utime(self._file)
        with self._locked():
            for first in self._taken():
                if self.numbers[first + PID] == pid:
                    self._fold(first)

    def _fold(self, first: int) -> None:
        for field in COUNTERS:
            self.numbers[field] += self.numbers[first + field]
        for field in range(_WIDTH):
            self.numbers[first + field] = 0

    def _taken(self) -> Iterator[int]:
        for slot in range(1, self.numbers[_USED] + 1):
            if self.numbers[slot * _WIDTH + PID]:
                yield slot * _WIDTH

    def slots(self) -> tuple[list[list[int]], list[list[int]]]:
        """The slots of those who live, and of those who are gone (the pool's sums are the first of these)."""
        living: list[list[int]] = []
        gone = [list(self.numbers[:_WIDTH])]
        for first in self._taken():
            slot = list(self.numbers[first : first + _WIDTH])
            (living if _lives(slot[PID], slot[BORN]) else gone).append(slot)
        return living, gone

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def remove_stale() -> None:
    """Remove the files of pools that have ended a day ago or longer; whoever watches them has seen that by now."""
    for path in folder().glob("*.workers"):
        with suppress(OSError, ValueError):
            if time.time() - path.stat().st_mtime > _STALE:
                board = Scoreboard(path.stem, create=False)
                living, _ = board.slots()
                board.close()
                if not living:
                    path.unlink()


def wait_class(seconds: float) -> int:
    """Where in a slot a wait of this length is counted."""
    return WAITS[bisect_left(BOUNDS, seconds)]


def _lives(pid: int, born: int) -> bool:
    if pid <= 0:
        return False
    if born:
        return _born(pid) == born  # another process may have the number by now
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _born(pid: int) -> int | None:
    """When the process began, in the kernel's ticks; None where it is gone, or only waits to be buried."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123  (read several times a second per worker)
            fields = file.read(2048).rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {b"Z", b"X"} else int(fields[19])
