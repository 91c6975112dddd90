"""redis-py's connections over sockets that obey the ambient deadline."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

import math
import socket
import ssl
from typing import Any

import redis
from redis import exceptions

from holdfast.clients.redis.commands import running
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded
from holdfast.net import Socket, TcpOptions, TLSSocket, connect, wait_readable
from holdfast.scope import deadline

_Base: Any = object  # redis-py's AbstractConnection comes behind it

PING = b"PING\r\n"


class _Bounded(_Base):  # type: ignore[misc]  # see there
    """What our connections have in common.

    Args:
        dead_after: seconds after which a vanished server is noticed; None for those of the class.
        options: of redis-py.
    """

    dead_after = 5.0

    def __init__(self, *, dead_after: float | None = None, **options: Any) -> None:
        self._dead_after = self.dead_after if dead_after is None else dead_after
        self._greeting = 0  # while it says hello, what is sent is not the user's command
        super().__init__(**options)

    def connect(self) -> None:
        """See redis-py."""
        self._greeting += 1
        try:
            super().connect()
        finally:
            self._greeting -= 1

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """See redis-py."""
        if self._sock is None:
            self.connect()
        by = running.get()
        if by is not None and not self._greeting:
            by.sent = True
        super().send_packed_command(command, check_health)

    def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        by = running.get()
        if by is not None and by.waits and not self._greeting:
            try:
                self._wait_for_answer(by.waits)
            except BaseException:  # the command is on its way, and its answer must not be the next one's
                self.disconnect()
                raise
        return super().read_response(*args, **options)

    def _wait_for_answer(self, seconds: float) -> None:
        """Wait for the first byte of a blocking command's answer; the server is asked meanwhile whether it is there."""
        sock, half = self._sock, self._dead_after / 2
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return
        end = clock.now() + seconds + self._dead_after
        while clock.now() < end:
            try:
                wait_readable(sock, max(0.0, min(half, end - clock.now())))
            except DeadlineExceeded:
                raise
            except TimeoutError:
                self._ask(half)
            else:
                return
        raise exceptions.TimeoutError("the server did not answer in time")

    def _ask(self, within: float) -> None:
        gone = exceptions.ConnectionError("the server does not answer, on a new connection neither")
        outer = ambient.get()
        asking = None
        try:
            with deadline(within):
                asking = self._connect()
                asking.sendall(PING)
                answered = asking.recv(1) != b""
        except OSError as error:  # DeadlineExceeded is one
            if isinstance(error, DeadlineExceeded) and outer is not None and outer.encloses(error):
                raise
            raise gone from error
        finally:
            if asking is not None:
                asking.close()
        if not answered:
            raise gone


class Connection(_Bounded, redis.Connection):
    """redis-py's connection, bounded."""

    def _connect(self) -> Any:
        made = connect((self.host, self.port), self.socket_connect_timeout, options=TcpOptions(dead_after=self._dead_after).as_list())
        made.settimeout(self.socket_timeout)
        return made


class TLSConnection(_Bounded, redis.SSLConnection):
    """redis-py's connection over TLS, bounded."""

    def _connect(self) -> Any:
        plain = connect((self.host, self.port), self.socket_connect_timeout, options=TcpOptions(dead_after=self._dead_after).as_list())
        limit = ambient.get()
        left = math.inf if limit is None else max(1e-6, limit.at - clock.now())
        most = min(left, math.inf if self.socket_connect_timeout is None else self.socket_connect_timeout)
        plain.settimeout(None if most == math.inf else most)  # the handshake goes by the timeout of its socket
        try:
            made = self._wrap_socket_with_ssl(plain)
        except BaseException as error:
            plain.close()
            if isinstance(error, TimeoutError) and limit is not None and clock.now() >= limit.at:
                raise limit.exceeded(clock.now()) from error
            raise
        if type(made) is ssl.SSLSocket:
            made.__class__ = TLSSocket
        made.settimeout(self.socket_timeout)
        return made


class UnixConnection(_Bounded, redis.UnixDomainSocketConnection):
    """redis-py's connection over a socket file, bounded."""

    def _connect(self) -> Any:
        made = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.settimeout(self.socket_connect_timeout)
            made.connect(self.path)
        except BaseException:
            made.close()
            raise
        made.settimeout(self.socket_timeout)
        return made


_OURS: dict[type | None, Any] = {
    None: Connection,
    redis.Connection: Connection,
    redis.SSLConnection: TLSConnection,
    redis.UnixDomainSocketConnection: UnixConnection,
}


def class_for(theirs: type | None) -> Any:
    """Ours in the place of redis-py's, None where there is none; `theirs` is None for the usual one."""
    return theirs if theirs in _OURS.values() else _OURS.get(theirs)
