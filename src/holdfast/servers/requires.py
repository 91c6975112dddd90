"""Requires: a request that must fail is refused before its authorization, its queries and its prices are worked out.

1. A route names the policies that it cannot do without.
2. While the breaker of one of them is open, the route answers 503 with `Retry-After`, and nothing behind it runs.
3. Half-open breakers let requests through to those who probe; asking takes no probe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from holdfast import events
from holdfast.errors import BreakerOpen
from holdfast.policy import Policy, require
from holdfast.servers.gatekeepers import Guarded, GuardedWSGI
from holdfast.servers.incoming import path_of
from holdfast.servers.refusal import Refusal
from holdfast.servers.routes import Routes

if TYPE_CHECKING:
    from holdfast.servers.interfaces import ASGIApp, Environ, Scope, WSGIApp


class Requires:
    """What routes cannot do without.

    Args:
        requires: path prefix -> a policy, or several. The longest prefix that fits decides.

    Raises:
        TypeError: something in it is no policy.
        ValueError: a prefix does not begin with "/".
    """

    def __init__(self, requires: Mapping[str, Policy | Iterable[Policy]]) -> None:
        if not isinstance(requires, Mapping):
            raise TypeError(f"requires must be a mapping of path prefix to policies, got {requires!r}")
        self._routes = Routes("requires", requires, _policies)

    def _refusal(self, path: str) -> Refusal | None:
        found = self._routes.find(path)
        if found is None:
            return None
        try:
            require(*found[1])
        except BreakerOpen as error:
            if events.listeners:
                events.publish([events.Refused(found[0], "BreakerOpen")])
            return Refusal(503, "dependency-down", "Something that this request needs does not work at the moment.", error.retry_after)
        return None

    def answer(self, scope: Scope) -> Refusal | None:
        """See `Gatekeeper.answer`."""
        return self._refusal(scope["path"])

    def answer_wsgi(self, environ: Environ) -> Refusal | None:
        """See `Gatekeeper.answer_wsgi`."""
        return self._refusal(path_of(environ))

    def asgi(self, app: ASGIApp) -> ASGIApp:
        """The app, asked only for what can be done."""
        return Guarded([self], app, app)

    def wsgi(self, app: WSGIApp) -> WSGIApp:
        """The app, asked only for what can be done."""
        return GuardedWSGI([self], app)


def _policies(field: str, value: object) -> tuple[Policy, ...]:
    found: list[Policy] = []
    for policy in value if isinstance(value, Iterable) else (value,):
        if not isinstance(policy, Policy):
            raise TypeError(f"{field} takes policies, got {policy!r}")
        found.append(policy)
    return tuple(found)
