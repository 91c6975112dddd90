"""Every error that holdfast raises.

    HoldfastError
     |- Rejected             nothing ran; .policy, .retry_after
     |   |- BreakerOpen      the dependency is known to be down
     |   |- BulkheadFull     the limit and its queue are full
     |   |- RateLimited      the rate is used up
     |   |- Overloaded       a server sheds the request (admission)
     |   '- LockTaken        another holds the lock, and the wait for it is over
     |- DeadlineExceeded     also a TimeoutError; it may have run: .started, .policy, .budget, .elapsed
     |   '- ClientGone       a server's work that nobody waits for any more
     |- LockOverrun          work outran its lock: .ran, .allowed, .outside
     '- StoreUnavailable     only where the user chose to fail closed

All of them pickle. Those that refuse keep nothing but their arguments and write their message when it
is read: an open breaker refuses thousands of calls a second, and each refusal is a fresh exception,
because one instance raised again and again would collect a traceback per call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.deadlines import Deadline


class HoldfastError(Exception):
    """The root of the tree: `except HoldfastError` catches whatever holdfast itself decided."""


class Rejected(HoldfastError):
    """The call was refused before anything ran, so it is always safe to do again later.

    Args:
        policy: name of the policy that refused.
        retry_after: seconds until asking again makes sense; None where nobody can tell.
    """

    reason = "refused"

    if TYPE_CHECKING:  # at run time BaseException keeps the arguments: no Python frame per refusal

        def __init__(self, policy: str, retry_after: float | None = None) -> None: ...

    @property
    def policy(self) -> str:
        """Name of the policy that refused."""
        return str(self.args[0]) if self.args else ""

    @property
    def retry_after(self) -> float | None:
        """Seconds until asking again makes sense; None where nobody can tell."""
        if len(self.args) < 2 or self.args[1] is None or self.args[1] == math.inf:
            return None
        return float(self.args[1])

    def __str__(self) -> str:
        after = self.retry_after
        again = "" if after is None else f"; try again in {after:.3g} s"
        return f"{self.policy}: {self.reason}{again}"


class BreakerOpen(Rejected):
    """The breaker is open, or half-open and this call is not one of its probes."""

    reason = "the breaker is open, nothing was called"


class BulkheadFull(Rejected):
    """As many calls as allowed are running, and the queue is full or the wait for a place ran out."""

    reason = "the bulkhead is full, nothing was called"


class RateLimited(Rejected):
    """The rate is used up, and the next free moment is further away than the caller may wait."""

    reason = "the rate limit is used up, nothing was called"


class Overloaded(Rejected):
    """The server sheds this request to keep serving others."""

    reason = "overloaded, the request was shed"


class LockTaken(Rejected):
    """Another holds the lock, and the wait for it is over. `policy` is the lock's name."""

    reason = "the lock is taken, nothing was done"


GONE = "client"  # `DeadlineExceeded.what` where nobody waits any more, also in the errors that clients make of ours


class DeadlineExceeded(HoldfastError, TimeoutError):
    """The time for the work ran out. Unlike after a refusal, the work may have happened.

    Args:
        policy: name of the policy whose time ran out; None for a `holdfast.deadline` block.
        budget: seconds that were given.
        elapsed: seconds that had passed when it was noticed.
        started: whether an attempt had been started.
        attempt: number of the attempt that was cut off, from 1; 0 where none or not known.
        what: what ran out: "deadline", "attempt timeout", "shield" or "lock".
    """

    _source: Deadline | None = None  # whose time ran out, where that is of this process

    def __init__(
        self,
        policy: str | None = None,
        budget: float = math.inf,
        elapsed: float = 0.0,
        started: bool = False,
        attempt: int = 0,
        what: str = "deadline",
    ) -> None:
        self.policy = policy
        self.budget = budget
        self.elapsed = elapsed
        self.started = started
        self.attempt = attempt
        self.what = what
        super().__init__(policy, budget)

    def __str__(self) -> str:
        if self.what == GONE:
            return f"the client has gone after {self.elapsed:.3g} s, nobody waits for the answer"
        who = f"{self.policy}: " if self.policy else ""
        # A deadline given as a point in the past has no budget to speak of.
        given = f" of {self.budget:.3g} s" if 0 < self.budget < math.inf else ""
        where = f", in attempt {self.attempt}" if self.attempt else "" if self.started else ", before it was started"
        elapsed = f"{self.elapsed:.3g}" if self.elapsed >= 0.001 else "0"
        return f"{who}{self.what}{given} exceeded after {elapsed} s{where}"

    def __reduce__(self) -> tuple[object, ...]:
        args = (self.policy, self.budget, self.elapsed, self.started, self.attempt, self.what)
        state = {name: value for name, value in self.__dict__.items() if name != "_source"}
        return (type(self), args, state)


class ClientGone(DeadlineExceeded):
    """The client has gone, so nobody waits for the work any more: its deadline has come early."""


class LockOverrun(HoldfastError):
    """Work under a lock went on after the lock had run out, so somebody else may have held it meanwhile.

    Args:
        name: the lock's name.
        ran: seconds that the work took.
        allowed: seconds that the lock allowed.
    """

    def __init__(self, name: str, ran: float, allowed: float) -> None:
        self.name = name
        self.ran = ran
        self.allowed = allowed
        super().__init__(name, ran, allowed)

    @property
    def outside(self) -> float:
        """Seconds that the work ran outside of the lock."""
        return max(0.0, self.ran - self.allowed)

    def __str__(self) -> str:
        return (
            f"lock {self.name!r}: the work ran for {self.ran:.3g} s, allowed were {self.allowed:.3g} s; "
            f"the last {self.outside:.3g} s ran outside of the lock"
        )


class StoreUnavailable(HoldfastError):
    """A shared store did not answer, and the user chose that this must fail rather than go on with local state.

    Its `retry_after` are the seconds after which asking again makes sense; None where nobody can tell.
    """

    retry_after: float | None = None
