"""Whether this server is about to end. One byte that a master shares with the workers it forks, so that all of them know at once.

A worker that is told to end alone, as masters do with the old ones at a reload, says so of itself and not of its siblings.
"""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

# Made when a master imports this, and the same memory in its workers.
_flag = mmap.mmap(-1, 1)
_master = os.getpid()
_own = bytearray(1)  # of a worker

_End = Callable[[], object]


def is_draining() -> bool:
    """Whether this process, or the master it was forked from, was told to end."""
    return (_flag[0] or _own[0]) != 0


def begin() -> None:
    """From now on it is."""
    (_flag if os.getpid() == _master else _own)[0] = 1


def reset() -> None:
    """It is not any more: for tests, and for masters that start again."""
    _flag[0] = _own[0] = 0


def on_sigterm(drain: float, stop_within: float, later: Callable[[float, _End], object]) -> Callable[[], None] | None:
    """Drain first when SIGTERM comes, and then do what the server would have done.

    Args:
        drain: seconds to go on serving while not ready.
        stop_within: seconds after which requests that still run are not waited for any more: SIGINT's handler is called too, by which
            servers end without waiting.
        later: calls a function after some seconds, in the main thread.

    Returns:
        A function that undoes it; None where signals do not arrive in this thread, or nobody handles them.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    before = signal.getsignal(signal.SIGTERM)
    if not callable(before):
        return None
    then: Callable[[int, FrameType | None], Any] = before

    def end() -> None:
        then(signal.SIGTERM, None)
        impatient = signal.getsignal(signal.SIGINT)
        if callable(impatient):
            later(max(0.0, stop_within - drain), lambda: impatient(signal.SIGINT, None))

    def drain_first(_number: int, _frame: FrameType | None) -> None:
        if is_draining() or not drain:
            begin()
            end()
        else:
            begin()
            later(drain, end)

    signal.signal(signal.SIGTERM, drain_first)

    def undo() -> None:
        if signal.getsignal(signal.SIGTERM) is drain_first:
            signal.signal(signal.SIGTERM, then)

    return undo
