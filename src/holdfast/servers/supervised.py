"""Workers that `multiprocessing` has started, as those of uvicorn and hypercorn: what they hear of the process that started them.

gunicorn forks its workers, and has hooks for this (`holdfast.servers.gunicorn`). A server that no other process of multiprocessing has
started, but a shell or a container, is nobody's worker: whoever started it may end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from holdfast.drivers import clock
from holdfast.servers import draining

_watched_in = 0  # the process that looks after its supervisor


def end_with_supervisor() -> None:
    """End this worker in order when its supervisor was killed: nobody else would, and its port could not be served anew."""
    global _watched_in
    parent = _multiprocessing("parent_process")
    if parent is not None and _watched_in != os.getpid():
        _watched_in = os.getpid()
        threading.Thread(target=_end_after, args=(parent,), name="holdfast-supervisor", daemon=True).start()


def _end_after(parent: Any) -> None:
    # A pipe that the kernel closes with the process. A signal at the parent's death (prctl) would come with the end of a thread.
    parent.join()
    draining.begin()  # for good: who would drain first holds the port that the next supervisor wants
    event = _told_by()
    if event is None:
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        event.set()


def drain_first(drain: float) -> bool:
    """Where hypercorn's worker is told to end by an event, which it looks at ten times a second, show it that `drain` seconds later.

    Returns:
        Whether this is one; if not, workers are told by SIGTERM.
    """
    event = _told_by()
    if event is None:
        return False
    told, until = event.is_set, None

    def is_set() -> bool:
        nonlocal until
        if not told():
            return False
        if until is None:
            until = clock.now() + (0.0 if draining.is_draining() else drain)
            draining.begin()
        return clock.now() >= until

    event.is_set = is_set
    return True


def _told_by() -> Any:
    process = _multiprocessing("current_process")
    is_hypercorn = getattr(getattr(process, "_target", None), "__module__", "").startswith("hypercorn.")
    return process._kwargs.get("shutdown_event") if is_hypercorn else None


def _multiprocessing(question: str) -> Any:
    # Only who was started by it has loaded it.
    loaded = sys.modules.get("multiprocessing.process")
    return None if loaded is None else getattr(loaded, question)()
