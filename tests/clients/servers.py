"""Real HTTP servers for the tests beside it: each on a port of its own, ended when the block ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import watching
from certificates import server_context


@dataclass
class Request:
    """What a server got."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    connection: int  # 1 is the first one accepted


@dataclass
class Answer:
    """What a server says. `pause` seconds lie before the body; with `cut` the connection ends before the body does."""

    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0
    cut: bool = False


class Server:
    """What `serving` yields: where it is, and what it got."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self.ended = threading.Event()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def sent(self, name: str) -> list[str | None]:
        """The values of a header, request by request."""
        return [request.headers.get(name.lower()) for request in self.requests]


@contextmanager
def serving(answer: Callable[[Request], Answer] | None = None, *, tls: bool = False) -> Iterator[Server]:
    """An HTTP/1.1 server with keep-alive that answers what `answer` says, in threads; all of them have ended on leaving."""
    connections: list[object] = []
    context = server_context() if tls else None

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def setup(self) -> None:
            if context is not None:
                self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()
            connections.append(self.request)
            self.number = len(connections)

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()
            self.request.close()

        def handle(self) -> None:
            with suppress(OSError, ValueError):
                super().handle()

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            got = self.rfile.read(length) if length else self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else b""
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, got, self.number)
            server.requests.append(request)
            said = answer(request) if answer is not None else Answer()
            self.send_response(said.status)
            for name, value in {"Content-Length": str(len(said.body)), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.flush()
            server.ended.wait(said.pause)
            body = b"" if self.command == "HEAD" else said.body
            self.wfile.write(body[: len(body) // 2] if said.cut else body)
            self.wfile.flush()
            self.close_connection = self.close_connection or said.cut

        def _chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def log_message(self, *args: object) -> None:
            pass

    class Http(ThreadingHTTPServer):
        daemon_threads = False
        request_queue_size = 256

        def handle_error(self, *args: object) -> None:
            pass  # connections that break are what is tested

    with Http(("127.0.0.1", 0), Handler) as http:
        server = Server(f"{'https' if tls else 'http'}://127.0.0.1:{http.server_address[1]}")
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            http.shutdown()
            thread.join()
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(2)


def script(*answers: Answer | int) -> Callable[[Request], Answer]:
    """These answers one after the other, the last one for ever; a number is a status."""
    left = [Answer(it) if isinstance(it, int) else it for it in answers]
    lock = threading.Lock()

    def answer(_request: Request) -> Answer:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


soon = partial(watching.soon, within=3.0)
