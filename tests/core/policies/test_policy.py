"""Policy: what guards the calls to one dependency, as a decorator, a call, blocks, words and plain data."""

from __future__ import annotations

import asyncio
import functools
import inspect

import pytest

import holdfast
from holdfast import (
    AdaptiveLimit,
    Backoff,
    Breaker,
    BreakerOpen,
    Budget,
    Bulkhead,
    DeadlineExceeded,
    Fallback,
    Hedge,
    Policy,
    RateLimit,
    Retry,
    events,
)
from holdfast.testing import FakeClock, Scripted, Step, no_waits

FULL = {
    "deadline": 2.0,
    "attempt_timeout": 0.5,
    "retry": Retry(attempts=2, on=ValueError, backoff=Backoff(base=0, cap=0), budget=Budget()),
    "breaker": Breaker(),
    "rate_limit": RateLimit(1000, burst=100),
    "bulkhead": Bulkhead(20, queue=10, wait=0.1),
    "fallback": Fallback(value="none", on=KeyError),
}
POLICIES = [
    pytest.param(lambda: Policy("p"), id="name only"),
    pytest.param(lambda: Policy("p", retry=Retry(attempts=2, on=ValueError, backoff=Backoff(base=0, cap=0))), id="retry"),
    pytest.param(
        lambda: Policy("p", breaker=Breaker(), retry=Retry(attempts=2, on=ValueError, backoff=Backoff(base=0, cap=0))), id="breaker"
    ),
    pytest.param(lambda: Policy("p", **FULL), id="all"),
]
FAILS = {"left": 0}


def flaky():
    if FAILS["left"]:
        FAILS["left"] -= 1
        raise ValueError("flaky")


class Taxes:
    """Methods of each kind, guarded."""

    rate = 2

    def __init__(self, factor):
        self.factor = factor

    def plain(self, order, *, extra=0):
        """The tax of an order."""
        flaky()
        return order * self.factor + extra

    async def waiting(self, order, *, extra=0):
        flaky()
        await asyncio.sleep(0)
        return order * self.factor + extra

    def __call__(self, order):
        flaky()
        return order * self.factor


class AsyncTaxes:
    async def __call__(self, order):
        flaky()
        return order * 3


@pytest.fixture(params=POLICIES)
def policy(request):
    FAILS["left"] = 1 if "name" not in request.node.callspec.id else 0
    return request.param()


def test_a_function_stays_what_it_is(policy):
    @policy
    def tax(order: int, /, rate: float = 2.0, *more: int, **named: str) -> float:
        """The tax of an order."""
        flaky()
        return order * rate

    assert tax(3, rate=4) == 12
    assert (tax.__name__, tax.__doc__, tax.__module__) == ("tax", "The tax of an order.", __name__)
    assert tax.__qualname__.endswith("<locals>.tax")
    assert str(inspect.signature(tax)) == "(order: 'int', /, rate: 'float' = 2.0, *more: 'int', **named: 'str') -> 'float'"
    assert not inspect.iscoroutinefunction(tax)


def test_an_async_function_stays_one(policy):
    @policy
    async def tax(order: int, *, rate: int = 2) -> int:
        """The tax."""
        flaky()
        await asyncio.sleep(0)
        return order * rate

    assert inspect.iscoroutinefunction(tax)
    assert (tax.__name__, tax.__doc__, str(inspect.signature(tax))) == ("tax", "The tax.", "(order: 'int', *, rate: 'int' = 2) -> 'int'")
    assert asyncio.run(tax(3, rate=4)) == 12


def test_methods_keep_their_binding(policy):
    class Guarded(Taxes):
        plain = policy(Taxes.plain)
        waiting = policy(Taxes.waiting)

        @classmethod
        @policy
        def of_class(cls, order):
            flaky()
            return order * cls.rate

        @staticmethod
        @policy
        def of_nobody(order):
            flaky()
            return order * 7

        above_static = policy(staticmethod(lambda order: order * 8))

    assert Guarded(5).plain(2, extra=1) == 11
    assert Guarded.plain(Guarded(5), 2) == 10
    assert asyncio.run(Guarded(5).waiting(2)) == 10
    assert Guarded.of_class(4) == Guarded(0).of_class(4) == 8
    assert Guarded.of_nobody(2) == Guarded(0).of_nobody(2) == 14


def test_partials_and_callable_objects_can_be_decorated(policy):
    def tax(rate, order):
        flaky()
        return rate * order

    async def waiting(rate, order):
        flaky()
        return rate * order

    assert policy(functools.partial(tax, 3))(2) == 6
    assert policy(functools.partial(functools.partial(tax, 3), 4))() == 12
    assert policy(Taxes(4))(2) == 8
    assert policy(Taxes(4).plain)(2) == 8
    assert policy(functools.partial(Taxes(4)))(2) == 8
    assert policy(len)([1, 2]) == 2
    assert policy(dict)(a=1) == {"a": 1}
    for fn in (functools.partial(waiting, 3), functools.partial(AsyncTaxes()), AsyncTaxes()):
        guarded = policy(fn)
        assert inspect.iscoroutinefunction(guarded)
        assert asyncio.run(guarded(2)) == 6


def test_the_users_arguments_may_have_any_name(policy):
    def echo(**kwargs):
        return kwargs

    async def aecho(**kwargs):
        return kwargs

    names = dict.fromkeys(["self", "fn", "args", "kwargs", "plan", "clock", "policy"], 1)
    assert policy(echo)(**names) == names
    assert policy.call(echo, **{name: 1 for name in names if name not in ("fn", "self")})
    assert asyncio.run(policy(aecho)(**names)) == names
    assert policy.call(echo, **names) == names
    assert asyncio.run(policy.acall(aecho, **names)) == names


class Generates:
    def __call__(self):
        yield 1


class GeneratesLater:
    async def __call__(self):
        yield 1


def generates():
    yield 1


async def generates_later():
    yield 1


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (generates, "generates"),
        (generates_later, "generates_later"),
        (functools.partial(generates), "generates"),
        (functools.partial(generates_later), "generates_later"),
        (Generates(), "Generates"),
        (GeneratesLater(), "GeneratesLater"),
        (functools.partial(Generates()), "Generates"),
        (staticmethod(generates), "generates"),
    ],
)
def test_generators_are_refused_at_decoration(fn, name):
    with pytest.raises(TypeError, match=f"{name}.* is a generator: calling it runs nothing yet, so there is nothing to guard"):
        Policy("p")(fn)


def test_what_cannot_be_called_is_refused_at_decoration():
    with pytest.raises(TypeError, match="a policy guards something that can be called, got 3"):
        Policy("p")(3)
    with pytest.raises(TypeError, match="decorate below @classmethod"):
        Policy("p")(classmethod(len))


def test_a_class_can_be_decorated_even_if_its_objects_generate(policy):
    assert isinstance(policy(Generates)(), Generates)


def test_a_blocking_call_that_hands_back_a_coroutine_is_a_type_error(policy):
    FAILS["left"] = 0

    async def tax():
        raise AssertionError("it must not run")

    for call in (lambda: policy.call(tax), policy(functools.partial(lambda make: make(), tax))):
        with pytest.raises(TypeError, match=r"returned a coroutine to a blocking call; use `await policy\.acall"):
            call()
    limit = policy.snapshot()["limit"]
    assert limit is None or limit["running"] == 0


def test_an_async_call_that_hands_back_nothing_to_await_is_a_type_error(policy):
    FAILS["left"] = 0
    with pytest.raises(TypeError, match=r"returned int to an async call, nothing to await; use `policy\.call"):
        asyncio.run(policy.acall(lambda: 3))
    limit = policy.snapshot()["limit"]
    assert limit is None or limit["running"] == 0


def test_an_async_call_may_hand_back_any_awaitable(policy):
    FAILS["left"] = 0

    async def main():
        async def tax():
            return 5

        return await policy.acall(lambda: asyncio.ensure_future(tax()))

    assert asyncio.run(main()) == 5


@pytest.mark.parametrize(
    "parts", [{}, {"retry": Retry(on=KeyError)}, {"breaker": Breaker()}, FULL], ids=["none", "retry", "breaker", "all"]
)
@pytest.mark.parametrize("kind", ["call", "decorated"])
def test_the_users_exception_is_raised_itself(drive, parts, kind):
    error = RuntimeError("mine")
    policy = Policy("p", **parts)

    def call():
        if kind == "call":
            drive.call(policy, Scripted(error))
        elif drive.is_async:
            drive.clock.run(policy(Scripted(error).acall)())
        else:
            drive.look(policy(Scripted(error)))

    with pytest.raises(RuntimeError) as caught:
        call()
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None


def test_a_refused_call_raises_a_fresh_exception_each_time(drive):
    """One instance raised again and again keeps a traceback for each call."""
    policy = Policy("p", breaker=Breaker())
    drive.look(policy.breaker.force_open)
    one, two = drive.outcome(policy, Scripted(1)), drive.outcome(policy, Scripted(1))
    assert isinstance(one, BreakerOpen)
    assert one is not two


# Time.


def test_the_deadline_bounds_the_whole_call(drive):
    dependency = Scripted(Step(after=5.0))
    with pytest.raises(DeadlineExceeded) as caught:
        drive.call(Policy("p", deadline=2.0), dependency)
    error = caught.value
    assert drive.clock.now() == 1002.0
    assert (error.policy, error.budget, error.started, error.what) == ("p", 2.0, True, "deadline")
    assert error.elapsed == pytest.approx(2.0)


def test_the_attempt_timeout_bounds_each_attempt(drive):
    dependency = Scripted(Step(after=5.0), Step(after=5.0), Step(after=0.1, result="tax"))
    policy = Policy("p", attempt_timeout=0.5, retry=Retry(backoff=Backoff(base=0, cap=0)))
    assert drive.call(policy, dependency) == "tax"
    assert drive.clock.now() == pytest.approx(1001.1)
    with pytest.raises(DeadlineExceeded) as caught:
        drive.call(Policy("p", attempt_timeout=0.5), Scripted(Step(after=5.0)))
    assert (caught.value.what, caught.value.attempt, caught.value.budget) == ("attempt timeout", 1, 0.5)


def test_an_attempt_sees_what_is_left_of_its_time(drive):
    seen = []

    def work():
        seen.append(holdfast.remaining())

    drive.call(Policy("p", deadline=2.0), work)
    drive.call(Policy("p", deadline=2.0, attempt_timeout=0.5), work)
    drive.call(Policy("p", deadline=0.5, attempt_timeout=2.0), work)
    drive.call(Policy("p"), work)
    assert seen == [pytest.approx(2.0), pytest.approx(0.5), pytest.approx(0.5), float("inf")]


@pytest.mark.parametrize("parts", [{}, {"retry": Retry()}, {"breaker": Breaker()}, {"fallback": Fallback(value=1, on=KeyError)}])
def test_a_call_after_the_callers_deadline_is_not_begun(drive, parts):
    dependency = Scripted("tax")
    policy = Policy("p", deadline=5.0, **parts)
    if drive.is_async:

        async def main():
            async with holdfast.deadline(0):
                await policy.acall(dependency.acall)

        with pytest.raises(DeadlineExceeded):
            drive.clock.run(main())
    else:
        with drive.clock, pytest.raises(DeadlineExceeded) as caught, holdfast.deadline(0):
            policy.call(dependency)
        assert not caught.value.started
    assert dependency.calls == 0


def test_lengths_of_time_may_be_text(drive):
    policy = Policy("p", deadline="2s", attempt_timeout="250ms")
    assert drive.call(policy, holdfast.remaining) == pytest.approx(0.25)
    assert "deadline: 2 s for the whole call" in policy.explain()


# Blocks.


def test_attempts_are_blocks_with_retries():
    policy = Policy("p", retry=Retry(attempts=3, backoff=Backoff(base=1, cap=1, jitter="none")))
    numbers = []
    with FakeClock() as clock:
        for attempt in policy.attempts():
            with attempt:
                numbers.append((attempt.number, clock.now()))
                if attempt.number < 3:
                    raise ConnectionError
    assert numbers == [(1, 1000.0), (2, 1001.0), (3, 1002.0)]


def test_async_attempts_are_blocks_with_retries():
    policy = Policy("p", retry=Retry(attempts=3, backoff=Backoff(base=1, cap=1, jitter="none")))
    numbers = []

    async def main():
        async for attempt in policy.attempts():
            async with attempt:
                numbers.append((attempt.number, clock.now()))
                if attempt.number < 3:
                    raise ConnectionError

    clock = FakeClock()
    clock.run(main())
    assert numbers == [(1, 1000.0), (2, 1001.0), (3, 1002.0)]


def test_the_last_failure_of_the_attempts_is_raised():
    error = ConnectionError()

    def work():
        for attempt in Policy("p", retry=Retry(attempts=2)).attempts():
            with attempt:
                raise error

    with FakeClock(), pytest.raises(ConnectionError) as caught:
        work()
    assert caught.value is error
    assert "gave up after 2 attempts" in error.__notes__[0]


def test_an_attempt_that_is_not_made_in_its_block_is_an_error():
    attempts = iter(Policy("p").attempts())
    next(attempts)
    with pytest.raises(RuntimeError, match="p: each attempt is made in its block"):
        next(attempts)


def test_a_guard_is_one_attempt_without_retry_or_fallback():
    policy = Policy("p", retry=Retry(on=ValueError), fallback=Fallback(value=1), breaker=Breaker(min_calls=1), bulkhead=Bulkhead(1))

    def work():
        with policy.guard() as attempt:
            assert attempt.number == 1
            assert policy.snapshot()["limit"]["running"] == 1
            raise ValueError("once")

    with FakeClock():
        with pytest.raises(ValueError, match="once"):
            work()
        assert policy.breaker.state == "open"
        with pytest.raises(BreakerOpen), policy.guard():
            pytest.fail("it must not run")
    assert policy.snapshot()["limit"]["running"] == 0


def test_a_guard_takes_nothing_from_the_retry_budget():
    budget = Budget()
    with Policy("p", retry=Retry(budget=budget)).guard():
        pass
    assert budget.ledger.snapshot(0.0)["calls"] == 0


def test_an_async_guard_is_cut_at_its_deadline():
    async def main():
        async with Policy("p", deadline=1.0).guard():
            await asyncio.sleep(5.0)

    clock = FakeClock()
    with pytest.raises(DeadlineExceeded):
        clock.run(main())
    assert clock.now() == 1001.0


def test_a_guard_is_for_one_block():
    guard = Policy("p").guard()
    with guard:
        pass
    with pytest.raises(RuntimeError, match=r"p: a guard is for one block; call policy\.guard\(\) for each"):
        guard.__enter__()


# Words and data.


def test_it_explains_itself_outermost_first():
    policy = Policy("billing", **FULL)
    assert policy.explain().splitlines() == [
        "billing:",
        "  fallback: on KeyError answers 'none'",
        "  deadline: 2 s for the whole call",
        "  retry: up to 2 attempts on ValueError; waits 0 s x 2 up to 0 s, full jitter; retries up to 10 % of the calls + 1/s, over 10 s",
        f"  breaker: {Breaker().describe()}",
        "  rate limit: 1000 calls per 1 s, bursts of 100, nobody waits",
        "  limit: at most 20 at once, 10 more wait up to 0.1 s",
        "  attempt timeout: 0.5 s for each attempt",
        "  the call",
    ]
    assert repr(policy) == "<Policy 'billing': fallback, deadline, retry, breaker, rate limit, limit, attempt timeout>"


def test_a_policy_with_only_a_name_explains_itself():
    assert Policy("p").explain() == "p:\n  the call"
    assert repr(Policy("p")) == "<Policy 'p': calls through>"


def test_a_hedged_policy_explains_what_each_attempt_passes():
    policy = Policy("p", deadline=1, attempt_timeout=0.5, hedge=Hedge(after=0.1), breaker=Breaker(), adaptive=AdaptiveLimit())
    parts = [line.split(":")[0].strip() for line in policy.explain().splitlines()[1:]]
    assert parts == ["deadline", "hedge", "breaker", "limit", "attempt timeout", "the call"]


def test_a_snapshot_is_plain_data():
    parts = ["breaker", "budget", "limit", "limit_across", "rate_limit_wait", "hedge_after"]
    assert Policy("p").snapshot() == {"name": "p", **dict.fromkeys(parts)}
    with FakeClock():
        policy = Policy("billing", **{**FULL, "retry": Retry(budget=Budget())})
        assert policy.snapshot() == {
            "name": "billing",
            "breaker": {"state": "closed", "calls": 0, "failures": 0, "slow": 0, "probes": 0, "passed": 0, "retry_after": None},
            "budget": {"calls": 0, "retries": 0, "left": 10},
            "limit": {"limit": 20, "running": 0, "waiting": 0},
            "limit_across": "process",
            "rate_limit_wait": 0.0,
            "hedge_after": None,
        }


def test_a_snapshot_tells_the_wait_for_the_rate_limit_and_when_it_hedges():
    with FakeClock():
        policy = Policy("p", rate_limit=RateLimit(2), hedge=Hedge(after=0.25))
        assert (policy.snapshot()["rate_limit_wait"], policy.snapshot()["hedge_after"]) == (0.0, 0.25)
        policy = Policy("p", rate_limit=RateLimit(2))
        policy.call(int)
        assert policy.snapshot()["rate_limit_wait"] == pytest.approx(0.5)
        assert Policy("p", hedge=Hedge(percentile=0.9)).snapshot()["hedge_after"] is None


def test_the_name_is_the_dependencys():
    assert Policy("billing").name == "billing"


# Order.


def test_the_parts_are_asked_outermost_first(drive):
    policy = Policy("p", **{**FULL, "rate_limit": RateLimit(1), "bulkhead": Bulkhead(1)})
    seen = []
    stop = events.subscribe(lambda event: seen.append(event.kind) if isinstance(event, events.Refused) else None)
    try:
        place = policy._plan.places.enter()
        drive.outcome(policy, Scripted(1))  # the rate limit lets pass, the bulkhead refuses; its turn is given back
        policy._plan.places.release(place)
        drive.call(policy, Scripted(1))
        policy._plan.places.enter()
        drive.outcome(policy, Scripted(1))  # both would refuse
        drive.look(policy.breaker.force_open)
        drive.outcome(policy, Scripted(1))  # all three would refuse
    finally:
        stop()
    assert seen == ["BulkheadFull", "RateLimited", "BreakerOpen"]


def test_nested_policies_are_another_order(drive):
    outer, inner = Policy("outer", breaker=Breaker(min_calls=1)), Policy("inner", retry=Retry(attempts=2))
    dependency = Scripted(ConnectionError(), "tax")
    if drive.is_async:
        assert drive.clock.run(outer.acall(inner.acall, dependency.acall)) == "tax"
    else:
        with drive.clock:
            assert outer.call(inner.call, dependency) == "tax"
    assert drive.look(outer.breaker.snapshot)["failures"] == 0


@pytest.mark.parametrize("parts", [{}, {"retry": Retry()}, FULL], ids=["none", "retry", "all"])
def test_attempts_are_told(drive, parts):
    told = []
    stop = events.subscribe(told.append)
    try:
        assert drive.call(Policy("p", **parts), Scripted(Step(after=0.25, result="tax"))) == "tax"
    finally:
        stop()
    assert told == [events.AttemptEnded("p", 1, "success", pytest.approx(0.25), None)]


def test_work_that_outran_its_deadline_is_told():
    told = []
    stop = events.subscribe(lambda event: told.append(event) if isinstance(event, events.DeadlineOutrun) else None)
    try:
        with FakeClock() as clock:
            Policy("p", deadline=1.0).call(lambda: clock.advance(1.0))
            Policy("p", deadline=1.0).call(lambda: clock.advance(1.01))
            assert told == []
            Policy("p", deadline=1.0).call(lambda: clock.advance(1.5))
    finally:
        stop()
    assert told == [events.DeadlineOutrun("p", 1.0, pytest.approx(1.5), pytest.approx(0.5))]


def test_a_listener_hears_nothing_under_a_lock(drive):
    policy = Policy("p", **{**FULL, "breaker": Breaker(min_calls=1), "fallback": None})
    heard = []

    def listen(event):
        heard.append(policy.snapshot())  # it takes every lock of the policy

    stop = events.subscribe(listen)
    try:
        drive.outcome(policy, Scripted(KeyError()))
        drive.outcome(policy, Scripted(KeyError()))
    finally:
        stop()
    assert len(heard) >= 3


def test_no_waits_jumps_over_the_waits():
    policy = Policy("p", retry=Retry(attempts=3, backoff=Backoff(base=60, cap=60, jitter="none")))
    with no_waits():
        assert policy.call(Scripted(ConnectionError(), ConnectionError(), "tax")) == "tax"


def test_a_policy_costs_no_cycle_of_garbage_for_each_call():
    import gc

    policy = Policy("p", **FULL)
    policy.call(len, "abc")
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            policy.call(len, "abc")
            with pytest.raises(TypeError):
                policy.call(len, 3)
        left = gc.collect()
    finally:
        gc.enable()
    assert left < 50


def test_no_two_policies_draw_the_same_jitter():
    assert len({Policy(name)._plan.rng.random() for name in "abc"}) == 3
