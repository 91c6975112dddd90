"""Idempotency around an ASGI application."""

from __future__ import annotations

import contextlib
from inspect import isawaitable

from holdfast.deadlines import ambient
from holdfast.errors import DeadlineExceeded, StoreUnavailable
from holdfast.scope import check, deadline
from holdfast.servers.idempotency.answers import Answer, Pairs
from holdfast.servers.idempotency.finishing import to_the_end
from holdfast.servers.idempotency.gathering import Gathering
from holdfast.servers.idempotency.part import NOT_STORED, Ending, Handle, Idempotency, _handle, refusal
from holdfast.servers.idempotency.store import AsyncClaim, Held, Running
from holdfast.servers.idempotency.threaded import awaited
from holdfast.servers.interfaces import ASGIApp, Message, Receive, Scope, Send
from holdfast.servers.request import from_scope

# By these an app would send its body past us.
_PAST_US = ("http.response.pathsend", "http.response.zerocopysend", "http.response.trailers", "http.response.push")


class AsgiIdempotency:
    """An application that does once what is asked for several times."""

    def __init__(self, part: Idempotency, app: ASGIApp) -> None:
        self._part = part
        self._store = awaited(part.store)
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        part = self._part
        if scope["type"] != "http" or str(scope["method"]).upper() not in part.methods:
            return await self._app(scope, receive, send)
        request = from_scope(scope)
        key = part.key_of(request)
        if isinstance(key, Answer):
            return await _give(key, send)
        if key is None and not self._store.transactional:
            return await self._app(scope, receive, send)
        name, fingerprint = None, ""
        if key is not None:
            body = await _read(receive, part.max_request)
            if body is None:
                return None  # the client is gone
            if isinstance(body, Answer):
                return await _give(body, send)
            who = part.who(request)
            name, fingerprint = part.entry(request, await who if isawaitable(who) else who, key, body)
            receive = _again(body, receive)
        try:
            claim = await self._store.aclaim(name, fingerprint, lease=part.lease, ttl=part.ttl)
        except StoreUnavailable as away:
            return await _give(part.unasked(away), send)
        if isinstance(claim, Held):
            return await _give(part.instead(claim, fingerprint), send)
        return await _Run(part, claim, send, keyed=key is not None).answer(self._app, _without_past_us(scope), receive)


class _Run:
    """The one that does the work."""

    def __init__(self, part: Idempotency, claim: AsyncClaim, send: Send, *, keyed: bool) -> None:
        self._part = part
        self._said = [(NOT_STORED, "false")] if keyed else []
        self._claim = claim
        self._transactional = claim.connection is not None
        self._send = send
        self._gathering = Gathering(part.max_body)
        self._whole = False
        self._settled = False
        self._passing = False  # the answer is too large, and passes by

    async def answer(self, app: ASGIApp, scope: Scope, receive: Receive) -> None:
        outer = ambient.get()
        handle = Handle(self._claim.connection)
        token = _handle.set(handle)
        limit = None
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self._claim.lease is not None:
                    limit = (await stack.enter_async_context(deadline(self._claim.lease))).limit
                await app(scope, receive, self._collect)
                if self._claim.connection is not None and not self._settled:
                    check()  # late is stopped: what can be rolled back is
            if not self._whole:
                raise RuntimeError("the application ended without completing its answer")
        except BaseException as error:
            answered = self._settled
            await self._end_after(error)
            if isinstance(error, DeadlineExceeded) and limit is not outer and error._source is limit and not answered:
                return await _give(refusal(504, "deadline-exceeded", "The request took longer than it may."), self._send)
            raise
        finally:
            handle.connection = None
            _handle.reset(token)
        return await self._give()

    async def _collect(self, message: Message) -> None:
        if self._settled and not self._passing:
            return
        if self._passing or message["type"] not in {"http.response.start", "http.response.body"}:
            if not self._whole:
                self._whole = message["type"] == "http.response.body" and not message.get("more_body", False)
                await self._send(message)
            return
        gathering = self._gathering
        if message["type"] == "http.response.start":
            pairs = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in message.get("headers", ())]
            gathering.start(int(message["status"]), "", pairs)
            return
        if not gathering.started:
            raise RuntimeError("the application sent a body before http.response.start")
        gathering.add(bytes(message.get("body", b"")))
        self._whole = not message.get("more_body", False)
        if gathering.too_large:
            await self._pass()
        elif self._whole and not self._transactional:
            # What comes after it, like background tasks, is nobody's to wait for. Only a transaction stays open until the app returns:
            # what frameworks clean up after the answer, like a session that flushes, still belongs to it.
            await self._give()

    async def _pass(self) -> None:
        """The answer is too large to be kept: end the claim, and let it through from now on."""
        self._passing = True
        if not await self._end(await self._ending(self._gathering.without_body())):
            self._whole = True  # what the app still sends goes nowhere
            return await _give(self._part.instead(Running("", 0.0), ""), self._send)
        answer = self._gathering.answer()
        return await _give(answer, self._send, extra=self._said, more=not self._whole)

    async def _give(self) -> None:
        if self._settled:
            return
        answer = self._gathering.answer()
        if not await self._end(await self._ending(answer)):
            answer = self._part.instead(Running("", 0.0), "")
        await _give(answer, self._send)

    async def _end_after(self, error: BaseException) -> None:
        if self._settled:
            return None
        if self._whole and isinstance(error, Exception) and not isinstance(error, DeadlineExceeded):
            return await self._give()  # a framework's answer to an error that it raises again for the log
        # What fails here must not hide the error itself; a claim that could not be ended ends by its lease, or with its connection.
        with contextlib.suppress(Exception):
            await self._end(self._part.ending_after(error))
        return None

    async def _ending(self, answer: Answer) -> Ending:
        try:
            return self._part.ending(answer)
        except BaseException:  # of the user's `keeps` or `commits`
            await self._end(None)
            raise

    async def _end(self, ending: Ending | None) -> bool:
        """End the claim. False: its answer must not be given, for what was done is rolled back (somebody else committed first)."""
        self._settled = True
        return await to_the_end(_end(self._claim, ending))


async def _end(claim: AsyncClaim, ending: Ending | None) -> bool:
    if ending is None:
        await claim.aabandon()
    elif ending.kept is None:
        await claim.afree()
    else:
        return await claim.akeep(ending.kept, effects=ending.commits) or claim.connection is None
    return True


async def _read(receive: Receive, limit: int) -> bytes | Answer | None:
    """The body of a request, whole; None where the client went away."""
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = bytes(message.get("body", b""))
        size += len(piece)
        if size > limit:
            return refusal(413, "request-too-large", f"The body of a request with an idempotency key may have {limit} bytes.")
        pieces.append(piece)
        more = bool(message.get("more_body", False))
    return b"".join(pieces)


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` for the app: the body that was read, then what the server has to say."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _without_past_us(scope: Scope) -> Scope:
    extensions = scope.get("extensions") or {}
    if not any(name in extensions for name in _PAST_US):
        return scope
    return {**scope, "extensions": {name: value for name, value in extensions.items() if name not in _PAST_US}}


async def _give(answer: Answer, send: Send, *, extra: Pairs = (), more: bool = False) -> None:
    body = answer.body or b""
    pairs = [*answer.headers, *extra]
    if not more and not any(name.lower() == "content-length" for name, _ in pairs) and answer.status not in {204, 304}:
        pairs.append(("content-length", str(len(body))))
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})
