"""One fleet, one state: breakers and budgets shared through Redis or Valkey, without a round trip per call.

    holdfast.fleet.connect("redis://user:password@host:6379/0")

From then on policies of the same name are one in all processes that are connected to the same server with the same prefix: their breaker
opens for all and closes for all, and their retries are a share of the traffic of all. `Policy(shared=False)` keeps one out.

A call reads only memory. One background thread per process tells the store what was counted and learns what the others know, every
`interval` seconds while there is something to say.
"""

from __future__ import annotations

import atexit
import os
from threading import Lock
from typing import TYPE_CHECKING

from holdfast.validation import Seconds, positive_seconds, share

if TYPE_CHECKING:
    from typing import TypedDict

    from holdfast.fleet.agent import Agent
    from holdfast.fleet.dialogue import Settings
    from holdfast.fleet.member import Past

    class PolicyInFleet(TypedDict):
        """What this process knows of a policy in the fleet; counts are the fleet's, over the window."""

        state: str
        processes: int
        calls: int
        failures: int
        slow: int
        requests: int
        retries: int

    class FleetSnapshot(TypedDict):
        """How this process stands with the fleet."""

        connected: bool
        away: float | None  # seconds since the store cannot be asked
        policies: dict[str, PolicyInFleet]


__all__ = ["connect", "disconnect", "snapshot"]

_agent: Agent | None = None
# Which fleet this process was in last, and what it told: who joins it again does not tell it twice.
_left: tuple[object, dict[object, Past]] = None, {}
_lock = Lock()


def connect(
    url: str,
    *,
    interval: Seconds = 0.1,
    prefix: str = "holdfast",
    timeout: Seconds = 0.5,
    quorum: float = 0.5,
    lease: Seconds | None = None,
) -> None:
    """Join the fleet: policies that exist and those made later share their breaker and budget with the same ones of other processes.

    It does not wait for the server, and does not fail if that is away: the process then goes on alone until it is there. Connecting
    again leaves the fleet before.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://` for TLS, `unix://`, `redis+sentinel://one:26379,two:26379/service/0`,
            `redis+cluster://one:6379,two:6379`.
        interval: seconds between two rounds of a process that has something to say, > 0.
        prefix: of all keys and the channel, one per application.
        timeout: seconds that the background may wait for the server, > 0.
        quorum: the breaker opens for all when more than this share of the processes that saw traffic agree, in (0, 1].
        lease: seconds, at least 4 intervals, within which another process probes in the place of one that died. None for 2 seconds, or
            20 intervals where that is longer.

    Raises:
        ValueError, TypeError: an argument is out of its range, or not of its kind. The message never has the URL in it.
        ImportError: the extra `redis` is not installed.
    """
    global _agent
    settings = _settings(url, interval, prefix, timeout, quorum, lease)
    from holdfast.fleet.agent import Agent

    with _lock:
        _leave()
        fleet, past = _left
        _agent = Agent(settings, past if fleet == settings.fleet else {})
        _agent.start()
        atexit.register(disconnect)


def _settings(url: str, interval: Seconds, prefix: str, timeout: Seconds, quorum: float, lease: Seconds | None) -> Settings:
    if not _is_prefix(prefix):
        raise ValueError(f"fleet.prefix must be a printable text that is not empty, without braces, got {prefix!r}")
    pause = positive_seconds("fleet.interval", interval)
    from holdfast.fleet.connections import read_url
    from holdfast.fleet.dialogue import Settings

    longest = max(2.0, 20 * pause) if lease is None else positive_seconds("fleet.lease", lease)
    if longest < 4 * pause:
        raise ValueError(f"fleet.lease must be at least 4 intervals ({4 * pause:g} s), got {lease!r}")
    return Settings(read_url(url), prefix, pause, positive_seconds("fleet.timeout", timeout), share("fleet.quorum", quorum), longest)


def _is_prefix(prefix: object) -> bool:
    return isinstance(prefix, str) and prefix != "" and prefix.isprintable() and not set(prefix) & {"{", "}"}


def disconnect() -> None:
    """Leave the fleet: one last round if the server answers, then every policy is this process's own again. Doing it twice does nothing."""
    with _lock:
        _leave()


def _leave() -> None:
    global _agent, _left
    agent, _agent = _agent, None
    if agent is not None:
        atexit.unregister(disconnect)
        _left = agent.settings.fleet, agent.close()


def snapshot() -> FleetSnapshot:
    """Whether the store can be asked, and what it last said of this process's policies, as plain data."""
    agent = _agent
    return {"connected": False, "away": None, "policies": {}} if agent is None else agent.snapshot()


def _in_child() -> None:
    global _lock
    _lock = Lock()  # whoever held it is a thread that only the parent has


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
