"""State that threads share and that survives a fork.

A lock guards arithmetic only: no user code, no I/O and no waiting happens under it, and no lock is taken under
another. It is reentrant all the same, because a signal's handler and a finaliser may run between any two bytecodes, and
theirs is user's code that may come back here: a count that is off by one for a moment is better than a thread that
waits for itself. That makes a fork safe in three steps: take every lock (each is free again within microseconds), fork, give
them all back on both sides; nothing is caught half-written. What belonged to threads that the child does not have
(places, probes) is forgotten in the child by `_after_fork`.
"""

from __future__ import annotations

import os
import weakref
from threading import Lock, RLock

_guarded: dict[int, weakref.ref[Guarded]] = {}
_held: list[Guarded] = []
_forking = Lock()  # two threads may fork at once

# Only a fork from a signal handler that interrupted the arithmetic itself can find a lock held for longer.
_PATIENCE = 0.1


class Guarded:
    """Base of what threads share: one lock, known to the fork hooks."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = RLock()
        key = id(self)
        _guarded[key] = weakref.ref(self, lambda _: _guarded.pop(key, None))

    def _after_fork(self) -> None:
        """In the child: forget what threads held that only the parent has."""


def _before() -> None:
    _forking.acquire()
    for reference in list(_guarded.values()):
        owner = reference()
        if owner is not None and owner._lock.acquire(timeout=_PATIENCE):
            _held.append(owner)


def _in_parent() -> None:
    while _held:
        _held.pop()._lock.release()
    _forking.release()


def _in_child() -> None:
    global _forking
    _forking = Lock()
    _held.clear()
    for reference in list(_guarded.values()):
        owner = reference()
        if owner is not None:
            owner._lock = RLock()
            owner._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
