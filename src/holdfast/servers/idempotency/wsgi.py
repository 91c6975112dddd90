"""Idempotency around a WSGI application."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any, cast

from holdfast.deadlines import ambient
from holdfast.errors import DeadlineExceeded, StoreUnavailable
from holdfast.scope import check, deadline, shield
from holdfast.servers.calling import call_app, call_theirs, next_chunk
from holdfast.servers.idempotency.answers import Answer
from holdfast.servers.idempotency.finishing import ENDING
from holdfast.servers.idempotency.gathering import Gathering
from holdfast.servers.idempotency.part import NOT_STORED, Ending, Handle, Idempotency, _handle, refusal
from holdfast.servers.idempotency.store import Claim, Held, Running, Store
from holdfast.servers.interfaces import Environ, StartResponse, WSGIApp
from holdfast.servers.problem import reason
from holdfast.servers.request import from_environ


class WsgiIdempotency:
    """An application that does once what is asked for several times."""

    def __init__(self, part: Idempotency, app: WSGIApp) -> None:
        if not callable(getattr(part.store, "claim", None)) or getattr(part.store, "only_async", False):
            raise TypeError(f"{type(part.store).__name__} is for async code here; a WSGI application needs one for blocking code")
        self._part = part
        self._store = cast("Store", part.store)
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        part = self._part
        if environ["REQUEST_METHOD"].upper() not in part.methods:  # frameworks read "post" as POST
            return call_app(self._app, environ, start_response)
        request = from_environ(environ)
        key = part.key_of(request)
        if isinstance(key, Answer):
            return _give(key, start_response)
        if key is None and not self._store.transactional:
            return call_app(self._app, environ, start_response)
        name, fingerprint = None, ""
        if key is not None:
            body = _read(environ, part.max_request)
            if isinstance(body, Answer):
                return _give(body, start_response)
            name, fingerprint = part.entry(request, part.who(request), key, body)
            environ["wsgi.input"] = io.BytesIO(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        try:
            claim = self._store.claim(name, fingerprint, lease=part.lease, ttl=part.ttl)
        except StoreUnavailable as away:
            return _give(part.unasked(away), start_response)
        if isinstance(claim, Held):
            return _give(part.instead(claim, fingerprint), start_response)
        return _Run(part, claim, keyed=key is not None).answer(self._app, environ, start_response)


class _Run:
    """The one that does the work."""

    def __init__(self, part: Idempotency, claim: Claim, *, keyed: bool) -> None:
        self._part = part
        self._claim = claim
        self._said = [(NOT_STORED, "false")] if keyed else []
        self._gathering = Gathering(part.max_body)
        self._sent = False

    def answer(self, app: WSGIApp, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        outer = ambient.get()
        handle = Handle(self._claim.connection)
        token = _handle.set(handle)
        limit = rest = None
        try:
            with contextlib.ExitStack() as stack:
                if self._claim.lease is not None:
                    limit = stack.enter_context(deadline(self._claim.lease)).limit
                rest = self._gather(app, environ)
                if self._claim.connection is not None:
                    check()  # late is stopped: what can be rolled back is
        except BaseException as error:
            self._end_after(error)
            if rest is not None:
                rest.close()
            if isinstance(error, DeadlineExceeded) and limit is not outer and error._source is limit:
                return _give(refusal(504, "deadline-exceeded", "The request took longer than it may."), start_response)
            if self._claim.connection is not None and isinstance(error, Exception):
                check()  # what a driver raises whose statement was cut off says less
            raise
        finally:
            handle.connection = None
            _handle.reset(token)
        return self._give(rest, start_response)

    def _gather(self, app: WSGIApp, environ: Environ) -> _Rest | None:
        """Hold the answer back. What is returned are the pieces that are still to come of one that is too large."""
        gathering = self._gathering
        chunks = call_app(app, environ, self._start)
        handed_on = False
        try:
            pieces = iter(chunks)
            with contextlib.suppress(StopIteration):
                while True:
                    gathering.add(next_chunk(pieces))
                    if gathering.started and gathering.too_large:
                        handed_on = True
                        return _Rest(pieces, chunks)
        finally:
            if not handed_on:
                _close(chunks)
        if not gathering.started:
            raise RuntimeError("the application ended without calling start_response")
        return _Rest(iter(()), None) if gathering.too_large else None

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if self._sent and exc_info:
            raise exc_info[1]
        number, _, reason = status.partition(" ")
        self._gathering.start(int(number), reason, list(headers))
        return self._gathering.add

    def _end_after(self, error: BaseException) -> None:
        # The request's time may be over, and this must happen all the same. What fails here must not hide the error itself, and a claim
        # that could not be ended ends by its lease, or with its connection.
        with shield(ENDING), contextlib.suppress(Exception):
            _end(self._claim, self._part.ending_after(error))

    def _give(self, rest: _Rest | None, start_response: StartResponse) -> Iterable[bytes]:
        gathering, kept = self._gathering, False
        try:
            ending = self._ending(rest is None)
            with shield(ENDING):
                kept = _end(self._claim, ending)
        finally:
            if not kept and rest is not None:
                rest.close()
        if not kept:
            return _give(self._part.instead(Running("", 0.0), ""), start_response)
        answer = gathering.answer()
        if rest is None:
            return _give(answer, start_response)
        self._sent = True
        start_response(f"{answer.status} {answer.reason}", [*answer.headers, *self._said])
        rest.first = answer.body or b""
        return rest

    def _ending(self, whole: bool) -> Ending:
        try:
            return self._part.ending(self._gathering.answer() if whole else self._gathering.without_body())
        except BaseException as error:  # of the user's `keeps` or `commits`
            self._end_after(error)
            raise


class _Rest:
    """What is still to come of an answer that is too large to be kept."""

    def __init__(self, pieces: Iterator[bytes], chunks: object) -> None:
        self._pieces = pieces
        self._chunks = chunks
        self.first = b""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        first, self.first = self.first, b""
        return first or next_chunk(self._pieces)

    def close(self) -> None:
        _close(self._chunks)


def _read(environ: Environ, limit: int) -> bytes | Answer:
    """The body of a request, whole."""
    length = environ.get("CONTENT_LENGTH") or None
    source = environ["wsgi.input"]
    if length is None:
        # Without a length only a server that says so ends the stream with the body (chunked requests).
        body = call_theirs(source.read, limit + 1) if environ.get("wsgi.input_terminated") else b""
    elif not length.isascii() or not length.isdigit():
        return refusal(400, "content-length-invalid", "Content-Length must be a whole number.")
    elif len(length) > 18 or int(length) > limit:
        return _too_large(limit)
    else:
        body = call_theirs(source.read, int(length))
        if len(body) < int(length):
            return refusal(400, "request-incomplete", "The body is shorter than Content-Length says.")
    return bytes(body) if len(body) <= limit else _too_large(limit)


def _too_large(limit: int) -> Answer:
    return refusal(413, "request-too-large", f"The body of a request with an idempotency key may have {limit} bytes.")


def _end(claim: Claim, ending: Ending | None) -> bool:
    """End a claim. False: its answer must not be given, for what was done is rolled back (somebody else committed first)."""
    if ending is None or ending.kept is None:
        claim.abandon() if ending is None else claim.free()
        return True
    return claim.keep(ending.kept, effects=ending.commits) or claim.connection is None


def _give(answer: Answer, start_response: StartResponse) -> Iterable[bytes]:
    body = answer.body or b""
    headers = list(answer.headers)
    if not any(name.lower() in {"content-length", "transfer-encoding"} for name, _ in headers) and answer.status not in {204, 304}:
        headers.append(("Content-Length", str(len(body))))
    start_response(f"{answer.status} {answer.reason or reason(answer.status)}", headers)
    return [body] if body else []


def _close(chunks: object) -> None:
    close = getattr(chunks, "close", None)
    if close is not None:
        call_theirs(close)
