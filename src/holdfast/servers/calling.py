"""How every part calls the WSGI application behind it.

The interrupt knows these two functions by their names: what they call is the user's, and may be interrupted; all else in this package
is bookkeeping, and may not (see `drivers/interrupt.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.servers.interfaces import Environ, StartResponse, WSGIApp


def call_app(app: WSGIApp, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Call the application."""
    return app(environ, start_response)


def next_chunk(pieces: Iterator[bytes]) -> bytes:
    """The next piece of a response."""
    return next(pieces)
