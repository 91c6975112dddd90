"""redis-py's connections for asyncio, which whoever waits may be cut off from at any moment."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import math
from typing import Any

import redis.asyncio
import redis.asyncio.connection
from redis import exceptions

from holdfast.clients.redis.commands import running
from holdfast.clients.redis.connections import PING
from holdfast.net import TcpOptions
from holdfast.net.async_eyeballs import aconnect

_Base: Any = object  # redis-py's AbstractConnection comes behind it


class _Bounded(_Base):  # type: ignore[misc]  # see there
    """What our connections have in common.

    Args:
        dead_after: seconds after which a vanished server is noticed; None for those of the class.
        options: of redis-py.
    """

    socket_timeout: Any
    _reader: Any
    _writer: Any

    dead_after = 5.0

    def __init__(self, *, dead_after: float | None = None, **options: Any) -> None:
        self._dead_after = self.dead_after if dead_after is None else dead_after
        self._greeting = 0  # while it says hello, what is sent is not the user's command
        super().__init__(**options)

    async def connect(self) -> None:
        """See redis-py."""
        self._greeting += 1
        try:
            await super().connect()
        except BaseException:
            # Cut off between question and answer of its greeting, it would take that answer for another's.
            await self.disconnect(nowait=True)
            raise
        finally:
            self._greeting -= 1

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """See redis-py."""
        if not self.is_connected:
            await self.connect()
        by = running.get()
        if by is not None and not self._greeting:
            by.sent = True
        # redis-py would bound it by wait_for, which in Python 3.11 loses a cancellation that comes when the sending has just ended.
        own, self.socket_timeout = self.socket_timeout, None
        try:
            async with asyncio.timeout(own):
                await super().send_packed_command(command, check_health)
        except TimeoutError as error:
            raise exceptions.TimeoutError("Timeout writing to socket") from error
        finally:
            self.socket_timeout = own

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        by = running.get()
        if by is None or not by.waits or self._greeting:
            return await super().read_response(*args, **options)
        own = self.socket_timeout
        self.socket_timeout = None if by.waits == math.inf else by.waits + self._dead_after
        reading = asyncio.ensure_future(super().read_response(*args, **options))
        try:
            while not (await asyncio.wait({reading}, timeout=self._dead_after / 2))[0]:
                await self._ask(self._dead_after / 2)
            return reading.result()
        except BaseException:  # the command is on its way, and its answer must not be the next one's
            reading.cancel()
            await self.disconnect(nowait=True)
            raise
        finally:
            self.socket_timeout = own

    async def _ask(self, within: float) -> None:
        gone = exceptions.ConnectionError("the server does not answer, on a new connection neither")
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(within):
                reader, writer = await self._open()
                writer.write(PING)
                answered = await reader.read(1)
        except OSError as error:  # TimeoutError is one
            raise gone from error
        finally:
            if writer is not None:
                writer.transport.abort()
        if not answered:
            raise gone

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection without a greeting."""
        sock = await aconnect((self.host, self.port), TcpOptions(dead_after=self._dead_after).as_list())
        try:
            return await asyncio.open_connection(sock=sock, **self._tls())
        except BaseException:
            sock.close()
            raise

    def _tls(self) -> dict[str, Any]:
        return {}

    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await self._open()


class AsyncConnection(_Bounded, redis.asyncio.Connection):
    """redis-py's connection for asyncio, bounded."""


class AsyncTLSConnection(_Bounded, redis.asyncio.SSLConnection):
    """redis-py's connection over TLS for asyncio, bounded."""

    def _tls(self) -> dict[str, Any]:
        return {"ssl": self.ssl_context.get(), "server_hostname": self.host}


class AsyncUnixConnection(_Bounded, redis.asyncio.UnixDomainSocketConnection):
    """redis-py's connection over a socket file for asyncio, bounded."""

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)


_OURS: dict[type | None, Any] = {
    None: AsyncConnection,
    redis.asyncio.Connection: AsyncConnection,
    redis.asyncio.SSLConnection: AsyncTLSConnection,
    redis.asyncio.UnixDomainSocketConnection: AsyncUnixConnection,
}


def class_for(theirs: type | None) -> Any:
    """Ours in the place of redis-py's, None where there is none; `theirs` is None for the usual one."""
    return theirs if theirs in _OURS.values() else _OURS.get(theirs)
