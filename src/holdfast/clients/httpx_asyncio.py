"""Connections of asyncio below httpx: a protocol that keeps what came until somebody reads it, and one timer for all reads.

What httpx brings (anyio's streams) sets a cancel scope and two timers for each read; a response takes two reads.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from holdfast import net
from holdfast.clients.exchange import wrote
from holdfast.clients.httpx_errors import Core

# More than this in hand, and the peer is asked to wait.
_ENOUGH = 256 * 1024


class Connection(asyncio.Protocol):
    """What has come and what is awaited, on one transport after the other: plain, then TLS."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.ended = False  # by the peer
        self.error: Exception | None = None
        self._came = bytearray()
        self._reader: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._held_back = False
        self._timer: asyncio.TimerHandle | None = None
        self._until = 0.0

    # What asyncio says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._came += data
        if len(self._came) > _ENOUGH and not self._held_back:
            self._held_back = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """See asyncio."""
        self.ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.ended, self.error = True, exc
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        """See asyncio."""
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """See asyncio."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # What the stream asks.

    @property
    def has_news(self) -> bool:
        """Whether a read would return at once, or the connection has ended."""
        return bool(self._came) or self.ended

    async def read(self, most: int, timeout: float | None) -> bytes:
        """What has come, at most so many bytes; empty at the end.

        Raises:
            TimeoutError: nothing came within `timeout` seconds.
            OSError: the connection broke.
        """
        if not self._came and not self.ended:
            loop = asyncio.get_running_loop()
            reader = self._reader = loop.create_future()
            if timeout is not None:
                self._until = loop.time() + timeout
                if self._timer is None or self._timer.when() > self._until:
                    self._set(loop)
            try:
                await reader
            finally:
                self._reader = None
        return self._take(most)

    def _take(self, most: int) -> bytes:
        came = self._came
        if not came and self.error is not None:
            raise self.error
        if len(came) <= most:
            self._came = bytearray()
        else:
            self._came = came[most:]
            del came[most:]
        if self._held_back and len(self._came) <= _ENOUGH:
            self._held_back = False
            self.transport.resume_reading()
        return bytes(came)

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._until, self._ring)

    def _ring(self) -> None:
        # Reads that ended in time have left the timer as it was: it goes on from here, or stops where nobody reads.
        self._timer = None
        reader = self._reader
        if reader is None or reader.done():
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            self._set(loop)
        else:
            reader.set_exception(TimeoutError("nothing came in time"))

    async def write(self, data: bytes, timeout: float | None) -> None:
        """Send; wait while the peer does not take it.

        Raises:
            TimeoutError: it was not taken within `timeout` seconds.
            OSError: the connection broke.
        """
        if self.ended and self.error is not None:
            raise self.error
        self.transport.write(data)
        if self._drained is not None:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._drained)
            if self.error is not None:
                raise self.error

    def close(self) -> None:
        """Close, without waiting for the peer's word or for what it has not taken."""
        if self._timer is not None:
            self._timer.cancel()
        self.transport.close()
        self.transport.abort()


class Stream:
    """httpcore's stream over a connection."""

    def __init__(self, connection: Connection, core: Core) -> None:
        self._connection = connection
        self._core = core

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore."""
        with self._core.reading:
            return await self._connection.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore."""
        if buffer:
            wrote()
            with self._core.writing:
                await self._connection.write(buffer, timeout)

    def post(self, data: bytes) -> None:
        """Send, if it can be sent, and wait for nothing."""
        if not self._connection.transport.is_closing():
            self._connection.transport.write(data)

    async def aclose(self) -> None:
        """See httpcore."""
        self._connection.close()

    async def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None) -> Stream:
        """See httpcore."""
        connection = self._connection
        try:
            with self._core.connecting:
                async with asyncio.timeout(timeout):
                    connection.transport = await asyncio.get_running_loop().start_tls(
                        connection.transport, connection, ssl_context, server_hostname=server_hostname
                    )
        except BaseException:
            connection.close()
            raise
        return self

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        ask = self._connection.transport.get_extra_info
        match info:
            case "ssl_object" | "socket":
                return ask(info)
            case "client_addr":
                return ask("sockname")
            case "server_addr":
                return ask("peername")
            case "is_readable":
                # What the loop has not looked at yet counts too: the peer may have closed while it was busy.
                return self._connection.has_news or net.is_readable(ask("socket"))
        return None


async def connect(address: str, port: int, local: str | None) -> Connection:
    """A connection to an address, no name.

    Raises:
        OSError: there is none.
    """
    source = None if local is None else (local, 0)
    _, connection = await asyncio.get_running_loop().create_connection(Connection, address, port, local_addr=source)
    return connection


async def connect_unix(path: str) -> Connection:
    """A connection to a socket of the file system. Raises as `connect` does."""
    _, connection = await asyncio.get_running_loop().create_unix_connection(Connection, path)
    return connection
