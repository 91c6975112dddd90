"""The network below httpx (httpcore's backend interface): connections that obey the ambient deadline, and notice the first byte written."""

from __future__ import annotations

import asyncio
import importlib
import math
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, TypeVar

from holdfast import net
from holdfast.clients import httpx_asyncio
from holdfast.clients.exchange import wrote
from holdfast.clients.httpx_errors import Core
from holdfast.net.async_eyeballs import first_connected
from holdfast.net.clamp import alone
from holdfast.net.dns import AddressInfo
from holdfast.net.sockets import receive_plain, receive_tls, sendall_plain

Options = Iterable[tuple[Any, ...]]

P = ParamSpec("P")
R = TypeVar("R")


class Backend:
    """Blocking connections.

    Args:
        core: whose errors they raise.
        fragile: whether a connection is closed when an operation on it fails. httpcore does that itself, save for SOCKS: a proxy that
            falls silent in its greeting would leave the connection open.
    """

    def __init__(self, core: Core, fragile: bool = False) -> None:
        self._core = core
        self._fragile = fragile

    def for_socks(self) -> Backend:
        """The same below a SOCKS proxy."""
        return Backend(self._core, fragile=True)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options | None = None,
    ) -> Stream:
        """See httpcore: TCP to the host, name look-up included, within the timeout and the deadline."""
        source = (local_address, 0) if local_address is not None else None
        options = [(level, name, value) for level, name, value in socket_options or ()]
        with self._core.connecting:
            sock = net.connect((host, port), timeout, source, [*net.NO_DELAY, *options])
        return Stream(sock, self._core, self._fragile)

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Options | None = None) -> Stream:
        """See httpcore."""
        with self._core.connecting:
            sock = net.Socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                for level, name, value in socket_options or ():
                    sock.setsockopt(level, name, value)
                sock.settimeout(timeout)
                sock.connect(path)
            except BaseException:
                sock.close()
                raise
        return Stream(sock, self._core)

    def sleep(self, seconds: float) -> None:
        """See httpcore: between its own attempts to connect."""
        from holdfast.drivers.clock import current

        current.get().sleep(seconds)


class Stream:
    """One blocking connection."""

    def __init__(self, sock: net.Socket | net.TLSSocket, core: Core, fragile: bool = False) -> None:
        self._sock = sock
        self._core = core
        if fragile:
            self.read = _closing(self.read, self.close)  # type: ignore[method-assign]  # for this one stream
            self.write = _closing(self.write, self.close)  # type: ignore[method-assign]  # for this one stream
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._receive: Any = receive_tls if type(sock) is net.TLSSocket else receive_plain if not self._is_tls else type(sock).recv

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore."""
        with self._core.reading:
            data: bytes = alone(self._sock, timeout, self._receive, max_bytes)
            return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore."""
        if buffer:
            wrote()
            with self._core.writing:
                if self._is_tls:
                    self._sock.settimeout(timeout)
                    self._sock.sendall(buffer)
                else:
                    alone(self._sock, timeout, sendall_plain, buffer)

    def close(self) -> None:
        """See httpcore."""
        self._sock.close()

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        """See httpcore."""
        try:
            with self._core.connecting:
                self._sock.settimeout(timeout)
                if isinstance(self._sock, ssl.SSLSocket):  # through an HTTPS proxy
                    sync = importlib.import_module(f"{self._core.library.__name__}._backends.sync")
                    return sync.TLSinTLSStream(self._sock, ssl_context, server_hostname, timeout)
                return Stream(net.wrap_tls(self._sock, ssl_context, server_hostname), self._core)
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        sock = self._sock
        if info == "is_readable":
            return net.is_readable(sock)
        match info:
            case "ssl_object":
                return sock._sslobj if isinstance(sock, ssl.SSLSocket) else None  # type: ignore[attr-defined]  # httpcore asks it for ALPN
            case "client_addr":
                return sock.getsockname()
            case "server_addr":
                return sock.getpeername()
            case "socket":
                return sock
        return None


def _closing(operation: Callable[P, R], close: Callable[[], object]) -> Callable[P, R]:
    def closing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return operation(*args, **kwargs)
        except BaseException:
            close()
            raise

    return closing


def _closing_async(operation: Callable[P, Awaitable[R]], close: Callable[[], Awaitable[object]]) -> Callable[P, Coroutine[Any, Any, R]]:
    async def closing(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await operation(*args, **kwargs)
        except BaseException:
            await close()
            raise

    return closing


class AsyncBackend:
    """Async connections: of our own for asyncio, and httpcore's for trio.

    Names are looked up where a deadline ends the wait and nothing waits for it later.

    Args:
        core: whose errors they raise.
        fragile: see `Backend`.
    """

    def __init__(self, core: Core, fragile: bool = False) -> None:
        self._core = core
        self._fragile = fragile
        self._others: Any = None

    def for_socks(self) -> AsyncBackend:
        """The same below a SOCKS proxy."""
        return AsyncBackend(self._core, fragile=True)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options | None = None,
    ) -> Any:
        """See httpcore."""
        if not _in_asyncio():
            return await self._connect_other(host, port, timeout, local_address, socket_options)
        with self._core.connecting:
            async with asyncio.timeout(timeout):
                found = await net.agetaddrinfo(host, port, 0, net.STREAM)
                addresses = [str(info[4][0]) for info in net.interleave(found)]
                connection = await first_connected(addresses, lambda each: httpx_asyncio.connect(each, port, local_address))
        return self._stream(connection, socket_options)

    async def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Options | None = None) -> Any:
        """See httpcore."""
        if not _in_asyncio():
            return _OtherStream(await self._other().connect_unix_socket(path, timeout, socket_options), self._core)
        with self._core.connecting:
            async with asyncio.timeout(timeout):
                connection = await httpx_asyncio.connect_unix(path)
        return self._stream(connection, socket_options)

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await (asyncio.sleep(seconds) if _in_asyncio() else self._other().sleep(seconds))

    def _stream(self, connection: httpx_asyncio.Connection, options: Options | None) -> Any:
        for option in options or ():
            connection.transport.get_extra_info("socket").setsockopt(*option)
        stream: Any = httpx_asyncio.Stream(connection, self._core)
        if self._fragile:
            stream.read = _closing_async(stream.read, stream.aclose)
            stream.write = _closing_async(stream.write, stream.aclose)
        return stream

    def _other(self) -> Any:
        if self._others is None:
            self._others = importlib.import_module(f"{self._core.library.__name__}._backends.auto").AutoBackend()
        return self._others

    async def _connect_other(self, host: str, port: int, timeout: float | None, local_address: str | None, options: Options | None) -> Any:
        import trio

        began = trio.current_time()
        # trio will ask again, and be answered at once: what hangs, hangs in our threads, and not in its 40.
        found: list[AddressInfo] = []
        with self._core.connecting, trio.move_on_after(math.inf if timeout is None else timeout):
            found = await net.agetaddrinfo(host, port, 0, net.STREAM)
        if not found:
            raise self._core.library.ConnectTimeout(f"no address of {host} in {timeout} s")
        address = str(found[0][4][0]) if len(found) == 1 else host
        left = None if timeout is None else max(0.0, timeout - (trio.current_time() - began))
        stream: Any = _OtherStream(await self._other().connect_tcp(address, port, left, local_address, options), self._core)
        if self._fragile:
            stream.read = _closing_async(stream.read, stream.close)
            stream.write = _closing_async(stream.write, stream.close)
        return stream


def _in_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _OtherStream:
    """A stream of httpcore's that notices the first byte written."""

    def __init__(self, inner: Any, core: Core) -> None:
        self._inner = inner
        self._core = core
        self.read = inner.read  # no layer of ours where there is nothing to add
        self.aclose = inner.aclose
        self.get_extra_info = inner.get_extra_info

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore."""
        if buffer:
            wrote()
        await self._inner.write(buffer, timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _OtherStream:
        """See httpcore."""
        try:
            return _OtherStream(await self._inner.start_tls(ssl_context, server_hostname, timeout), self._core)
        except BaseException:
            await self.close()  # httpcore closes it where the handshake fails, and not where it is cancelled
            raise

    async def close(self) -> None:
        """Close it, also where the task has been cancelled."""
        shielded = importlib.import_module(f"{self._core.library.__name__}._synchronization").AsyncShieldCancellation
        with shielded():
            await self._inner.aclose()
