"""Locks across processes and hosts: `holdfast.lock`, and where they are kept.

`held` has the rules, `store` what a store promises; `redis` and `postgres` are the real ones, `MemoryStore` is for tests.
"""

from __future__ import annotations

from holdfast.mutex.held import Held
from holdfast.mutex.locking import LockBlock, lock
from holdfast.mutex.memory import MemoryStore
from holdfast.mutex.store import Grant, Store

__all__ = ["Grant", "Held", "LockBlock", "MemoryStore", "Store", "lock"]
