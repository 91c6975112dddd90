"""The shield for WSGI: gunicorn's sync and gthread workers, waitress, and what else speaks it.

app = Shield(app, deadline={"/": 1.0, "/reports": 20.0}, requires={"/checkout": [billing]}, admission=Admission(limit=20))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from holdfast.servers.gatekeepers import GuardedWSGI
from holdfast.servers.shielding import behind, check_app

if TYPE_CHECKING:
    from holdfast.policy import Policy
    from holdfast.servers.interfaces import Part, WSGIApp
    from holdfast.validation import Seconds


class Shield(GuardedWSGI):
    """A WSGI application behind all that keeps it answering. A part that is not given is not there.

    Order, outermost first: readiness, queue age, requires, deadline, admission, idempotency, the app. Each can be used alone:
    `part.wsgi(app)`.

    Args:
        app: the application.
        deadline: seconds that a request may take, > 0, or a mapping of path prefix to seconds; None for no bound at all.
        max_deadline: seconds, > 0: what bounds a route that `deadline` does not name, whatever its caller says.
        requires: path prefix -> the policies without which it cannot work.
        admission: how many requests are worked on at once, and who goes first.
        idempotency: what makes repeated requests safe.
        readiness: health endpoints and warm-up.

    Raises:
        ValueError, TypeError: an argument is out of its range or not of its kind.
    """

    def __init__(
        self,
        app: WSGIApp,
        *,
        deadline: Seconds | Mapping[str, Seconds] | None = 1.0,
        max_deadline: Seconds | None = None,
        requires: Mapping[str, Policy | Iterable[Policy]] | None = None,
        admission: Part | None = None,
        idempotency: Part | None = None,
        readiness: Part | None = None,
    ) -> None:
        gatekeepers, parts = behind(deadline, max_deadline, requires, admission, idempotency, readiness)
        check_app(app, "environ, start_response", "WSGI", "holdfast.servers.asgi")
        for part in parts:
            app = part.wsgi(app)
        super().__init__(gatekeepers, app)
