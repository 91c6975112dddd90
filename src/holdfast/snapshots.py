"""What `snapshot()` returns, for type checkers: plain dictionaries. Nobody loads this at run time."""

from __future__ import annotations

from typing import TypedDict


class BudgetSnapshot(TypedDict):
    """What a budget knows: counts over its window, and how many retries it would grant now."""

    calls: int
    retries: int
    left: int


class BreakerSnapshot(TypedDict):
    """What a breaker knows: its state, the counts over its window, and its probes."""

    state: str
    calls: int
    failures: int
    slow: int
    probes: int
    passed: int
    retry_after: float | None


class LimitSnapshot(TypedDict):
    """What a bulkhead or an adaptive limit knows."""

    limit: int
    running: int
    waiting: int


class PolicySnapshot(TypedDict):
    """A policy in plain data. A part that the policy does not have is None."""

    name: str
    breaker: BreakerSnapshot | None
    budget: BudgetSnapshot | None
    limit: LimitSnapshot | None
    limit_across: str | None  # whose calls it counts: "process" or "host"
    rate_limit_wait: float | None  # seconds until a call would be on time; 0.0 for now
    hedge_after: float | None  # seconds after which a late attempt gets a rival; None also while too little is known
