"""Admission: a server that is offered more than it can do does what it can, and says no to the rest at once.

Without it every request gets a little of the workers, all become too slow together, and the answers come when nobody waits for them:
the more is asked, the less is done.

1. A route group works on as many requests at once as its limit says: a number, a `Bulkhead`, or an `AdaptiveLimit` that finds it.
2. A few more wait, by importance; under overload the newest first (see `gate`).
3. Everybody else is refused at once with 503 and `Retry-After`.
4. How important a request is, its route says. The header `X-Request-Priority` (critical, normal, sheddable) may lower that, and raise it
   only from peers that are trusted. Calls that are made for the request carry it on.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from holdfast import events, priority
from holdfast.deadlines import ambient
from holdfast.errors import ClientGone, Overloaded
from holdfast.outcome import FAILURE, IGNORED, SUCCESS
from holdfast.policies.adaptive import Adaptive, AdaptiveLimit
from holdfast.policies.bulkhead import Bulkhead
from holdfast.policies.places import Places
from holdfast.servers.calling import call_theirs
from holdfast.servers.gate import Gate
from holdfast.servers.refusal import Refusal
from holdfast.servers.routes import Routes
from holdfast.validation import Seconds, choice, count, wait_seconds

if TYPE_CHECKING:
    from holdfast.servers.gate import Waiter
    from holdfast.servers.interfaces import ASGIApp, WSGIApp
    from holdfast.servers.request import Request

R = TypeVar("R")

Limit: TypeAlias = "int | Bulkhead | AdaptiveLimit"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

# For groups whose limit is a number: how many wait, and for how many seconds.
_QUEUE, _WAIT = 32, 0.5

# How much of each new request's time goes into the mean, from which `Retry-After` is told.
_SMOOTHING = 0.05


class Admission:
    """How many requests are worked on at once, and who goes first.

    Args:
        limit: for all routes together a number >= 1, a `Bulkhead` or an `AdaptiveLimit` (with their own queue and wait); or a
            mapping of path prefix to these, each prefix a group of its own. Routes that no prefix fits are not limited.
        queue: how many requests of a group may wait, >= 0, where its limit is a number; 32 if nothing is said.
        wait: how long each waits at most, >= 0 seconds, where its limit is a number; 0.5 if nothing is said; never past its deadline.
        priority: "critical", "normal" or "sheddable" for all, a mapping of path prefix to these, or a function of the request.
        trusted: whether `X-Request-Priority` may raise a request: False for never, True for always (nobody but our own services can
            reach this server), or the networks that are our own, like "10.0.0.0/8".

    Raises:
        ValueError, TypeError: an argument is out of its range or not of its kind.
    """

    def __init__(
        self,
        limit: Limit | Mapping[str, Limit] = 20,
        *,
        queue: int | None = None,
        wait: Seconds | None = None,
        priority: str | Mapping[str, str] | Callable[[Request], str] = "normal",
        trusted: bool | Iterable[str] = False,
    ) -> None:
        places = _QUEUE if queue is None else count("Admission.queue", queue, low=0)
        seconds = _WAIT if wait is None else wait_seconds("Admission.wait", wait)
        self._groups = Routes("Admission.limit", limit, lambda field, value: Group(field, value, places, seconds))
        limits = limit.values() if isinstance(limit, Mapping) else (limit,)
        if not (queue is None and wait is None) and not any(isinstance(one, int) for one in limits):
            raise ValueError("Admission.queue and wait go with a limit that is a number; a Bulkhead and an AdaptiveLimit have their own")
        for name, group in self._groups.values():
            group.name = name
        self.ask: Callable[[Request], str] | None = priority if callable(priority) else None
        self._levels = Routes("Admission.priority", {} if callable(priority) else priority, _level)
        self._trusted = _networks(trusted)

    def group(self, path: str) -> Group | None:
        """The group of a path; None where it is not limited."""
        found = self._groups.find(path)
        return None if found is None else found[1]

    def level(self, path: str, request: Callable[[R], Request], raw: R, header: str | None, peer: str | None) -> int:
        """How important a request is.

        Args:
            path: of the request.
            request: makes of `raw` what a function of the user's may look at.
            raw: what the server gave.
            header: its `X-Request-Priority`, None where it has none.
            peer: the address that it came from.
        """
        if self.ask is not None:
            own = _level("Admission.priority", call_theirs(self.ask, request(raw)))
        else:
            found = self._levels.find(path)
            own = priority.NORMAL if found is None else found[1]
        asked = None if header is None else priority.parse(header)
        if asked is None or asked == own:
            return own
        return asked if asked > own or self._trusts(peer) else own

    def _trusts(self, peer: str | None) -> bool:
        if isinstance(self._trusted, bool):
            return self._trusted
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:  # a unix socket, or a name
            return False
        address = getattr(address, "ipv4_mapped", None) or address  # as a socket for both families writes an old address
        return any(address in network for network in self._trusted)

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Each group's limit, how many are worked on and how many wait, by its prefix."""
        return {
            name: {"limit": group.places.limit, "running": group.places.running, "waiting": group.places.waiting}
            for name, group in self._groups.values()
        }

    def asgi(self, app: ASGIApp) -> ASGIApp:
        """The app, asked by as many at once as it can serve."""
        from holdfast.servers.admission_asgi import admitted

        return admitted(self, app)

    def wsgi(self, app: WSGIApp) -> WSGIApp:
        """The app, asked by as many at once as it can serve."""
        from holdfast.servers.admission_wsgi import admitted

        return admitted(self, app)


class Group:
    """The living limit of a group of routes.

    Args:
        field: its name in errors.
        limit: what the user gave.
        queue, wait: for a limit that is a number.
    """

    __slots__ = ("_adaptive", "_mean", "name", "places", "wait")

    def __init__(self, field: str, limit: object, queue: int, wait: float) -> None:
        self.name = "/"
        self._adaptive: Adaptive | None = None
        self._mean = 0.0  # seconds that a request is worked on
        if isinstance(limit, AdaptiveLimit):
            self._adaptive = Adaptive(limit, "server", random.Random())
            self.places: Places = Gate(limit.initial, limit.queue)
            self._adaptive.places = self.places
            self.wait = cast("float", limit.wait)
        elif isinstance(limit, Bulkhead) and limit.across == "host":
            from holdfast.drivers.host import HostPlaces

            self.places = HostPlaces(f"server {field}", limit)
            self.wait = 0.0
        elif isinstance(limit, Bulkhead):
            self.places = Gate(limit.limit, limit.queue)
            self.wait = cast("float", limit.wait)
        elif isinstance(limit, int):
            self.places = Gate(count(field, limit), queue)
            self.wait = wait
        else:
            raise TypeError(f"{field} must be a number, a Bulkhead or an AdaptiveLimit, got {limit!r}")

    def join(self, level: int, now: float) -> tuple[Gate, Waiter]:
        """Wait for a place.

        Raises:
            Overloaded: there is no room to wait.
        """
        gate = self.places
        waiter = gate.join_as(level, now) if isinstance(gate, Gate) and self.wait > 0 else None
        if waiter is None or not isinstance(gate, Gate):
            raise self.overloaded()
        return gate, waiter

    def until(self, gate: Gate, waiter: Waiter) -> float:
        """Until when it waits: never past its deadline."""
        limit = ambient.get()
        end = gate.patience(waiter, self.wait)
        return end if limit is None else limit.tighten(end)

    def overloaded(self) -> Overloaded:
        """The refusal: when the queue of now is worked off, there is room again."""
        if events.listeners:
            events.publish([events.Refused(self.name, Overloaded.__name__)])
        return Overloaded(self.name, (self.places.waiting + 1) * self._mean / self.places.limit)

    def leave(self, permit: int, elapsed: float, error: BaseException | None, now: float) -> None:
        """The request has ended; what it took is learnt."""
        adaptive = self._adaptive
        if adaptive is not None:
            adaptive.settle(SUCCESS if error is None else IGNORED if _client_has_gone(now) else FAILURE, elapsed)
            if adaptive.news:
                events.publish(adaptive.take_news())
        self._mean += _SMOOTHING * (elapsed - self._mean) if self._mean else elapsed
        self.places.release(permit)


def refusal(error: Overloaded) -> Refusal:
    """The answer to a request that is shed."""
    return Refusal(503, "overloaded", "The server has more to do than it can; this request was shed.", error.retry_after)


def _client_has_gone(now: float) -> bool:
    limit = ambient.get()
    return limit is not None and isinstance(limit.over(now), ClientGone)


def _level(field: str, value: object) -> int:
    return priority.LEVELS.index(choice(field, cast("str", value), priority.LEVELS))


def _networks(trusted: bool | Iterable[str]) -> bool | tuple[Network, ...]:
    if isinstance(trusted, bool):
        return trusted
    if isinstance(trusted, str):
        raise TypeError(f"Admission.trusted must be a bool or a list of networks, got {trusted!r}")
    try:
        return tuple(ipaddress.ip_network(network) for network in trusted)
    except ValueError as error:
        raise ValueError(f'Admission.trusted must be networks like "10.0.0.0/8": {error}') from None
