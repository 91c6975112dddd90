"""Admission around a WSGI application."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Lock
from typing import TYPE_CHECKING

from holdfast import priority
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.errors import Overloaded
from holdfast.servers.admission import refusal
from holdfast.servers.calling import call_app, next_chunk
from holdfast.servers.incoming import path_of
from holdfast.servers.request import from_environ

if TYPE_CHECKING:
    from holdfast.servers.admission import Admission, Group
    from holdfast.servers.interfaces import Environ, StartResponse, WSGIApp

_KEY = f"HTTP_{priority.HEADER.upper().replace('-', '_')}"


def admitted(part: Admission, app: WSGIApp) -> WSGIApp:
    """The app, asked by as many at once as it can serve. A response that is no list keeps its place until it is closed."""

    def within(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = path_of(environ)
        level = part.level(path, from_environ, environ, environ.get(_KEY), environ.get("REMOTE_ADDR"))
        token = None if level == priority.NORMAL else priority.ambient.set(level)
        try:
            group = part.group(path)
            if group is None:
                return call_app(app, environ, start_response)
            try:
                permit = group.places.enter() or _wait(group, level)
            except Overloaded as error:
                return refusal(error).start(environ, start_response)
            place = _Place(group, permit, level)
            try:
                body = call_app(app, environ, start_response)
            except BaseException as error:
                place.leave(error)
                raise
            if isinstance(body, (list, tuple)):
                place.leave(None)
                return body
            place.body = body
            return place
        finally:
            if token is not None:
                priority.ambient.reset(token)

    return within


class _Place:
    """A place that is held while a response is made."""

    __slots__ = ("_began", "_failure", "_group", "_level", "_now", "_permit", "_pieces", "body")

    def __init__(self, group: Group, permit: int, level: int) -> None:
        self._group = group
        self._permit = permit
        self._level = level
        self._now = clock.current.get().now
        self._began = self._now()
        self._failure: BaseException | None = None
        self.body: Iterable[bytes] = ()
        self._pieces: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = priority.ambient.set(self._level)
        try:
            if self._pieces is None:
                self._pieces = iter(self.body)
            return next_chunk(self._pieces)
        except StopIteration:
            raise
        except BaseException as error:
            self._failure = error
            raise
        finally:
            priority.ambient.reset(token)

    def close(self) -> None:
        """The server is done with the response."""
        try:
            close = getattr(self.body, "close", None)
            if close is not None:
                close()
        finally:
            self.leave(self._failure)

    def leave(self, failure: BaseException | None) -> None:
        """Give the place back."""
        permit, self._permit, self._failure = self._permit, 0, None
        if permit:
            now = self._now()
            self._group.leave(permit, now - self._began, failure, now)


def _wait(group: Group, level: int) -> int:
    time = clock.current.get()
    gate, waiter = group.join(level, time.now())
    woken = Lock()
    woken.acquire()
    waiter.wake = woken.release
    limit = ambient.get()
    try:
        while not waiter.permit and not waiter.shed:
            now = time.now()
            over = None if limit is None else limit.over(now)
            if over is not None:
                raise over
            until = group.until(gate, waiter)
            if now >= until:
                break
            time.wait(woken, (until if limit is None else min(until, limit.look_at(now))) - now)
    except BaseException:
        permit = gate.leave(waiter)  # it may have come just now
        if permit:
            gate.release(permit)
        raise
    permit = gate.leave(waiter)
    if not permit:
        raise group.overloaded()
    return permit
