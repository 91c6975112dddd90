"""The policies and the work that all subjects measure."""

from __future__ import annotations

from contextlib import suppress

from holdfast import Breaker, Budget, Bulkhead, Policy, Retry


def work(value: int) -> int:
    return value


async def async_work(value: int) -> int:
    return value


def retry_only() -> Policy:
    return Policy("orders", retry=Retry())


def five() -> Policy:
    """Deadline, retry, budget, breaker and bulkhead."""
    return Policy("orders", deadline=2.0, retry=Retry(budget=Budget()), breaker=Breaker(), bulkhead=Bulkhead(64))


def five_opened() -> Policy:
    """The same, its breaker opened by a failure and not by hand."""
    policy = Policy(
        "orders",
        deadline=2.0,
        retry=Retry(attempts=1, budget=Budget()),
        breaker=Breaker(consecutive=1, open_for=3600.0, open_for_max=3600.0),
        bulkhead=Bulkhead(64),
    )
    with suppress(ConnectionError):
        policy.call(_fail)
    assert policy.breaker.state == "open"
    return policy


def _fail() -> None:
    raise ConnectionError
