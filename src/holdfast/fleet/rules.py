"""The rules by which a fleet's breaker goes: as a process of the fleet is given them, and as it sends them along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import le
from typing import cast

from holdfast.fleet.protocol import milliseconds
from holdfast.policies.breaker import Breaker


@dataclass(frozen=True, slots=True)
class Terms:
    """What all policies of a process have in common in a fleet.

    Args:
        process: the process's name in the store.
        quorum: the share of the processes that saw traffic, above which they speak for all.
        lease: seconds after which somebody else probes in the place of a process that died.
        interval: seconds between two rounds of a process that has something to say.
        idle: the longest pause between two rounds, in seconds.
    """

    process: str
    quorum: float
    lease: float
    interval: float
    idle: float

    @property
    def lent_for(self) -> float:
        """Seconds for which a probe is lent: the others have to ask for its place, and are answered, before `lease` is over."""
        return max(self.lease / 2, self.lease - 3 * self.interval)


def looks_bad(config: Breaker, window: list[int]) -> bool:
    """Whether these calls, failures and slow calls of one process, few as they may be, look as bad as the rule says."""
    calls, failures, slow = window
    return calls > 0 and (
        (config.failure_rate is not None and failures / calls >= config.failure_rate)
        or (config.slow_rate is not None and slow / calls >= config.slow_rate)
    )


def rule_of(config: Breaker) -> dict[str, object]:
    """The breaker's rules as the scripts take them; times are milliseconds, and what is not set is left out."""
    rule: dict[str, object] = {
        "min_calls": config.min_calls,
        "span": milliseconds(cast("float", config.window)),
        "open_for": milliseconds(cast("float", config.open_for)),
        "open_for_max": milliseconds(cast("float", config.open_for_max)),
        "max_probes": config.max_probes,
        "probes_to_close": config.probes_to_close,
        "rows": config.consecutive is not None,
    }
    rates = {"failure_rate": config.failure_rate, "slow_rate": config.slow_rate}
    return rule | {name: rate for name, rate in rates.items() if rate is not None}


def unless_cleared(told: Sequence[int], counted: list[int]) -> list[int]:
    """What was told of these counts before; nothing where they were cleared since."""
    is_same = len(told) == len(counted) and all(map(le, told, counted))
    return list(told) if is_same else [0] * len(counted)
