"""Requests of a WSGI application under their deadlines.

A list is the usual response, and is handed to the server as it is. Any other is made piece by piece, each piece under the deadline.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from holdfast import events
from holdfast.deadlines import LOOK, ambient, restore
from holdfast.deadlines import Deadline as Limit
from holdfast.drivers import clock
from holdfast.drivers.interrupt import of_request
from holdfast.errors import ClientGone, DeadlineExceeded
from holdfast.servers.body_wsgi import BoundedBody
from holdfast.servers.client import socket_of, watch_of
from holdfast.servers.refusal import late

if TYPE_CHECKING:
    from holdfast.deadlines import Watch
    from holdfast.servers.deadline import Deadline
    from holdfast.servers.interfaces import Environ, StartResponse, WSGIApp

T = TypeVar("T")

WAITED = "holdfast.waited"  # as in deadline_asgi

# What is left for a socket's operations when nothing is: a timeout of 0 would mean not to wait at all.
_LEAST = 0.001

# A response of this many bytes is with the kernel at once, however slow its client is.
_AT_ONCE = 16 * 1024


def bounded(part: Deadline, app: WSGIApp) -> WSGIApp:
    """The app, each of its requests under a deadline."""

    def within(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        route, budget = part.budget_of(environ)
        time = clock.current.get()
        now = time.now()
        at = now - environ.get(WAITED, 0.0) + budget
        outer = ambient.get()
        if outer is not None:
            at = outer.tighten(at)
        if now >= at:
            return late(budget).start(environ, start_response)
        return _Exchange(at, budget, route, outer, time.now, environ, start_response).run(app)

    return within


class _Exchange(Limit):
    """One request, which is its own deadline; and the iterable that the server gets where the response is no list."""

    __slots__ = ("_begun", "_body", "_environ", "_interrupt", "_now", "_pieces", "_response", "_start_response", "_to_server", "_watch")

    def __init__(
        self,
        at: float,
        budget: float,
        policy: str,
        parent: Limit | None,
        now: Callable[[], float],
        environ: Environ,
        start_response: StartResponse,
    ) -> None:
        # Not by `Deadline.__init__`: what is nested in this asks it for its client, which most requests never need.
        self.at = at
        self.budget = budget
        self.policy = policy
        self.parent = parent
        self._now = now
        self._environ = environ
        self._start_response = start_response
        self._interrupt = of_request()
        self._response: tuple[Any, ...] | None = None  # what the application called start_response with, not handed on yet
        self._begun = False  # the server has it
        self._to_server: Callable[[bytes], object] = _no_write
        self._watch: Watch | bool | None = False  # not looked for yet

    @property
    def watch(self) -> Watch | None:  # type: ignore[override]  # a slot there
        """Who tells whether the client is still there."""
        if self._watch is False:
            self._watch = watch_of(self._environ)
        return cast("Watch | None", self._watch)

    def look_at(self, now: float) -> float:
        """See `Deadline.look_at`. Whether there is a client to look for is found out when it is time to."""
        return min(self.at, now + LOOK)

    def run(self, app: WSGIApp) -> Iterable[bytes]:
        """Call the application."""
        environ = self._environ
        if environ.get("CONTENT_LENGTH") or "HTTP_TRANSFER_ENCODING" in environ:
            self._bound_body()
        try:
            body = self._guarded(app, environ, self._start)
        except DeadlineExceeded as error:
            return self._ended(error)
        except BaseException:
            self._report()
            raise
        if not self._begun and self._now() >= self.at:
            _close(body)
            return self._ended(self.exceeded(self._now()))
        if isinstance(body, (list, tuple)):
            if sum(map(len, body)) > _AT_ONCE:
                self._bound_socket()
            self._begin()
            return body
        self._bound_socket()
        if self._is_file(body):
            self._begin()
            return body
        self._body = body
        self._pieces: Iterator[bytes] | None = None
        return self

    def _is_file(self, body: object) -> bool:
        wrapper = self._environ.get("wsgi.file_wrapper")
        return isinstance(wrapper, type) and isinstance(body, wrapper)

    # What the application calls.

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        if self._begun:
            if exc_info:
                raise exc_info[1].with_traceback(exc_info[2])
            raise AssertionError("start_response was called again after the response had begun")
        self._response = (status, headers) if exc_info is None else (status, headers, exc_info)
        return self._write

    def _write(self, data: bytes) -> None:
        over = self._over()
        if over is not None:
            raise over
        self._bound_socket()
        self._begin()(data)

    def _begin(self) -> Callable[[bytes], object]:
        if self._response is not None:
            response, self._response = self._response, None
            self._begun = True
            self._to_server = self._start_response(*response)
        return self._to_server

    # What the server calls.

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._pieces is None:
                self._pieces = self._guarded(iter, self._body)
            piece: bytes = self._guarded(next, self._pieces)
        except StopIteration:
            self._begin()
            raise
        except DeadlineExceeded as error:
            if not self._begun:
                self._pieces = iter(self._ended(error))
                return next(self._pieces)
            raise self._cut(error) from error
        over = self._over()
        if over is not None:
            if self._begun:
                raise self._cut(over) from over
            self._pieces = iter(self._ended(over))
            return next(self._pieces)
        self._begin()
        return piece

    def close(self) -> None:
        """The server is done with the response."""
        body, self._body = self._body, ()
        token = ambient.set(self)
        try:
            _close(body)
        finally:
            restore(token)
            self._report()

    # The deadline.

    def _guarded(self, work: Callable[..., T], *args: Any) -> T:
        """Do some of the application's work under the deadline. The interrupt knows it by its name: what it calls may be interrupted."""
        token = ambient.set(self)
        interrupt = self._interrupt
        try:
            if interrupt is None:
                return work(*args)
            interrupt.start(self)
            try:
                return work(*args)
            finally:
                interrupt.stop()
        finally:
            restore(token)

    def _over(self) -> DeadlineExceeded | None:
        """Late work is late, also where it could not be stopped."""
        now = self._now()
        return self.exceeded(now) if now >= self.at else None

    def _ended(self, error: DeadlineExceeded) -> Iterable[bytes]:
        """Answer instead of the application; what it raised for another reason is raised."""
        self._report()
        if self._begun or isinstance(error, ClientGone) or not self.encloses(error):
            raise self._cut(error) from error.__cause__
        self._response = None
        self._begun = True
        return late(self.budget).start(self._environ, self._start_response)

    def _cut(self, error: DeadlineExceeded) -> BaseException:
        """What to raise into the server, so that it closes the connection: the end of a response would be a lie."""
        return _Gone(errno.EPIPE, f"cut off: {error}") if self.encloses(error) else error

    def _bound_body(self) -> None:
        """Bound what the application reads. An interrupt ends that as well."""
        sock = self._bound_socket()
        if self._interrupt is None and isinstance(sock, socket.socket):
            self._environ["wsgi.input"] = BoundedBody(self._environ["wsgi.input"], self, sock)

    def _bound_socket(self) -> socket.socket | None:
        """Bound each of the server's exchanges with the client: one that is slow holds a worker too."""
        # The streams of an HTTP/2 connection share its socket.
        sock = None if "HTTP/2" in self._environ.get("SERVER_PROTOCOL", "") else socket_of(self._environ)
        if sock is not None:
            with suppress(OSError):
                sock.settimeout(max(_LEAST, self.remaining(self._now())))
        return sock

    def _report(self) -> None:
        if events.listeners:
            outrun = self.outrun(self._now())
            if outrun is not None:
                events.publish([outrun])


class _Gone(BrokenPipeError):
    """Servers take it for what it is, a connection that is no more, and do not write a traceback for each."""


def _no_write(_data: bytes) -> object:
    return None


def _close(body: object) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()
