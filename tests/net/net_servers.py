"""Servers and connections on real sockets for the tests beside it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from certificates import client_context, server_context
from holdfast import net


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextmanager
def tls_pair(ours: bool) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """A client and a server that have shaken hands; the client by `holdfast.net`, or by the standard library."""
    server, trusting = server_context(), client_context()
    with ExitStack() as stack:
        listener = stack.enter_context(listening())
        made: list[ssl.SSLSocket] = []

        def accept() -> None:
            made.append(server.wrap_socket(listener.accept()[0], server_side=True))

        thread = threading.Thread(target=accept)
        thread.start()
        if ours:
            client: ssl.SSLSocket = net.wrap_tls(net.connect(listener.getsockname()), trusting, "localhost")
        else:
            client = trusting.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname="localhost")
        thread.join()
        stack.enter_context(client)
        yield client, stack.enter_context(made[0])


@contextmanager
def serving(handle: Callable[[socket.socket], object], *, tls: bool = False) -> Iterator[tuple[str, int]]:
    """Call `handle` with each connection in a thread of its own; all have ended on leaving."""
    threads: list[threading.Thread] = []
    open_: list[socket.socket] = []
    context = server_context() if tls else None

    def one(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if context is None:
                handle(connection)
            else:
                with context.wrap_socket(connection, server_side=True) as wrapped:
                    open_.append(wrapped)
                    handle(wrapped)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection = listener.accept()[0]
                open_.append(connection)
                threads.append(threading.Thread(target=one, args=(connection,)))
                threads[-1].start()

    with listening() as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield listener.getsockname()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for connection in open_:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
