"""A call as its caller sees it, over attempts and redirects: which policy guards it, its deadline, its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, cast

from holdfast.deadlines import Deadline, ambient
from holdfast.drivers import clock
from holdfast.plan import Plan
from holdfast.policy import Policy

REQUEST_ID = "X-Request-Id"


class Policies:
    """Which policy guards which host.

    Args:
        policy: one for all, or a mapping of host to policy in which "*" stands for every other; None for timeouts only.

    Raises:
        TypeError: it is neither.
    """

    __slots__ = ("_by_host", "_others", "only")

    def __init__(self, policy: Policy | Mapping[str, Policy] | None) -> None:
        by_host: Mapping[str, Policy] = policy if isinstance(policy, Mapping) else {} if policy is None else {"*": policy}
        self._by_host: dict[str, Policy] = {}
        for host, each in by_host.items():
            if not isinstance(cast("object", host), str) or not isinstance(cast("object", each), Policy):
                raise TypeError(f"policy must be a Policy or a mapping of host to Policy, got {host!r}: {each!r}")
            self._by_host[host.lower()] = each
        self._others = self._by_host.pop("*") if "*" in self._by_host else Policy("http")
        self.only = None if self._by_host else self._others._plan  # what guards all calls, where hosts make no difference

    def plan(self, host: str) -> Plan:
        """What guards calls to this host."""
        return self._by_host.get(host.lower(), self._others)._plan


def whole_call(plan: Plan) -> Deadline | None:
    """The deadline of a logical call that begins now: redirects, attempts and the reading of the response, all together."""
    outer = ambient.get()
    budget = plan.deadline
    if budget is None:
        return outer
    end = clock.current.get().now() + budget
    return Deadline(end, budget, plan.name, outer) if outer is None or end < outer.at else outer


# Names for the calls to come. The kernel is asked for many at once: a system call per request is a half of what a name costs.
_names: Iterator[str] = iter(())
_NAMES = 64


def new_id() -> str:
    """A name for a logical call: as random and as long as a UUID of 32 digits."""
    global _names
    name = next(_names, None)
    if name is None:
        digits = os.urandom(16 * _NAMES).hex()
        name, *others = (digits[at : at + 32] for at in range(0, len(digits), 32))
        _names = iter(others)
    return name


def _forget_names() -> None:
    global _names
    _names = iter(())


if hasattr(os, "register_at_fork"):  # the child makes names of its own
    os.register_at_fork(after_in_child=_forget_names)


def mint_id(headers: MutableMapping[str, Any]) -> None:
    """Give the logical call its name, unless the caller has named it."""
    if REQUEST_ID not in headers:
        headers[REQUEST_ID] = new_id()
