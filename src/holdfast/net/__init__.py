"""Blocking sockets, TLS and name look-up under the ambient deadline.

`connect` makes a connection that obeys it, `wrap_tls` puts TLS on one, `getaddrinfo` and `agetaddrinfo` look names up, `TcpOptions` are
the options of connections that live long; `install` does the same for every library of the process that uses Python's sockets.
"""

from __future__ import annotations

import math
import ssl
from typing import cast

from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.net.clamp import LEAST
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
    limit, own = ambient.get(), sock.gettimeout()
    # The context is shared between threads, so its `sslsocket_class` cannot be set for the moment: the handshake goes by the
    # socket's timeout, which bounds the whole of it, and the class comes afterwards.
    if limit is not None:
        sock.settimeout(max(LEAST, min(limit.at - clock.now(), math.inf if own is None else own)))
    try:
        wrapped = context.wrap_socket(sock, server_hostname=server_hostname)
    except TimeoutError as error:
        if limit is not None and clock.now() >= limit.at:
            raise limit.exceeded(clock.now()) from error
        raise
    if type(wrapped) is ssl.SSLSocket:  # a context with a class of its own keeps it
        wrapped.__class__ = TLSSocket
    wrapped.settimeout(own)
    return cast(TLSSocket, wrapped)
