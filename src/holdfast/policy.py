"""A policy: what guards the calls to one dependency."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from holdfast import events
from holdfast.drivers import clock
from holdfast.policies.breaker import State

if TYPE_CHECKING:
    from holdfast.blocks import Attempts, Guard
    from holdfast.plan import Plan
    from holdfast.policies.adaptive import AdaptiveLimit
    from holdfast.policies.breaker import Breaker, Circuit
    from holdfast.policies.bulkhead import Bulkhead
    from holdfast.policies.fallback import Fallback
    from holdfast.policies.hedge import Hedge
    from holdfast.policies.ratelimit import RateLimit
    from holdfast.policies.retry import Retry
    from holdfast.snapshots import BreakerSnapshot, PolicySnapshot
    from holdfast.validation import Seconds

P = ParamSpec("P")
R = TypeVar("R")


class Policy:
    """What guards the calls to one dependency. Every part is optional; with a name only it calls through.

    Order, outermost first: fallback, deadline, retry or hedge, breaker, rate limit, limit (bulkhead or adaptive), attempt timeout,
    the call. For another order, nest policies. Each policy builds its own state from the parts that it is given, so one
    `Breaker(...)` may describe many breakers; only a `Budget` is shared where the object is.

    Args:
        name: the dependency's name, in errors, events, metrics and shared state.
        deadline: seconds for the whole call, all attempts and waits, > 0.
        attempt_timeout: seconds for each attempt, > 0.
        retry: when to do a failed call again.
        hedge: when to ask a second time before the first has answered; not together with `retry`.
        breaker: when to stop calling.
        rate_limit: how many calls may start per second.
        bulkhead: how many calls may run at once.
        adaptive: the same, found by itself; not together with `bulkhead`.
        fallback: what to answer instead of failing.
        shared: whether breaker and budget join the fleet that the process is connected to (`holdfast.fleet`); False keeps them local.

    Raises:
        ValueError, TypeError: a part is out of its range, not of its kind, or does not go with another.
    """

    __slots__ = ("__weakref__", "_parts", "_plan", "_run", "_single")

    def __init__(
        self,
        name: str,
        *,
        deadline: Seconds | None = None,
        attempt_timeout: Seconds | None = None,
        retry: Retry | None = None,
        hedge: Hedge | None = None,
        breaker: Breaker | None = None,
        rate_limit: RateLimit | None = None,
        bulkhead: Bulkhead | None = None,
        adaptive: AdaptiveLimit | None = None,
        fallback: Fallback | None = None,
        shared: bool = True,
    ) -> None:
        # Loaded with the first policy: who only imports holdfast does not wait for its machinery.
        from holdfast.drivers import threads
        from holdfast.parts import Parts
        from holdfast.policies.shared import enlist

        parts = Parts(name, deadline, attempt_timeout, retry, hedge, breaker, rate_limit, bulkhead, adaptive, fallback)
        parts.check()
        if not isinstance(shared, bool):
            raise TypeError(f"Policy.shared must be True or False, got {shared!r}")
        self._run: Callable[..., Any] = threads.run
        self._single = parts.single()
        self._plan = parts.around(self._single)
        self._parts = parts.explain(self._single)
        if shared:
            budget = self._plan.budget
            enlist(name, self._plan.circuit, None if budget is None else budget.ledger)
        _enlist(self._plan)

    @property
    def name(self) -> str:
        """The dependency's name."""
        return self._plan.name

    @property
    def breaker(self) -> BreakerHandle:
        """The breaker: its state, and the switches to force it.

        Raises:
            AttributeError: the policy has none.
        """
        if self._plan.circuit is None:
            raise AttributeError(f"policy {self.name!r} has no breaker")
        return BreakerHandle(self._plan.circuit)

    def __call__(self, fn: Callable[P, R], /) -> Callable[P, R]:
        """Decorate: the same function, guarded. Also for methods, `functools.partial` and callable objects.

        Raises:
            TypeError: `fn` is a generator function (there is no one call to guard), or cannot be called.
        """
        kind = _kind_of(fn)
        if isinstance(fn, staticmethod):
            return cast("Callable[P, R]", staticmethod(self(cast("Callable[P, R]", fn.__func__))))
        if kind == "async":
            from holdfast.drivers import aio

            # An async fn returns an awaitable R, and so does what guards it.
            return cast("Callable[P, R]", aio.wrap(self._plan, cast("Callable[P, Awaitable[Any]]", fn)))
        from holdfast.drivers import threads

        return threads.wrap(self._plan, fn)

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a blocking function through the policy.

        Raises:
            Rejected: the policy refused; nothing ran.
            DeadlineExceeded: the time ran out.
            TypeError: `fn` handed back a coroutine.
        """
        result: R = self._run(self._plan, fn, args, kwargs)
        return result

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an async function through the policy. Raises as `call` does; TypeError where there is nothing to await."""
        from holdfast.drivers import aio

        return await aio.run(self._plan, fn, args, kwargs)

    def attempts(self) -> Attempts:
        """The block form with retries: `for attempt in policy.attempts(): with attempt: ...`, or both async.

        A block has no result, so what looks at results (`on_result`) or makes one (`fallback`, `hedge`) has no part in it.
        """
        from holdfast.blocks import Attempts

        return Attempts(self._plan if self._plan.hedge is None else self._single)

    def guard(self) -> Guard:
        """One attempt as a block, `with` or `async with`: breaker, limits and deadline, no retry and no fallback."""
        from holdfast.blocks import Guard

        return Guard(self._single)

    def explain(self) -> str:
        """The order in words, outermost first, a line a part."""
        lines = [f"{self.name}:", *(f"  {part}: {text}" for part, text in self._parts), "  the call"]
        return "\n".join(lines)

    def snapshot(self) -> PolicySnapshot:
        """State, counts, what is left of the budget and what is in flight, as plain data."""
        return _snapshot(self._plan)

    def __repr__(self) -> str:
        return f"<Policy {self.name!r}: {', '.join(part for part, _ in self._parts) or 'calls through'}>"


class BreakerHandle:
    """A policy's breaker for people: its state, and the switches to force it."""

    __slots__ = ("_circuit",)

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit

    @property
    def state(self) -> str:
        """One of "closed", "open", "half-open", "forced-open" or "forced-closed"."""
        return self._circuit.state(clock.now()).value

    def force_open(self) -> None:
        """Refuse every call until `reset`."""
        self._force(State.FORCED_OPEN)

    def force_closed(self) -> None:
        """Let every call pass until `reset`, whatever becomes of it."""
        self._force(State.FORCED_CLOSED)

    def reset(self) -> None:
        """Close it and forget what was counted; ends a forced state."""
        self._force(State.CLOSED)

    def snapshot(self) -> BreakerSnapshot:
        """State and counts as plain data."""
        return self._circuit.snapshot(clock.now())

    def _force(self, state: State) -> None:
        self._circuit.force(state)
        events.publish(self._circuit.take_news())

    def __repr__(self) -> str:
        return f"<breaker of {self._circuit.name!r}: {self.state}>"


def require(*policies: Policy) -> None:
    """Ask before the work whether all these dependencies are to be called; takes no place and no probe of theirs.

    Raises:
        BreakerOpen: one of them is surely to be refused; the first in the order given.
    """
    now = clock.now()
    for policy in policies:
        if not isinstance(policy, Policy):
            raise TypeError(f"require takes policies, got {policy!r}")
        circuit = policy._plan.circuit
        refusal = circuit.refusal(now) if circuit is not None else None
        if refusal is not None:
            try:
                raise refusal
            finally:
                del refusal  # its traceback holds this frame, and the ring would wait for the garbage collector


def snapshots() -> list[PolicySnapshot]:
    """Those of every policy of this process that is still in use, be it only by a function that it decorates."""
    return [_snapshot(plan) for plan in (reference() for reference in list(_plans.values())) if plan is not None]


def _snapshot(plan: Plan) -> PolicySnapshot:
    now = clock.now()
    places = plan.places
    pacer = plan.pacer if plan.inner is None else plan.inner.pacer
    return {
        "name": plan.name,
        "breaker": None if plan.circuit is None else plan.circuit.snapshot(now),
        "budget": None if plan.budget is None else plan.budget.ledger.snapshot(now),
        "limit": None if places is None else {"limit": places.limit, "running": places.running, "waiting": places.waiting},
        "limit_across": None if places is None else places.across,
        "rate_limit_wait": None if pacer is None else pacer.retry_after(now),
        "hedge_after": None if plan.patience is None else plan.patience.delay(now),
    }


# What is in use, for who shows all of it. The plans, since a decorated function keeps its plan and not its policy; no WeakSet, which
# cannot be read while another thread adds to it.
_plans: dict[int, weakref.ref[Plan]] = {}


def _enlist(plan: Plan) -> None:
    key = id(plan)
    _plans[key] = weakref.ref(plan, lambda _: _plans.pop(key, None))


def _kind_of(fn: object) -> str:
    """Say "sync" or "async", seen through partials and callable objects."""
    if isinstance(fn, classmethod):
        raise TypeError("decorate below @classmethod: a policy guards a function, and this is not one yet")
    if not callable(fn):
        raise TypeError(f"a policy guards something that can be called, got {fn!r}")
    inner: object = fn
    while isinstance(inner, (functools.partial, staticmethod)):
        inner = inner.func if isinstance(inner, functools.partial) else inner.__func__
    candidates = [inner]
    if not isinstance(inner, type) and not inspect.isroutine(inner):
        candidates.append(type(inner).__call__)
    for candidate in candidates:
        if inspect.isgeneratorfunction(candidate) or inspect.isasyncgenfunction(candidate):
            name = getattr(inner, "__qualname__", repr(inner))
            raise TypeError(f"{name} is a generator: calling it runs nothing yet, so there is nothing to guard; guard what its body calls")
    return "async" if any(inspect.iscoroutinefunction(candidate) for candidate in candidates) else "sync"
