"""`install`: the deadline for every client library of this process that uses Python's sockets, without changing it."""

from __future__ import annotations

import asyncio.base_events
import socket
import ssl
import threading
from typing import Any

from holdfast.deadlines import ambient
from holdfast.net import dns, eyeballs
from holdfast.net.sockets import PLAIN, TLS, guarded, sendall, sendfile

LOOK_UPS = ("getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo")

_create_connection = socket.create_connection
_lock = threading.Lock()
_originals: list[tuple[Any, str, Any]] = []


def install() -> None:
    """From now on every blocking socket operation, TLS handshake and name look-up of this process obeys the ambient deadline,
    whatever client library makes it. Installing twice is installing once.

    It reaches what uses `socket.socket` and `ssl.SSLSocket`; where no deadline is active each operation costs a look at a context
    variable. What it does not reach is listed in docs/net.md (C libraries with sockets of their own, such as libpq).
    """
    with _lock:
        if _originals:
            return
        for name in PLAIN:
            _put(socket.socket, name, guarded(getattr(socket.socket, name)))
        _put(socket.socket, "sendall", sendall)
        _put(socket.socket, "sendfile", sendfile)
        for name in TLS:
            _put(ssl.SSLSocket, name, guarded(getattr(ssl.SSLSocket, name)))
        for name in LOOK_UPS:
            dns.replaced[name] = getattr(socket, name)
            _put(socket, name, dns.getaddrinfo if name == "getaddrinfo" else dns.guarded(name))
        _put(socket, "create_connection", create_connection)
        _put(asyncio.base_events.BaseEventLoop, "getaddrinfo", _loop_getaddrinfo)


def uninstall() -> None:
    """Put everything back as it was. Without `install` it does nothing."""
    with _lock:
        while _originals:
            owner, name, original = _originals.pop()
            if original is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        dns.replaced.clear()


_ABSENT = object()


def _put(owner: Any, name: str, ours: Any) -> None:
    # Most methods are inherited from C, and putting those back as attributes of the subclass would not be as it was.
    _originals.append((owner, name, vars(owner).get(name, _ABSENT)))
    setattr(owner, name, ours)


def create_connection(
    address: tuple[str, int],
    timeout: Any = socket._GLOBAL_DEFAULT_TIMEOUT,  # type: ignore[attr-defined]  # private, and what socket itself compares with
    source_address: Any = None,
    *,
    all_errors: bool = False,
) -> socket.socket:
    """`socket.create_connection`; under a deadline all addresses are raced within it."""
    if ambient.get() is None:
        return _create_connection(address, timeout, source_address, all_errors=all_errors)
    seconds = timeout if timeout is None or isinstance(timeout, (int, float)) else socket.getdefaulttimeout()
    return eyeballs.connect(address, seconds, source_address)


async def _loop_getaddrinfo(
    _loop: asyncio.AbstractEventLoop,
    host: Any,
    port: Any,
    *,
    family: int = 0,
    type: int = 0,  # noqa: A002  (asyncio's name)
    proto: int = 0,
    flags: int = 0,
) -> Any:
    return await dns.agetaddrinfo(host, port, family, type, proto, flags)
