"""Places that all processes of a machine share, for a bulkhead around workers that are processes (gunicorn's sync workers).

Place number n is byte n of a file, and whoever holds the kernel's lock on the byte holds the place. So nothing has to be tidied up: the
kernel takes back what a killed process held, at once, and a restarted one finds it free. A place costs two system calls, about 1 us.

1. The file is named after the policy, in a folder that only this user can write to. Processes that see the same folder share the places;
   a container usually has its own.
2. Record locks belong to a process, so which threads hold which places is kept here, once per file.
3. A fork inherits no place. Its child opens no file anew: closing one would not hurt its parent, but there is nothing to close.
4. A process tries the place first that it had last: processes that come and go settle on places of their own.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
import tempfile
from collections import deque
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import quote

from holdfast.policies.places import Places, Ticket

if TYPE_CHECKING:
    from holdfast.policies.bulkhead import Bulkhead

# struct flock: type, whence, start, length, pid on Linux; start, length, pid, type, whence on macOS and the BSDs.
_LINUX = sys.platform == "linux"
_FLOCK = struct.Struct("hhqqi4x" if _LINUX else "qqihh")

_LONGEST_NAME = 200  # of a file's 255 bytes


class _File:
    """The places of one name, as this process sees them."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(path, flags, 0o600)
        self._known = 0
        self._idle: deque[int] = deque()  # places that no thread of this process holds; the one held last is on the right
        self._growing = Lock()

    def know(self, limit: int) -> None:
        """There are at least that many places."""
        with self._growing:
            self._idle.extendleft(range(self._known, limit))
            self._known = max(self._known, limit)

    def take(self, limit: int) -> int | None:
        """Take a place below `limit`, or None."""
        passed_over = []
        try:
            while True:
                try:
                    place = self._idle.pop()
                except IndexError:
                    return None
                if place < limit and self._lock(place):
                    return place
                passed_over.append(place)
        finally:
            self._idle.extendleft(passed_over)

    def _lock(self, place: int) -> bool:
        import fcntl

        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):  # another process has it; POSIX allows either error
            return False
        return True

    def give_back(self, place: int) -> None:
        import fcntl

        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)
        self._idle.append(place)

    def taken(self, limit: int) -> int:
        """How many places below `limit` are held, by this process or another."""
        idle = set(self._idle)
        return sum(place not in idle or self._elsewhere(place) for place in range(limit))

    def _elsewhere(self, place: int) -> bool:
        import fcntl

        asked = (fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0) if _LINUX else (place, 1, 0, fcntl.F_WRLCK, os.SEEK_SET)
        told = _FLOCK.unpack(fcntl.fcntl(self._descriptor, fcntl.F_GETLK, _FLOCK.pack(*asked)))
        return bool(told[0 if _LINUX else 3] != fcntl.F_UNLCK)

    def after_fork(self) -> None:
        self._growing = Lock()
        self._idle = deque(range(self._known - 1, -1, -1))


class HostPlaces(Places):
    """Places as a policy takes them, shared by the processes of this machine. Nobody waits for one.

    Args:
        name: the policy's.
        bulkhead: how many there are. Processes that name different limits each keep to their own.

    Raises:
        OSError: the folder for the file cannot be made, or belongs to somebody else.
    """

    __slots__ = ("_file", "_per_generation")

    across = "host"

    def __init__(self, name: str, bulkhead: Bulkhead) -> None:
        super().__init__(bulkhead.limit, 0)
        self._per_generation = bulkhead.limit + 1
        self._file = _open(name)
        self._file.know(bulkhead.limit)

    @property
    def running(self) -> int:
        """How many places are taken, on the whole machine."""
        return self._file.taken(self.limit)

    def enter(self) -> int:
        """Take a place: a permit, or 0."""
        place = self._file.take(self.limit)
        return 0 if place is None else self._generation * self._per_generation + place + 1

    def join(self) -> Ticket | None:
        """There is no queue across processes."""
        return None

    def release(self, permit: int) -> None:
        """Give a place back, unless it is from before a fork: that one is the parent's."""
        generation, place = divmod(permit, self._per_generation)
        if generation == self._generation and place:
            self._file.give_back(place - 1)

    def _after_fork(self) -> None:
        self._generation += 1


# Closing any descriptor of a file gives back all record locks of the process on it: each file is opened once, and never closed.
_files: dict[Path, _File] = {}
_opening = Lock()


def _open(name: str) -> _File:
    encoded = quote(name, safe="", errors="backslashreplace")
    if len(encoded) > _LONGEST_NAME:
        raise ValueError(f"Policy.name must be at most {_LONGEST_NAME} bytes with a bulkhead across the host, got {len(encoded)}")
    path = folder() / f"{encoded}.bulkhead"
    with _opening:
        if path not in _files:
            _files[path] = _File(path)
        return _files[path]


def folder() -> Path:
    """Where processes of this user meet: `HOLDFAST_RUN_DIR`, or a folder that is ours alone. Where others may write, somebody could put a
    file or link of this name there first.

    Raises:
        PermissionError: it is somebody else's.
    """
    given = os.environ.get("HOLDFAST_RUN_DIR")
    if given:
        Path(given).mkdir(mode=0o700, parents=True, exist_ok=True)
        return Path(given)
    # Nothing tidies up /dev/shm while the machine runs, as some systems do /tmp: a new file would be a second set of places.
    parent = Path("/dev/shm")  # noqa: S108  (checked below)
    if not os.access(parent, os.W_OK):
        parent = Path(tempfile.gettempdir())
    path = parent / f"holdfast-{os.geteuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path} must be a directory that only user {os.geteuid()} can write to; or set HOLDFAST_RUN_DIR")
    return path


def _in_child() -> None:
    global _opening
    _opening = Lock()
    for file in _files.values():
        file.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
