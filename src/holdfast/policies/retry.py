"""Retry: do a failed call again, where that can help and cannot hurt.

1. Only failures of the named kinds are retried; a refusal (`Rejected`) never is, since whoever refused knows better.
2. Never past the deadline, nor into an open breaker: a wait that could only end in a refusal is not begun.
3. The budget is asked before the wait, and only for a retry that could still happen.
4. The last exception is raised itself, with a note that says why it was the last.
5. What interrupts (KeyboardInterrupt, cancellation) is passed on at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, cast

from holdfast.backoff import Backoff
from holdfast.errors import Rejected
from holdfast.outcome import Matcher, check_matcher, describe_matcher, matches
from holdfast.policies.budget import Budget
from holdfast.validation import Config, Seconds, config, count, wait_seconds

if TYPE_CHECKING:
    from random import Random


@config
class Retry(Config):
    """How often, on what and when a failed call is done again.

    Args:
        attempts: attempts in all, the first included, >= 1.
        on: exception types, or a predicate on the exception. `Rejected` and what is no `Exception` are never retried.
        on_result: a predicate on the result; true means that the call is to be done again. When the attempts are used
            up, the last result is returned.
        backoff: the waits between attempts.
        budget: a limit to the share of retries in the traffic; an object that several policies may share.
        delay_from: asked for each failure with the exception (or the unwanted result); seconds that the other side wants us to
            wait (`Retry-After`), or None. It replaces the backoff. What is not a finite number >= 0 is not used.
        delay_max: a longer wait from `delay_from` is cut to this many seconds, >= 0.

    Raises:
        ValueError, TypeError: a field is out of its range, or not of its kind.
    """

    attempts: int = 3
    on: Matcher = (ConnectionError, TimeoutError)
    on_result: Callable[..., bool] | None = None
    backoff: Backoff = field(default_factory=Backoff)
    budget: Budget | None = None
    delay_from: Callable[..., float | None] | None = None
    delay_max: Seconds = 30.0

    def __post_init__(self) -> None:
        count("Retry.attempts", self.attempts)
        check_matcher("Retry.on", self.on)
        for name in ("on_result", "delay_from"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise TypeError(f"Retry.{name} must be callable or None, got {hook!r}")
        if not isinstance(self.backoff, Backoff):
            raise TypeError(f"Retry.backoff must be a Backoff, got {self.backoff!r}")
        if self.budget is not None and not isinstance(self.budget, Budget):
            raise TypeError(f"Retry.budget must be a Budget or None, got {self.budget!r}")
        object.__setattr__(self, "delay_max", wait_seconds("Retry.delay_max", self.delay_max))

    def wants(self, error: BaseException) -> bool:
        """Whether a failure of this kind is retried at all."""
        return isinstance(error, Exception) and not isinstance(error, Rejected) and matches(self.on, error)

    def describe(self) -> str:
        """The rules in words, for `Policy.explain`."""
        parts = [f"up to {self.attempts} attempts on {describe_matcher(self.on)}"]
        if self.on_result is not None:
            parts.append("or on an unwanted result")
        parts.append(f"waits {self.backoff.describe()}")
        if self.budget is not None:
            parts.append(self.budget.describe())
        return "; ".join(parts)


class Recovery:
    """The retries of one call: what is left to try. Made after its first failure, so a call that succeeds pays nothing."""

    __slots__ = ("_ask", "_delay", "_retry", "_rng", "reason")

    def __init__(self, retry: Retry, rng: Random, ask: Callable[..., float | None] | None = None) -> None:
        self._retry = retry
        self._ask = ask or retry.delay_from
        self._rng = rng
        self._delay = 0.0
        self.reason = ""

    def decide(self, attempt: int, failure: object, now: float, until: float, shut_until: float = -math.inf) -> float | None:
        """Seconds to wait before the next attempt; None where there is none, and then `reason` says why.

        Args:
            attempt: how many attempts were made.
            failure: the exception, or the unwanted result; of a kind that is retried.
            now: monotonic seconds.
            until: the deadline; math.inf without one.
            shut_until: before this moment the breaker refuses every call; -math.inf where it does not.
        """
        retry = self._retry
        if attempt >= retry.attempts:
            self.reason = "no attempts left"
            return None
        delay = self._asked_for(failure)
        if delay is None:
            delay = retry.backoff.delay(attempt, self._delay, self._rng)
        if now + delay >= until:
            self.reason = "the deadline leaves no time for another"
            return None
        if now + delay < shut_until:
            self.reason = "the breaker is open"
            return None
        if retry.budget is not None and not retry.budget.ledger.withdraw(now):
            self.reason = "retry budget empty"
            return None
        self._delay = delay
        return delay

    def _asked_for(self, failure: object) -> float | None:
        if self._ask is None:
            return None
        delay = self._ask(failure)
        if not isinstance(delay, (int, float)) or isinstance(delay, bool) or not 0.0 <= delay < math.inf:
            return None
        return min(delay, cast("float", self._retry.delay_max))
