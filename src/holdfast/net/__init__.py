"""Blocking sockets, TLS and name look-up under the ambient deadline.

`connect` makes a connection that obeys it, `wrap_tls` puts TLS on one, `getaddrinfo` and `agetaddrinfo` look names up, `TcpOptions` are
the options of connections that live long; `install` does the same for every library of the process that uses Python's sockets.
"""

from __future__ import annotations

import ssl
from typing import cast

from holdfast.net.dns import agetaddrinfo, getaddrinfo
from holdfast.net.eyeballs import NO_DELAY, STREAM, connect, interleave
from holdfast.net.options import TcpOptions
from holdfast.net.patch import install, uninstall
from holdfast.net.sockets import Socket, TLSSocket
from holdfast.net.waiting import is_readable, wait_readable, wait_writable

__all__ = [
    "NO_DELAY",
    "STREAM",
    "Socket",
    "TLSSocket",
    "TcpOptions",
    "agetaddrinfo",
    "connect",
    "getaddrinfo",
    "install",
    "interleave",
    "is_readable",
    "uninstall",
    "wait_readable",
    "wait_writable",
    "wrap_tls",
]


def wrap_tls(sock: Socket, context: ssl.SSLContext, server_hostname: str | None = None) -> TLSSocket:
    """TLS over a connected socket; the handshake obeys the ambient deadline, and so does everything after it.

    Raises:
        DeadlineExceeded: the deadline passed.
        ssl.SSLError: the handshake failed.
    """
    before, context.sslsocket_class = context.sslsocket_class, TLSSocket
    try:
        return cast(TLSSocket, context.wrap_socket(sock, server_hostname=server_hostname))
    finally:
        context.sslsocket_class = before
