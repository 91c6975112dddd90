"""Servers and connections on real sockets for the tests beside it, and a certificate of their own."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from holdfast import net


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For the server, and for a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "localhost.pem"
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
        server.load_cert_chain(path)
        return server, ssl.create_default_context(cafile=str(path))


def client_context() -> ssl.SSLContext:
    return _contexts()[1]


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextmanager
def tls_pair(ours: bool) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """A client and a server that have shaken hands; the client by `holdfast.net`, or by the standard library."""
    server, trusting = _contexts()
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
    context = _contexts()[0] if tls else None

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
