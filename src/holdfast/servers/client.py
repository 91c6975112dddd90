"""Whether the client of a WSGI request is still there: the server's socket is looked at, where the server hands it over."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.deadlines import Watch
    from holdfast.servers.interfaces import Environ

# A look costs a microsecond, and a loop may ask in each of its turns.
_PAUSE = 0.01

# The peer has closed its side, or all of the connection. A client that only closes its side and reads on is taken for one that has
# gone, as nginx and uvicorn do.
_GONE = getattr(select, "POLLRDHUP", 0) | getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)

# Where servers put what tells: gunicorn, Werkzeug's own.
_SOCKETS = ("gunicorn.socket", "werkzeug.socket")
_WAITRESS = "waitress.client_disconnected"


class SocketWatch:
    """The client at the other end of a socket, which nobody else reads meanwhile."""

    __slots__ = ("_gone", "_next", "_sock")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._next = 0.0
        self._gone = False

    def gone(self, now: float) -> bool:
        """See `Watch.gone`."""
        if not self._gone and now >= self._next:
            self._next = now + _PAUSE
            descriptor = self._sock.fileno()
            self._gone = descriptor < 0 or _is_gone(descriptor)
        return self._gone


def _is_gone(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", 0))
    return any(event & _GONE for _, event in poll.poll(0))


class CallWatch:
    """The client as its server tells it."""

    __slots__ = ("_ask",)

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask

    def gone(self, _now: float) -> bool:
        """See `Watch.gone`."""
        return bool(self._ask())


def socket_of(environ: Environ) -> socket.socket | None:
    """The connection's socket, where the server hands it over."""
    for name in _SOCKETS:
        found = environ.get(name)
        if found is not None:
            return found if hasattr(found, "fileno") else None
    return None


def watch_of(environ: Environ) -> Watch | None:
    """Who tells of a request's client; None where the server does not."""
    sock = socket_of(environ)
    if sock is not None and hasattr(select, "POLLRDHUP"):
        return SocketWatch(sock)
    ask = environ.get(_WAITRESS)
    return CallWatch(ask) if callable(ask) else None
