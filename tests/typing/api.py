"""Types from a user's side: mypy and pyright read this file, strictly; it is never run."""

import functools
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, assert_type

import holdfast
from holdfast import (
    AdaptiveLimit,
    Backoff,
    Breaker,
    Budget,
    Bulkhead,
    DeadlineExceeded,
    Fallback,
    Hedge,
    Policy,
    RateLimit,
    Rejected,
    Retry,
    fleet,
)

billing = Policy(
    "billing",
    deadline=2.0,
    attempt_timeout="500ms",
    retry=Retry(
        attempts=3,
        on=(ConnectionError, TimeoutError),
        on_result=None,
        backoff=Backoff(base=0.05, factor=2.0, cap=1.0, jitter="full"),
        budget=Budget(ratio=0.1, min_per_second=1.0, window=timedelta(seconds=10)),
    ),
    breaker=Breaker(failure_rate=0.5, min_calls=100, window=60.0, ignore=lambda error: isinstance(error, KeyError)),
    bulkhead=Bulkhead(limit=20, queue=10, wait=0.1),
    fallback=None,
)
Policy("stock", hedge=Hedge(percentile=0.95), adaptive=AdaptiveLimit(algorithm="aimd"), rate_limit=RateLimit(100, per="1s"))
Policy("prices", fallback=Fallback(value=0), retry=Retry(on=ConnectionError))
Policy("prices", fallback=Fallback(lambda error: error.args))


class Order:
    """A user's class."""

    @billing
    def total(self, rate: float, *, rounded: bool = False) -> float:
        """A method keeps its binding and its signature."""
        return rate if rounded else rate / 2

    @billing
    async def tax(self, rate: float) -> int:
        """An async method too."""
        return int(rate)

    @classmethod
    @billing
    def load(cls, number: int) -> "Order":
        """So does a class method."""
        return cls()


@billing
def charge(order: Order, amount: float = 1.0) -> str:
    """A function."""
    return f"{order}{amount}"


@billing
async def refund(order: Order) -> bytes:
    """An async function."""
    return b""


assert_type(Order().total(1.0, rounded=True), float)
assert_type(charge(Order()), str)
assert_type(charge(Order(), amount=2.0), str)
assert_type(billing.call(charge, Order(), amount=2.0), str)
assert_type(Order.load(1), Order)
typed: Callable[[Order], Coroutine[Any, Any, bytes]] = refund
partial = billing(functools.partial(charge, amount=3.0))
assert_type(partial(Order()), str)


async def use() -> None:
    """Async results are awaited as without the policy."""
    assert_type(await refund(Order()), bytes)
    assert_type(await Order().tax(1.0), int)
    assert_type(await billing.acall(refund, Order()), bytes)
    async for attempt in billing.attempts():
        async with attempt:
            assert_type(attempt.number, int)
    async with billing.guard() as one:
        assert_type(one.number, int)
    async with holdfast.deadline(1.0) as scope:
        assert_type(scope.remaining(), float)
    async with holdfast.shield(0.5):
        holdfast.check()


def use_blocking() -> None:
    """The block forms."""
    for attempt in billing.attempts():
        with attempt:
            charge(Order())
    with billing.guard(), holdfast.deadline("1s", interrupt=False):
        assert_type(holdfast.remaining(), float)
    try:
        charge(Order())
    except Rejected as refusal:
        assert_type(refusal.policy, str)
        assert_type(refusal.retry_after, float | None)
    except DeadlineExceeded as exceeded:
        assert_type(exceeded.started, bool)
        assert_type(exceeded.elapsed, float)
    holdfast.require(billing)
    assert_type(billing.breaker.state, str)
    billing.breaker.force_open()
    snapshot = billing.snapshot()
    assert_type(snapshot["name"], str)
    if snapshot["breaker"] is not None:
        assert_type(snapshot["breaker"]["failures"], int)
    assert_type(billing.explain(), str)
    assert_type(holdfast.carry(charge)(Order(), 2.0), str)
    stop = holdfast.events.subscribe(lambda event: event.policy.upper())
    stop()
    # What must not pass:
    charge(Order(), amount="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    billing.call(charge)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Backoff(jitter="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def one_fleet() -> None:
    """Shared breakers and budgets."""
    Policy("own", breaker=Breaker(), shared=False)
    fleet.connect("redis://localhost", interval="100ms", prefix="shop", quorum=0.5, lease=2.0)
    known = fleet.snapshot()
    assert_type(known["connected"], bool)
    assert_type(known["policies"]["billing"]["processes"], int)
    fleet.disconnect()
    # What must not pass:
    fleet.connect(6379)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
