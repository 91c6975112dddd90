"""Deadline: no worker works on a request for longer than it is worth, and none on one whose client has gone.

1. The deadline is the least of the route's, of what the caller's headers say (`X-Request-Timeout-Ms`, `grpc-timeout`,
   `x-envoy-expected-rq-timeout-ms`), and of `max_deadline`. A header can only shorten it.
2. It counts from when the request began to wait, where `QueueAge` knows that.
3. At it the request is answered with 504, and its work is stopped: async code by cancellation, blocking code where it asks (`check`, the
   waits and clients of holdfast, `install`), and in the main thread, as in gunicorn's sync worker, whatever it does.
4. A response that has begun is cut off: its connection is closed, so that nobody takes the half for the whole.
5. A client that goes away ends its request likewise; nobody is answered then.
6. What cannot be stopped is reported when it ends, with the time that it ran over: the event `DeadlineOutrun`.
7. What goes on after the whole response was handed over (background tasks) is bound no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from holdfast.servers.incoming import path_of, timeout_of_environ
from holdfast.servers.routes import Routes
from holdfast.validation import Seconds, positive_seconds, to_seconds

if TYPE_CHECKING:
    from holdfast.servers.interfaces import ASGIApp, Environ, WSGIApp

# Where nothing bounds a request, so that all timers and timeouts of the system can still be set to what is left: eleven days.
UNBOUNDED = 1e6


class Deadline:
    """The time that a request may take.

    Args:
        deadline: seconds, > 0, or a mapping of path prefix to seconds; math.inf for routes without one (streams, long polls).
        max_deadline: seconds, > 0: what bounds a route that the mapping does not name, whatever its caller says.

    Raises:
        ValueError: a number is out of its range, or a prefix is none.
    """

    def __init__(self, deadline: Seconds | Mapping[str, Seconds] = 1.0, *, max_deadline: Seconds | None = None) -> None:
        most = UNBOUNDED if max_deadline is None else positive_seconds("max_deadline", max_deadline)
        self._routes = Routes("deadline", deadline, lambda field, value: min(_seconds(field, value), most))
        self._everywhere = self._routes.everywhere
        self._elsewhere = ("/", most)  # where no prefix fits

    def budget(self, path: str, asked: float | None) -> tuple[str, float]:
        """The route and how many seconds a request of it may take.

        Args:
            path: of the request.
            asked: seconds that the caller still waits, by its headers.
        """
        found = self._everywhere or self._routes.find(path) or self._elsewhere
        return found if asked is None or found[1] < asked else (found[0], asked)

    def budget_of(self, environ: Environ) -> tuple[str, float]:
        """The same for a WSGI request."""
        path = "" if self._everywhere else path_of(environ)
        return self.budget(path, timeout_of_environ(environ))

    def asgi(self, app: ASGIApp) -> ASGIApp:
        """The app behind the deadline."""
        from holdfast.servers.deadline_asgi import bounded

        return bounded(self, app)

    def wsgi(self, app: WSGIApp) -> WSGIApp:
        """The app behind the deadline."""
        from holdfast.servers.deadline_wsgi import bounded

        return bounded(self, app)


def _seconds(field: str, value: object) -> float:
    return UNBOUNDED if to_seconds(field, value) == math.inf else positive_seconds(field, value)
