"""The parts that a policy was given: checked, made into a plan, and put into words. Loaded with the first policy."""

from __future__ import annotations

import os
import random
import weakref
from typing import NamedTuple, cast

from holdfast.plan import Plan
from holdfast.policies.adaptive import Adaptive, AdaptiveLimit
from holdfast.policies.breaker import Breaker, Circuit
from holdfast.policies.bulkhead import Bulkhead
from holdfast.policies.fallback import Fallback
from holdfast.policies.hedge import Hedge, Patience
from holdfast.policies.places import Places
from holdfast.policies.ratelimit import Pacer, RateLimit
from holdfast.policies.retry import Retry
from holdfast.validation import Seconds, positive_seconds


class Parts(NamedTuple):
    """What `Policy` takes, by the same names."""

    name: str
    deadline: Seconds | None
    attempt_timeout: Seconds | None
    retry: Retry | None
    hedge: Hedge | None
    breaker: Breaker | None
    rate_limit: RateLimit | None
    bulkhead: Bulkhead | None
    adaptive: AdaptiveLimit | None
    fallback: Fallback | None

    def check(self) -> None:
        """Raise ValueError or TypeError where one is not of its kind, or does not go with another."""
        if not _is_text(self.name):
            raise ValueError(f"Policy.name must be a text that is not empty, got {self.name!r}")
        for field, kind in _KINDS.items():
            value = getattr(self, field)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"Policy.{field} must be a {kind.__name__} or None, got {value!r}")
        if self.retry is not None and self.hedge is not None:
            raise ValueError("Policy takes retry or hedge, not both; to have both, nest policies")
        if self.bulkhead is not None and self.adaptive is not None:
            raise ValueError("Policy takes bulkhead or adaptive, not both")

    def single(self) -> Plan:
        """What guards one attempt, with its living parts."""
        name, rng = self.name, _seeded()
        living = Adaptive(self.adaptive, name, rng) if self.adaptive is not None else None
        limit = self.bulkhead or self.adaptive
        return Plan(
            name,
            rng,
            deadline=None if self.deadline is None else positive_seconds("Policy.deadline", self.deadline),
            attempt_timeout=None if self.attempt_timeout is None else positive_seconds("Policy.attempt_timeout", self.attempt_timeout),
            circuit=Circuit(self.breaker, name, rng) if self.breaker is not None else None,
            pacer=Pacer(self.rate_limit, name) if self.rate_limit is not None else None,
            places=living.places if living is not None else None if self.bulkhead is None else _places(name, self.bulkhead),
            adaptive=living,
            wait=cast("float", limit.wait) if limit is not None else 0.0,
        )

    def around(self, single: Plan) -> Plan:
        """The same with what goes around attempts and calls. The attempts of a hedged call are under its deadline already."""
        hedge, retry = self.hedge, self.retry
        if hedge is None:
            return single.but(retry=retry, budget=retry.budget if retry is not None else None, fallback=self.fallback)
        return single.but(
            attempt_timeout=None,
            pacer=None,
            adaptive=None,
            hedge=hedge,
            patience=Patience(hedge),
            budget=hedge.budget,
            inner=single.but(deadline=None),
            fallback=self.fallback,
        )

    def explain(self, single: Plan) -> tuple[tuple[str, str], ...]:
        """The parts in words, outermost first."""
        limit = self.bulkhead or self.adaptive
        lines = (
            ("fallback", self.fallback and self.fallback.describe()),
            ("deadline", single.deadline and f"{single.deadline:g} s for the whole call"),
            ("retry", self.retry and self.retry.describe()),
            ("hedge", self.hedge and self.hedge.describe()),
            ("breaker", self.breaker and self.breaker.describe()),
            ("rate limit", self.rate_limit and self.rate_limit.describe()),
            ("limit", limit and limit.describe()),
            ("attempt timeout", single.attempt_timeout and f"{single.attempt_timeout:g} s for each attempt"),
        )
        return tuple((part, str(text)) for part, text in lines if text)


_KINDS: dict[str, type] = {
    "retry": Retry,
    "hedge": Hedge,
    "breaker": Breaker,
    "rate_limit": RateLimit,
    "bulkhead": Bulkhead,
    "adaptive": AdaptiveLimit,
    "fallback": Fallback,
}


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _places(name: str, bulkhead: Bulkhead) -> Places:
    if bulkhead.across == "host":
        from holdfast.drivers.host import HostPlaces

        return HostPlaces(name, bulkhead)
    return Places(bulkhead.limit, bulkhead.queue)


# Children of a fork would draw the same jitter as each other, and come back in step: each gets a seed of its own.
_rngs: weakref.WeakSet[random.Random] = weakref.WeakSet()


def _seeded() -> random.Random:
    rng = random.Random()
    _rngs.add(rng)
    return rng


def _reseed() -> None:
    for rng in _rngs:
        rng.seed()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reseed)
