"""Servers on real sockets for the tests beside it, and readers that say how a stream ended."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import watching
from stopwatch import Stopwatch


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        pass  # connections that break are what is tested


@contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Call `handle` with each connection, in a thread of its own; on leaving, all of them have ended."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            handle(self.request)

    with _Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address
        finally:
            server.shutdown()
            thread.join()


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


BODY = b"0123456789"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX-Other: yes\r\n\r\n"


def http(connection: socket.socket) -> None:
    """Answer each request, which must come in one piece and without a body, with ten bytes."""
    while connection.recv(65536):
        connection.sendall(HEAD + BODY)


def sending(size: int) -> Callable[[socket.socket], None]:
    """On the first byte, send so many bytes and close."""

    def handle(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(b"x" * size)

    return handle


def connect(proxy, timeout: float = 3.0) -> socket.socket:
    return socket.create_connection(proxy.address, timeout)


def read_all(client: socket.socket) -> tuple[bytes, str]:
    """What comes, and how it ends: "fin", "rst" or "silence" (after the socket's timeout)."""
    read = b""
    while True:
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            return read, "rst"
        except TimeoutError:
            return read, "silence"
        if not data:
            return read, "fin"
        read += data


def reset_at_once(proxy) -> bool:
    """Whether a new connection dies without a byte; where the RST is quick, the connect itself fails."""
    try:
        with connect(proxy) as client:
            return read_all(client) == (b"", "rst")
    except ConnectionResetError:
        return True


def arrivals(client: socket.socket, size: int) -> list[tuple[bytes, float, float]]:
    """What has come each time that something came, until so many bytes have; with the seconds since the call, elapsed and took."""
    watch, read, found = Stopwatch(), b"", []
    while len(read) < size:
        read += client.recv(65536)
        found.append((read, watch.elapsed, watch.took))
    return found


soon = partial(watching.soon, within=2.0)
