"""What a policy is made of when it is ready to run, and the steps that its flow may ask a driver for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from holdfast.policies.adaptive import Adaptive
from holdfast.policies.breaker import Breaker, Circuit
from holdfast.policies.budget import Budget
from holdfast.policies.fallback import Fallback
from holdfast.policies.hedge import Hedge, Patience
from holdfast.policies.places import Places, Ticket
from holdfast.policies.ratelimit import Pacer
from holdfast.policies.retry import Retry

if TYPE_CHECKING:
    from random import Random


@dataclass(slots=True, eq=False, repr=False, match_args=False, weakref_slot=True)
class Plan:
    """A policy, ready to run: its configuration and its living parts. Made once by `Policy`."""

    name: str
    rng: Random
    deadline: float | None = None
    attempt_timeout: float | None = None
    retry: Retry | None = None
    hedge: Hedge | None = None
    patience: Patience | None = None
    fallback: Fallback | None = None
    circuit: Circuit | None = None
    pacer: Pacer | None = None
    places: Places | None = None
    adaptive: Adaptive | None = None
    wait: float = 0.0
    budget: Budget | None = None
    inner: Plan | None = None  # with a hedge: what each of its attempts runs through

    layered: bool = field(init=False)  # a fallback or a hedge surrounds the calls
    judges: bool = field(init=False)  # results are looked at
    checks: bool = field(init=False)  # probes ask a health check first
    light: bool = field(init=False)  # a call has nothing to ask before its first failure

    def __post_init__(self) -> None:
        self.layered = self.fallback is not None or self.hedge is not None
        self.judges = (self.retry is not None and self.retry.on_result is not None) or (
            self.circuit is not None and self.circuit.config.on_result is not None
        )
        self.checks = self.circuit is not None and self.circuit.config.health_check is not None
        asks = (self.deadline, self.attempt_timeout, self.circuit, self.pacer, self.places, self.budget)
        self.light = all(part is None for part in asks) and not self.layered and not self.judges

    def but(self, **changes: Any) -> Plan:
        """The same with other parts; its living ones are shared."""
        return replace(self, **changes)


class Sleep:
    """Step: wait this many seconds (for the rate limit)."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Queue:
    """Step: wait until the ticket is served, at most until this moment."""

    __slots__ = ("ticket", "until")

    def __init__(self, ticket: Ticket, until: float) -> None:
        self.ticket = ticket
        self.until = until


class HealthCheck:
    """Step: run the breaker's health check under `call.limit`, and tell `call.checked` whether it was good."""

    __slots__ = ("config",)

    def __init__(self, config: Breaker) -> None:
        self.config = config


Step: TypeAlias = Sleep | Queue | HealthCheck
