"""Bulkhead: one slow dependency must not take every worker.

A worker that waits for a dependency burns no CPU, so nothing scales and nothing alarms; when all of them wait, requests that do
not need the dependency fail too. A bulkhead gives each dependency a number of places.

1. At most `limit` calls run at once, threads and tasks of all loops together.
2. At most `queue` more wait for a place, each at most `wait` seconds and never past its deadline.
3. Everybody else is refused at once with `BulkheadFull`.
4. The queue is served in order.
5. The places are the process's, or with `across="host"` the machine's: then all processes of this user share them, and nobody waits.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from holdfast.policies.places import MOST
from holdfast.validation import Config, Seconds, choice, config_with_first, count, wait_seconds


@config_with_first
class Bulkhead(Config):
    """How many calls to a dependency may run at once.

    Args:
        limit: places, in [1, 1,000,000].
        queue: how many calls may wait for one, >= 0.
        wait: how long each waits at most, >= 0 seconds.
        across: "process" counts the calls of this process; "host" those of all processes of this machine (of one user, by policies of the
            same name), for servers whose workers are processes. A killed process gives its places back.

    Raises:
        ValueError: a field is out of its range, or calls shall wait for a place across the host.
    """

    limit: int
    _: KW_ONLY
    queue: int = 0
    wait: Seconds = 0.0
    across: Literal["process", "host"] = "process"

    def __post_init__(self) -> None:
        count("Bulkhead.limit", self.limit, high=MOST)
        count("Bulkhead.queue", self.queue, low=0)
        object.__setattr__(self, "wait", wait_seconds("Bulkhead.wait", self.wait))
        choice("Bulkhead.across", self.across, ("process", "host"))
        for field in ("queue", "wait"):
            if self.across == "host" and getattr(self, field):
                raise ValueError(
                    f"Bulkhead.{field} must be 0 with across='host': processes do not wait for each other, got {getattr(self, field)}"
                )

    def describe(self) -> str:
        """The rules in words, for `Policy.explain`."""
        where = " on this machine" if self.across == "host" else ""
        if not self.queue or not self.wait:
            return f"at most {self.limit} at once{where}, nobody waits for a place"
        return f"at most {self.limit} at once, {self.queue} more wait up to {self.wait:g} s"
