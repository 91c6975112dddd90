"""How every part calls the WSGI application behind it, and what else may take its time.

The interrupt knows these functions by their names: what they call is the user's, and may be interrupted; all else in this package
is bookkeeping, and may not (see `drivers/interrupt.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from holdfast.servers.interfaces import Environ, StartResponse, WSGIApp

P = ParamSpec("P")
R = TypeVar("R")


def call_app(app: WSGIApp, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Call the application."""
    return app(environ, start_response)


def next_chunk(pieces: Iterator[bytes]) -> bytes:
    """The next piece of a response."""
    return next(pieces)


def call_theirs(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function of the user's, or the server's that waits for the client."""
    return function(*args, **kwargs)
