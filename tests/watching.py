"""What tests see of the world while it changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def soon(true: Callable[[], object], within: float) -> bool:
    """Whether it becomes true in this many seconds."""
    give_up = time.monotonic() + within
    while not true():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.005)
    return True


def open_fds() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
