"""Sockets whose every blocking operation is bound by the ambient deadline."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.net import clamp
from holdfast.net.clamp import bounded, disturbed

F = TypeVar("F", bound=Callable[..., Any])

# What may block. TLS sockets build recv, recv_into and sendall on the last five, so only these are theirs.
PLAIN = (
    "accept",
    "connect",
    "connect_ex",
    "recv",
    "recv_into",
    "recvfrom",
    "recvfrom_into",
    "recvmsg",
    "recvmsg_into",
    "send",
    "sendmsg",
    "sendto",
)
# The system's, for operations that are bound by other means.
receive_plain, sendall_plain = socket.socket.recv, socket.socket.sendall
receive_tls = ssl.SSLSocket.read

TLS = ("do_handshake", "read", "send", "unwrap", "write")


def guarded(method: F) -> F:
    """The method, bound by the ambient deadline; without one it costs a look at a context variable."""
    get = ambient.get
    holds = clamp.holds

    @wraps(method)
    def operation(self: socket.socket, *args: Any, **kwargs: Any) -> Any:
        if get() is None and not holds:
            try:
                return method(self, *args, **kwargs)
            except TimeoutError as error:
                if not disturbed(self, error):
                    raise
        return bounded(self, method, self, *args, **kwargs)

    return operation  # type: ignore[return-value]  # wraps keeps the signature, and the checker cannot see it


def sendall(self: socket.socket, data: Any, flags: int = 0, /) -> None:
    """`socket.sendall`, piece by piece with `send`: a timeout in the middle must not send the beginning twice."""
    if ambient.get() is None and not clamp.holds:
        _sendall(self, data, flags)
        return
    own = clamp.own_timeout(self)
    end = math.inf if own is None else clock.now() + own
    with memoryview(data) as view, view.cast("B") as rest:
        sent = self.send(rest, flags)
        while sent < len(rest):
            if clock.now() >= end:
                raise TimeoutError("timed out")  # the system's sendall, too, has its timeout for the whole
            sent += self.send(rest[sent:], flags)


def sendfile(self: socket.socket, file: Any, offset: int = 0, count: int | None = None) -> int:
    """`socket.sendfile`, piece by piece with `send`, so that the deadline bounds each piece."""
    if ambient.get() is None or self.gettimeout() == 0.0:
        return _sendfile(self, file, offset, count)
    return self._sendfile_use_send(file, offset, count)  # type: ignore[attr-defined, no-any-return]  # the library's own portable way


_sendall = socket.socket.sendall
_sendfile = socket.socket.sendfile


class Socket(socket.socket):
    """A socket that obeys the ambient deadline."""

    sendall = sendall
    sendfile = sendfile


class TLSSocket(ssl.SSLSocket):
    """A TLS socket that obeys the ambient deadline. Set it as `SSLContext.sslsocket_class`."""


for name in PLAIN:
    setattr(Socket, name, guarded(getattr(socket.socket, name)))
for name in TLS:
    setattr(TLSSocket, name, guarded(getattr(ssl.SSLSocket, name)))
