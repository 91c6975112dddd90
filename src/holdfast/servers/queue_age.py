"""Queue age: a request that has waited for longer than it is worth is refused at once, and not worked on.

Under overload a queue is served in order, so everybody has waited for the same long time when their turn comes, and every answer goes to
somebody who has left. Whoever comes too late is turned away for a fraction of what the work would cost.

1. The wait is counted from `X-Request-Start` (or `X-Queue-Start`), which the proxy in front stamps: `t=` and seconds, milliseconds or
   microseconds (nginx: `proxy_set_header X-Request-Start t=${msec};`). Under gunicorn also from the moment at which the
   request's last bytes reached the kernel, so its accept queue is counted without any header. The longer of both counts.
2. A header that cannot be read, lies in the future or more than an hour back says nothing.
3. A request that has waited for as long as its deadline is refused with 503, before any work.
4. The deadline of any other counts from when it began to wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast import events
from holdfast.servers import incoming, kernel
from holdfast.servers.client import socket_of
from holdfast.servers.deadline import Deadline
from holdfast.servers.gatekeepers import Guarded, GuardedWSGI
from holdfast.servers.refusal import Refusal
from holdfast.validation import Seconds

if TYPE_CHECKING:
    from holdfast.servers.interfaces import ASGIApp, Environ, Scope, WSGIApp

WAITED = "holdfast.waited"  # in a scope or environ: seconds that the request had waited when it came to us


class QueueAge:
    """What a request may have waited.

    Args:
        limit: seconds, > 0, or a mapping of path prefix to seconds; what the caller's timeout headers say counts where it is less.
        max_deadline: seconds, > 0: what bounds a route that the mapping does not name.

    Raises:
        ValueError: a number is out of its range, or a prefix is none.
    """

    def __init__(self, limit: Seconds | Mapping[str, Seconds] = 1.0, *, max_deadline: Seconds | None = None) -> None:
        self._worth = Deadline(limit, max_deadline=max_deadline)

    def _refusal(self, path: str, asked: float | None, waited: float) -> Refusal | None:
        route, budget = self._worth.budget(path, asked)
        if waited < budget:
            return None
        if events.listeners:
            events.publish([events.Refused(route, "QueueAge")])
        return Refusal(503, "waited-too-long", f"The request had waited for {waited:.3g} s before anybody looked at it.")

    def answer(self, scope: Scope) -> Refusal | None:
        """See `Gatekeeper.answer`; what it knows of the wait is left in the scope for `Deadline`."""
        waited = incoming.waited_by_scope(scope)
        if not waited:
            return None
        scope[WAITED] = waited
        return self._refusal(scope["path"], incoming.timeout_of_scope(scope), waited)

    def answer_wsgi(self, environ: Environ) -> Refusal | None:
        """See `Gatekeeper.answer_wsgi`."""
        sock = socket_of(environ)
        queued = None if sock is None else kernel.since_data(sock)
        waited = max(incoming.waited_by_environ(environ), queued or 0.0)
        if not waited:
            return None
        environ[WAITED] = waited
        return self._refusal(incoming.path_of(environ), incoming.timeout_of_environ(environ), waited)

    def asgi(self, app: ASGIApp) -> ASGIApp:
        """The app without requests that come too late."""
        return Guarded([self], app, app)

    def wsgi(self, app: WSGIApp) -> WSGIApp:
        """The app without requests that come too late."""
        return GuardedWSGI([self], app)
