"""Circuit breaker: stop calling who is down, and find out gently when it is back.

Calls to a dependency that is down cost the caller time and places, and keep the dependency from getting up. The breaker counts
what becomes of calls, refuses them while it is open, and lets a few through to see.

1. Closed: calls pass. It opens when, over the last `window` seconds and with at least `min_calls` of them, the share of failures is
   `failure_rate` or more, or the share of calls that took `slow_after` or longer is `slow_rate` or more; or after
   `consecutive` failures in a row.
2. Open: every call is refused with `BreakerOpen`, for `open_for` seconds. The first call after that makes it half-open.
3. Half-open: a share `probe_share` of the calls passes as probes (the first one, then one in twenty for 0.05), and never more than
   `max_probes` at once; the rest is refused. With a `health_check` every call asks it first, instead of the share.
4. `probes_to_close` successful probes close it, with an empty window. One failed (or slow) probe opens it again, for twice the pause
   before, up to `open_for_max`, less up to a fifth of jitter so that a fleet does not probe in step.
5. Each change of state starts a new generation. A result of an older one is that of another time, and changes nothing. A call that was
   admitted in an older one, and waited for its turn or place since, is asked for anew.
6. A probe that hangs is counted among the `max_probes` until it comes back, whatever the state meanwhile; for `open_for_max` at most.
7. A probe that says nothing (cancelled, interrupted, ignored, cut off by its caller) frees its place and counts as nothing.

    state          admits           success            failure            time
    closed         all              counts             may open           -
    open           none             -                  -                  half-open after the pause
    half-open      probes           may close          opens              -
    forced-open    none             -                  -                  -
    forced-closed  all              -                  -                  -
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from holdfast import events
from holdfast.errors import BreakerOpen
from holdfast.locks import Guarded
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Matcher, Verdict, check_matcher
from holdfast.validation import Config, Seconds, config, count, positive_seconds, share
from holdfast.window import Window

if TYPE_CHECKING:
    from random import Random

    from holdfast.policies.shared import Membership
    from holdfast.snapshots import BreakerSnapshot

_CALLS, _FAILURES, _SLOW = 0, 1, 2
_NEVER, _ALWAYS = float("-inf"), float("inf")

# How much of a grown pause jitter may take away.
_JITTER = 0.2


class State(enum.Enum):
    """The states, by the field's names: closed lets pass, open refuses."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"
    FORCED_OPEN = "forced-open"
    FORCED_CLOSED = "forced-closed"


@config
class Breaker(Config):
    """When to stop calling a dependency, and how to start again.

    Args:
        failure_rate: share of failures that opens it, in (0, 1]; None to go by the other rules only.
        min_calls: fewer calls than this in the window never open it by a share, >= 1.
        window: over how many seconds calls are counted, > 0.
        slow_after: a call that takes this many seconds or longer is slow, > 0; None where slow calls do not count.
        slow_rate: share of slow calls that opens it, in (0, 1]; goes with `slow_after`.
        consecutive: failures in a row that open it, >= 1; None where rows do not count.
        open_for: seconds that it stays open the first time, > 0.
        open_for_max: the longest that it stays open when probes go on failing, >= open_for.
        probe_share: share of the calls that pass while half-open, in (0, 1].
        max_probes: how many probes may run at once, >= 1.
        probes_to_close: successful probes that close it, >= 1.
        health_check: called before each probe, instead of the share; a false result or an exception opens it again. It may be
            `async def` where the guarded calls are.
        ignore: exception types, or a predicate: failures that say nothing about the dependency.
        on_result: a predicate on the result; true means that the call counts as a failure.

    Raises:
        ValueError, TypeError: a field is out of its range, or not of its kind.
    """

    failure_rate: float | None = 0.5
    min_calls: int = 100
    window: Seconds = 60.0
    slow_after: Seconds | None = None
    slow_rate: float | None = None
    consecutive: int | None = None
    open_for: Seconds = 30.0
    open_for_max: Seconds = 300.0
    probe_share: float = 0.05
    max_probes: int = 10
    probes_to_close: int = 5
    health_check: Callable[[], object] | Callable[[], Awaitable[object]] | None = None
    ignore: Matcher = ()
    on_result: Callable[..., bool] | None = None

    def __post_init__(self) -> None:
        self._check_rules()
        open_for = positive_seconds("Breaker.open_for", self.open_for)
        longest = positive_seconds("Breaker.open_for_max", self.open_for_max)
        if longest < open_for:
            raise ValueError(f"Breaker.open_for_max must be >= open_for ({open_for:g} s), got {self.open_for_max!r}")
        object.__setattr__(self, "window", positive_seconds("Breaker.window", self.window))
        object.__setattr__(self, "open_for", open_for)
        object.__setattr__(self, "open_for_max", longest)
        share("Breaker.probe_share", self.probe_share)
        count("Breaker.max_probes", self.max_probes)
        count("Breaker.probes_to_close", self.probes_to_close)
        check_matcher("Breaker.ignore", self.ignore)
        for name in ("health_check", "on_result"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise TypeError(f"Breaker.{name} must be callable or None, got {hook!r}")

    def _check_rules(self) -> None:
        if (self.slow_after is None) != (self.slow_rate is None):
            raise ValueError(
                f"Breaker.slow_after and Breaker.slow_rate go together, got slow_after={self.slow_after!r}, slow_rate={self.slow_rate!r}"
            )
        if self.failure_rate is None and self.slow_rate is None and self.consecutive is None:
            raise ValueError("Breaker.failure_rate must be in (0, 1] where neither slow_rate nor consecutive is set, got None")
        count("Breaker.min_calls", self.min_calls)
        if self.failure_rate is not None:
            share("Breaker.failure_rate", self.failure_rate)
        if self.slow_rate is not None:
            share("Breaker.slow_rate", self.slow_rate)
            object.__setattr__(self, "slow_after", positive_seconds("Breaker.slow_after", self.slow_after))
        if self.consecutive is not None:
            count("Breaker.consecutive", self.consecutive)

    def describe(self) -> str:
        """The rules in words, for `Policy.explain`."""
        rules = []
        if self.failure_rate is not None:
            rules.append(f"{self.failure_rate * 100:g} % failures")
        if self.slow_rate is not None:
            rules.append(f"{self.slow_rate * 100:g} % slower than {self.slow_after:g} s")
        shares = f"{' or '.join(rules)} of {self.min_calls} or more calls in {self.window:g} s" if rules else ""
        row = f"{self.consecutive} failures in a row" if self.consecutive else ""
        probes = "after a health check" if self.health_check else f"to {self.probe_share * 100:g} % of the calls"
        return (
            f"opens on {' or on '.join(filter(None, (shares, row)))}, for {self.open_for:g} s (up to {self.open_for_max:g} s); "
            f"then probes {probes}, {self.max_probes} at once, {self.probes_to_close} successes close it"
        )


class Circuit(Guarded):
    """The living breaker of one policy.

    Args:
        config: its rules.
        name: the policy's, for errors and events.
        rng: for the jitter of pauses.
    """

    __slots__ = (
        "_all_well",
        "_counting_permit",
        "_generation",
        "_passed",
        "_pause",
        "_probes",
        "_rng",
        "_shut_permit",
        "_slow_after",
        "_state",
        "_streak",
        "_window",
        "config",
        "fleet",
        "name",
        "news",
        "open_until",
    )

    def __init__(self, config: Breaker, name: str, rng: Random) -> None:
        super().__init__()
        from holdfast.policies.probes import Probes  # with the first breaker: who only imports holdfast does not wait for it

        self.config = config
        self.name = name
        self.news: list[events.Event] = []
        self.fleet: Membership | None = None
        self._rng = rng
        self._slow_after = _ALWAYS if config.slow_after is None else cast("float", config.slow_after)
        self._window = Window(cast("float", config.window), kinds=3)
        self._generation = 0
        self._state = State.CLOSED
        self.open_until = _NEVER  # before this moment every call is refused
        self._pause = 0.0
        self._streak = self._passed = 0
        self._probes = Probes(config)
        self._enter(State.CLOSED)

    # What the flow calls.

    def admit(self, now: float) -> int:
        """Ask to make a call: a permit for `settle`, or 0 when it is not to be made, and `refuse` says why.

        The permit is the generation of the state that gave it, or the number of the probe.
        """
        # Two plain reads answer for the states that most calls meet; only half-open counts, and takes the lock.
        permit = self._shut_permit
        if permit or now < self.open_until:
            return permit
        with self._lock:
            return self._admit_probe(now)

    def refuse(self, now: float) -> BreakerOpen:
        """The error for a call that was not admitted."""
        return BreakerOpen(self.name, self.open_until - now if now < self.open_until else None)

    def settle(self, permit: int, verdict: Verdict, now: float, elapsed: float) -> None:
        """Tell what became of a call that was admitted, and how many seconds it took."""
        slow = elapsed >= self._slow_after
        if permit == self._counting_permit and verdict is not IGNORED:
            window = self._window
            if now >= window.turns_at:
                with self._lock:
                    self._turn(now)
            window.bump[_CALLS]()
            if self._all_well and verdict is SUCCESS and not slow:
                return
        with self._lock:
            if permit == self._counting_permit:
                self._judge(verdict, slow, now)
                return
            if self._probes.end(permit, self.fleet) == self._generation:
                self._probe_ended(verdict, slow, now)

    def is_probe(self, permit: int) -> bool:
        """Whether this permit is that of a probe."""
        return permit < 0

    def is_current(self, permit: int) -> bool:
        """Whether the state that gave this permit still lasts. A call that waited since is to ask anew where it does not."""
        return permit == self._shut_permit or self._probes.generation(permit) == self._generation

    # The rules. Everything below runs under the lock.

    def _admit_probe(self, now: float) -> int:
        if self._state is State.OPEN and now >= self.open_until:
            self._change(State.HALF_OPEN, f"{self._pause:.3g} s have passed")
        if self._state is not State.HALF_OPEN:  # it changed between the reads and the lock
            return self._shut_permit
        return self._probes.admit(self._generation, self.fleet, now)

    def _turn(self, now: float) -> None:
        _, failures, slow = self._window.totals(now)
        self._all_well = not failures and not slow and not self._streak

    def _judge(self, verdict: Verdict, slow: bool, now: float) -> None:
        if verdict is IGNORED:
            return
        if verdict is FAILURE:
            self._window.bump[_FAILURES]()
            self._streak += 1
            self._all_well = False
        else:
            self._streak = 0
        if slow:
            self._window.bump[_SLOW]()
            self._all_well = False
        reason = self._reason_to_open(now)
        if reason:
            self._open(cast("float", self.config.open_for), reason, now)

    def _reason_to_open(self, now: float) -> str | None:
        config = self.config
        calls, failures, slow = self._window.totals(now)
        if config.consecutive is not None and self._streak >= config.consecutive:
            return f"{self._streak} failures in a row"
        if calls < config.min_calls:
            return None
        if config.failure_rate is not None and failures / calls >= config.failure_rate:
            return f"{failures} of {calls} calls failed"
        if config.slow_rate is not None and slow / calls >= config.slow_rate:
            return f"{slow} of {calls} calls were slow"
        return None

    def _probe_ended(self, verdict: Verdict, slow: bool, now: float) -> None:
        if verdict is IGNORED:
            self._probes.pass_on()
        elif verdict is FAILURE or slow:
            longest = cast("float", self.config.open_for_max)
            if self.fleet is not None:
                self.fleet.failed()
            grown = min(2.0 * self._pause, longest) * (1.0 - _JITTER * self._rng.random())
            self._open(max(grown, cast("float", self.config.open_for)), "a probe failed", now)
        else:
            self._passed += 1
            decides = self.fleet is None or self.fleet.passed()
            if decides and self._passed >= self.config.probes_to_close:
                if self.fleet is not None:
                    self.fleet.closes()
                self._change(State.CLOSED, f"{self._passed} probes succeeded")

    def _open(self, pause: float, reason: str, now: float) -> None:
        self._pause = pause
        self.open_until = now + pause
        self._change(State.OPEN, reason)

    def _change(self, state: State, reason: str) -> None:
        old = self._state
        self._enter(state)
        if events.listeners and state is not old:
            pause = self._pause if state is State.OPEN else 0.0
            self.news.append(events.BreakerChanged(self.name, old.value, state.value, reason, pause))

    def _enter(self, state: State) -> None:
        self._generation += 1
        self._state = state
        self._shut_permit = self._generation if state in (State.CLOSED, State.FORCED_CLOSED) else 0
        self._counting_permit = self._generation if state is State.CLOSED else 0
        if state is State.FORCED_OPEN:
            self.open_until = _ALWAYS
        elif state is not State.OPEN:
            self.open_until = _NEVER
        if self.fleet is not None:
            self.fleet.entered(state in (State.OPEN, State.HALF_OPEN), self._window.counted() if state is State.CLOSED else None)
        if state is State.CLOSED:
            self._window.clear()
            self._all_well = True  # no failure and nothing slow in the window: a success has nothing to weigh
        self._streak = self._passed = 0
        self._probes.begin()

    # What people call.

    def force(self, state: State) -> None:
        """Go to FORCED_OPEN or FORCED_CLOSED and stay, or to CLOSED and start afresh."""
        with self._lock:
            self._change(state, "reset" if state is State.CLOSED else "forced")
            if self.fleet is not None:
                self.fleet.command = state

    def state(self, now: float) -> State:
        """The state at `now`: an open breaker whose pause is over is half-open, though no call has come to see it."""
        state = self._state
        return State.HALF_OPEN if state is State.OPEN and now >= self.open_until else state

    def refusal(self, now: float) -> BreakerOpen | None:
        """The error with which a call would surely be refused at `now`; None where it may pass. Takes no probe's place."""
        full = False
        if self._state is State.HALF_OPEN:
            with self._lock:
                full = self._probes.running(now) >= self.config.max_probes
        return self.refuse(now) if full or now < self.open_until else None

    def take_news(self) -> list[events.Event]:
        """The changes of state that nobody was told of yet."""
        with self._lock:
            news, self.news = self.news, []
            return news

    def snapshot(self, now: float) -> BreakerSnapshot:
        """Plain data about the breaker at `now`."""
        with self._lock:
            calls, failures, slow = self._window.totals(now)
            wait = self.open_until - now
            return {
                "state": self.state(now).value,
                "calls": calls,
                "failures": failures,
                "slow": slow,
                "probes": self._probes.running(now),
                "passed": self._passed,
                "retry_after": wait if 0 < wait < _ALWAYS else None,
            }

    def _after_fork(self) -> None:
        # The probes belong to threads that only the parent has; a new generation lets none of them report here.
        self.news.clear()
        self._probes.forget()
        state, until, pause = self._state, self.open_until, self._pause
        if state is State.HALF_OPEN:
            self._enter(state)
            self.open_until, self._pause = until, pause
