"""One way to ask applications of both kinds."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from wsgiref.validate import validator

from holdfast.servers import Idempotency

Reply = tuple[int, list[tuple[str, str]], bytes]


@dataclass
class Response:
    """What a client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(found) <= 1, f"{name} comes {len(found)} times"
        return found[0] if found else None

    @property
    def code(self) -> str:
        """Of a problem document."""
        assert self.header("content-type") == "application/problem+json"
        document = json.loads(self.body)
        assert document["status"] == self.status
        return str(document["code"])


@dataclass
class Handler:
    """An application of both kinds. It answers what `reply` says, and remembers what it was asked."""

    reply: Callable[[str, bytes], Reply | BaseException] = lambda path, body: (201, [("Content-Type", "text/plain")], b"done")
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    pieces: int = 1
    closed: int = 0

    def _answer(self, path: str, body: bytes) -> Reply:
        self.asked.append((path, body))
        reply = self.reply(path, body)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def _cut(self, body: bytes) -> list[bytes]:
        size = max(1, -(-len(body) // self.pieces))
        return [body[at : at + size] for at in range(0, len(body), size)]

    def wsgi(self, environ: dict[str, Any], start_response: Any) -> Any:
        status, headers, body = self._answer(environ["PATH_INFO"], environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        if not any(name == "Content-Type" for name, _ in headers):
            headers = [*headers, ("Content-Type", "text/plain")]
        start_response(f"{status} Said", headers)
        handler = self

        class Closing(list):
            def close(self) -> None:
                handler.closed += 1

        return Closing(self._cut(body))

    async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            body += message["body"]
            more = message["more_body"]
        status, headers, answer = self._answer(scope["path"], body)
        await send(
            {"type": "http.response.start", "status": status, "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in headers]}
        )
        for piece in self._cut(answer):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


Ask = Callable[..., Response]


def ask_wsgi(app: Any, method: str, path: str, headers: dict[str, str], body: bytes) -> Response:
    """One request to a WSGI application, checked against PEP 3333."""
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "text/plain",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers.items():
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, pairs: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append((status, pairs))
        return lambda piece: None

    chunks = validator(app)(environ, start_response)
    try:
        got = b"".join(chunks)
    finally:
        chunks.close()
    status, pairs = started[-1]
    return Response(int(status[:3]), pairs, got)


async def ask_asgi(app: Any, method: str, path: str, headers: dict[str, str], body: bytes, receive: Any = None) -> Response:
    """One request to an ASGI application."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        "extensions": {"http.response.pathsend": {}},
    }
    halves = [body[: len(body) // 2], body[len(body) // 2 :]]
    sent: list[Any] = []

    async def both_halves() -> Any:
        if halves:
            return {"type": "http.request", "body": halves.pop(0), "more_body": bool(halves)}
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        assert not any(one["type"] == "http.response.body" and not one.get("more_body", False) for one in sent), "sent after the end"
        sent.append(message)

    error: BaseException | None = None
    try:
        await app(scope, receive or both_halves, send)
    except Exception as raised:
        error = raised
    if error is not None and not (sent and sent[-1].get("more_body") is False):
        raise error
    if not sent:
        return Response(0, [], b"")
    assert sent[0]["type"] == "http.response.start"
    pairs = [(name.decode(), value.decode("latin-1")) for name, value in sent[0]["headers"]]
    response = Response(sent[0]["status"], pairs, b"".join(message["body"] for message in sent[1:]))
    assert response.header("content-length") in {None, str(len(response.body))}
    return response


def asker(kind: str, handler: Handler, part: Idempotency) -> Ask:
    """A function that asks the handler behind the part."""
    app = part.wsgi(handler.wsgi) if kind == "wsgi" else part.asgi(handler.asgi)

    def ask(key: str | None = "k", body: bytes = b"order", *, method: str = "POST", path: str = "/orders", **headers: str) -> Response:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            given["Idempotency-Key"] = key
        if kind == "wsgi":
            return ask_wsgi(app, method, path, given, body)
        return asyncio.run(ask_asgi(app, method, path, given, body))

    return ask
