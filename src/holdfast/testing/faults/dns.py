"""Name look-ups that hang.

with stalled_dns(30.0, host="*.example.test"):    # this process: socket.getaddrinfo
    ...
with StalledResolver() as resolver:               # real packets, for resolvers that can be pointed at an address
    ...
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatchcase
from threading import Condition
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from holdfast.validation import Seconds, wait_seconds

if TYPE_CHECKING:
    from typing import Self

Name: TypeAlias = "str | bytes | None"

# A DNS message begins with 12 bytes of header; labels of a name are at most 63 bytes (RFC 1035, sections 4.1.1 and 2.3.4).
_HEADER, _LABEL_MAX, _PACKET = 12, 63, 4096

# How long, in seconds, leaving waits for look-ups that it has just released. They only have to be scheduled.
_LEAVE = 5.0


class stalled_dns:  # noqa: N801  (used like a function, as `holdfast.deadline` is)
    """Names whose look-up takes so long, in all threads of this process.

    It replaces `socket.getaddrinfo`, which asyncio, urllib3 and `socket.create_connection` use. It does not reach C libraries with a
    resolver of their own, nor code that imported the function itself. IP addresses are not names, and pass.

    On leaving, look-ups that still hang fail with `EAI_AGAIN`, so that no thread stays behind.

    Args:
        seconds: how long a look-up hangs before it goes on, >= 0.
        host: which names, as a pattern: "*" is all of them, "*.example.test" those below. Case does not matter.
    """

    def __init__(self, seconds: Seconds, *, host: str = "*") -> None:
        self._seconds = wait_seconds("stalled_dns.seconds", seconds)
        self._pattern = host.lower()
        self._changed = Condition()
        self._over = True
        self._hung = 0
        self._names: list[str] = []
        self._replaced: Callable[..., object] | None = None
        self._ours: Callable[..., object] | None = None

    @property
    def hung(self) -> int:
        """How many look-ups hang now."""
        return self._hung

    @property
    def names(self) -> tuple[str, ...]:
        """The names whose look-up hung, in order."""
        return tuple(self._names)

    def __enter__(self) -> Self:
        real = socket.getaddrinfo
        self._over = False

        def getaddrinfo(host: Name, *args: object, **kwargs: object) -> object:
            self._stall(host)
            return real(host, *args, **kwargs)  # type: ignore[arg-type]  # handed on as it came

        self._replaced, self._ours = real, getaddrinfo
        socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]  # the look-up of this process
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # Whoever has replaced it since calls ours, which stalls nothing any more; then it must stay where it is.
        if socket.getaddrinfo is self._ours:
            socket.getaddrinfo = self._replaced  # type: ignore[assignment]  # likewise
        with self._changed:
            self._over = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._hung, _LEAVE)

    def _stall(self, host: Name) -> None:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if not name or self._over or _is_address(name) or not fnmatchcase(name.lower(), self._pattern):
            return
        with self._changed:
            self._names.append(name)
            self._hung += 1
            released = self._changed.wait_for(lambda: self._over, self._seconds)
            self._hung -= 1
            self._changed.notify_all()
        if released:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution (stalled_dns is over)")


class StalledResolver:
    """A DNS server on the loopback that receives queries and never answers.

    It needs no thread: the kernel takes the packets, and they are read when somebody asks for the `names`.

    Args:
        listen: host and port to listen on, port 0 for any free one.
    """

    def __init__(self, listen: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._listen = listen
        self._socket: socket.socket | None = None
        self._names: list[str] = []

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on. RuntimeError where it does not run."""
        if self._socket is None:
            raise RuntimeError("the StalledResolver does not run: it has no address before start() and after stop()")
        host, port = self._socket.getsockname()[:2]
        return host, port

    @property
    def names(self) -> tuple[str, ...]:
        """The names that were asked for so far, in order; "?" for what is no DNS query."""
        if self._socket is not None:
            with suppress(BlockingIOError):
                while True:
                    self._names.append(_asked_name(self._socket.recv(_PACKET)))
        return tuple(self._names)

    def start(self) -> Self:
        """Listen.

        Raises:
            OSError: the address cannot be had.
        """
        family, _, _, _, where = socket.getaddrinfo(*self._listen, type=socket.SOCK_DGRAM)[0]
        made = socket.socket(family, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            made.bind(where)
        except BaseException:
            made.close()
            raise
        self._socket = made
        return self

    def stop(self) -> None:
        """Close the socket. Where it does not run, nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _asked_name(packet: bytes) -> str:
    labels: list[str] = []
    at = _HEADER
    while at < len(packet) and 0 < packet[at] <= _LABEL_MAX:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode("ascii", "replace"))
        at += 1 + packet[at]
    whole = at < len(packet) and packet[at] == 0 and labels
    return ".".join(labels) if whole else "?"
