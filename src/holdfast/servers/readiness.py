"""Readiness: no traffic before the server is warm, none while it ends, and probes that tell strangers nothing but yes or no.

| asked | says yes (200) when |
|---|---|
| `/livez` | the process can answer at all |
| `/startupz` | the warm-ups are done |
| `/readyz` | they are done, the server does not drain, and every check is up |

1. Before the warm-ups are done, every other request is refused (503, `Retry-After`), so that none does what a warm-up is there to spare it.
2. Whoever serves runs the warm-ups before it does: the hooks of `holdfast.servers.gunicorn`, ASGI's lifespan. Where there is neither,
   the first request sets them off, in a thread.
3. At SIGTERM the server is not ready any more, goes on serving for `drain` seconds, so that load balancers notice, and then ends.
4. The body says "ok" or "unavailable". Names of checks and classes of errors are for who asks from a `trusted` network.
"""

from __future__ import annotations

import ipaddress
import json
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from holdfast.scope import carry
from holdfast.servers import draining
from holdfast.servers.checks import Ask, Checks, Result
from holdfast.servers.gatekeepers import Guarded, GuardedWSGI
from holdfast.servers.probe import Probe
from holdfast.servers.refusal import Refusal
from holdfast.servers.warming import Warming, WarmUp
from holdfast.validation import Seconds, positive_seconds, wait_seconds

if TYPE_CHECKING:
    from holdfast.policy import Policy
    from holdfast.servers.interfaces import Answer, ASGIApp, Environ, Scope, WSGIApp

# What a probe may ask with.
_METHODS = frozenset({"GET", "HEAD"})

STARTING = Refusal(503, "starting", "The server is starting.", 1.0)

# Of this process, for the hooks of servers.
instances: weakref.WeakSet[Readiness] = weakref.WeakSet()


class Readiness:
    """Probes, warm-ups and an orderly end.

    Args:
        warm_up: functions, plain or async, run once per machine before the first request is served.
        checks: functions, plain or async, that raise or return False where something the server needs cannot be used; or policies,
            which are up unless their breaker is open. A mapping gives them names. Ask only for what this server cannot do without:
            what is down is down for all of its servers at once, and then none is left.
        worker_warm_up: functions run in each process that serves, one process at a time, after the others.
        warm_up_within: seconds that all warm-ups may take.
        check_timeout: seconds that a check may take.
        check_every: seconds for which its result counts.
        drain: seconds to go on serving, not ready any more, after SIGTERM.
        stop_within: seconds after SIGTERM when requests that still run are not waited for any more; not below `drain`.
        trusted: networks whose probes are told which check is down, like "10.0.0.0/8".
        live, ready, startup: the paths.

    Raises:
        TypeError, ValueError: an argument is of another kind or out of its range.
    """

    def __init__(
        self,
        warm_up: Sequence[WarmUp] = (),
        checks: Mapping[str, Ask | Policy] | Sequence[Ask | Policy] = (),
        *,
        worker_warm_up: Sequence[WarmUp] = (),
        warm_up_within: Seconds = 300.0,
        check_timeout: Seconds = 1.0,
        check_every: Seconds = 5.0,
        drain: Seconds = 0.0,
        stop_within: Seconds = 30.0,
        trusted: Sequence[str] = (),
        live: str = "/livez",
        ready: str = "/readyz",
        startup: str = "/startupz",
    ) -> None:
        for field, functions in (("warm_up", warm_up), ("worker_warm_up", worker_warm_up)):
            if callable(functions) or not all(callable(one) for one in functions):
                raise TypeError(f"Readiness.{field} must be a list of functions, got {functions!r}")
        within = positive_seconds("Readiness.warm_up_within", warm_up_within)
        self.warming = Warming(tuple(warm_up), tuple(worker_warm_up), within)
        timeout = positive_seconds("Readiness.check_timeout", check_timeout)
        self.checks = Checks(checks, timeout, wait_seconds("Readiness.check_every", check_every))
        self.drain = wait_seconds("Readiness.drain", drain)
        self.stop_within = positive_seconds("Readiness.stop_within", stop_within)
        if self.stop_within < self.drain:
            raise ValueError(f"Readiness.stop_within must be >= drain ({self.drain:g} s), got {stop_within!r}")
        self._trusted = [_network(one) for one in trusted]
        self.paths = {_path("live", live): "live", _path("ready", ready): "ready", _path("startup", startup): "startup"}
        if len(self.paths) < 3:
            raise ValueError("Readiness.live, ready and startup must be three paths")
        instances.add(self)
        if hasattr(os, "register_at_fork"):
            _forget_threads_of_parent(self)

    def wsgi(self, app: WSGIApp, /) -> WSGIApp:
        """The app behind it.

        Raises:
            TypeError: a check is async.
        """
        if self.checks.has_async:
            raise TypeError("Readiness.checks: an async check needs an ASGI application")
        return GuardedWSGI([self], app)

    def asgi(self, app: ASGIApp, /) -> ASGIApp:
        """The app behind it."""
        from holdfast.servers.readiness_lifespan import beside_lifespans

        return Guarded([self], app, beside_lifespans(self, app))

    def warm(self) -> None:
        """Run the warm-ups that this process needs and nobody has run; the servers' hooks do it.

        Raises:
            Exception: what a warm-up raised.
        """
        self.warming.run()

    def answer(self, scope: Scope) -> Answer | None:
        """See `Gatekeeper.answer`: probes are told what they ask, and everybody else to come back, while the server is not warm."""
        warm = self.warming.done or self.is_warm()
        path = scope["path"]
        mount = scope.get("root_path")
        question = self._question(mount, path.removeprefix(mount)) if mount else self.paths.get(path)
        if question is not None and scope["method"] in _METHODS:
            client = scope.get("client")
            return Probe(self, question, scope["method"], client[0] if client else None)
        return None if warm else STARTING

    def answer_wsgi(self, environ: Environ) -> Answer | None:
        """See `Gatekeeper.answer_wsgi`."""
        warm = self.warming.done or self.is_warm()
        path = environ.get("PATH_INFO", "")
        mount = environ.get("SCRIPT_NAME")
        question = self._question(mount, path) if mount else self.paths.get(path)
        if question is not None and environ["REQUEST_METHOD"] in _METHODS:
            return Probe(self, question, environ["REQUEST_METHOD"], environ.get("REMOTE_ADDR"))
        return None if warm else STARTING

    def _question(self, mount: str, path: str) -> str | None:
        """What a probe of this path asks. Probes come past the proxy for whose sake an application is mounted, and know nothing of that."""
        return self.paths.get(f"{mount}{path}") or self.paths.get(path)

    def is_warm(self) -> bool:
        """Whether this process may serve. If not, it is seen to that somebody runs the warm-ups: a thread, where nobody is at it."""
        if self.warming.done:
            return True
        if self.warming.may_begin():
            threading.Thread(target=carry(self._warm_quietly), name="holdfast-warm-up", daemon=True).start()
        return False

    def _warm_quietly(self) -> None:
        with suppress(Exception):  # kept, and told to trusted probes
            self.warming.run()

    def says(self, question: str, checks: Mapping[str, Result], peer: str | None) -> tuple[int, bytes]:
        """Status and body for a probe.

        Args:
            question: "live", "ready" or "startup".
            checks: what they said; for "ready".
            peer: the address that asks.
        """
        warm, drains = self.warming.done, draining.is_draining()
        up = {"live": True, "startup": warm, "ready": warm and not drains and all(one.up for one in checks.values())}[question]
        document: dict[str, object] = {"status": "ok" if up else "unavailable"}
        if self._is_trusted(peer):
            failed = self.warming.error
            document["warm"] = warm
            document["draining"] = drains
            if failed is not None and not warm:
                document["warm_up_error"] = type(failed).__name__
            document["checks"] = {
                name: {"up": one.up, "ms": round(one.took * 1e3, 1), **({"error": one.error} if one.error else {})}
                for name, one in checks.items()
            }
        return (200 if up else 503), json.dumps(document).encode() + b"\n"

    def _is_trusted(self, peer: str | None) -> bool:
        if not self._trusted or not peer:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in network for network in self._trusted)


def _forget_threads_of_parent(readiness: Readiness) -> None:
    # Hooks of forks cannot be taken back, so they hold it weakly.
    reference = weakref.ref(readiness)

    def in_child() -> None:
        found = reference()
        if found is not None:
            found.warming.after_fork()
            found.checks.after_fork()

    os.register_at_fork(after_in_child=in_child)


def _network(text: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(cast("str", text))
    except ValueError:
        raise ValueError(f'Readiness.trusted must be networks like "10.0.0.0/8", got {text!r}') from None


def _path(field: str, path: str) -> str:
    if not isinstance(cast("object", path), str) or not path.startswith("/"):
        raise ValueError(f"Readiness.{field} must be a path that begins with /, got {path!r}")
    return path
