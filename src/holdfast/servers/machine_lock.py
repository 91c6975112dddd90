"""A lock that all processes of a machine share, by a file. The kernel gives it back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast import scope
from holdfast.drivers import clock

# How soon a waiter looks again, and how far apart the looks become: a kernel's wait for a lock cannot be bounded by a deadline.
_SOON, _LATE = 0.005, 0.1


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Hold the lock; what it gives is the open file's descriptor, to read and to write.

    Raises:
        DeadlineExceeded: somebody else held it until the ambient deadline.
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        pause = _SOON
        while not _taken(descriptor):
            scope.check()
            clock.current.get().sleep(min(pause, max(_SOON, scope.remaining())))
            pause = min(2 * pause, _LATE)
        yield descriptor
    finally:
        os.close(descriptor)  # which unlocks it


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
