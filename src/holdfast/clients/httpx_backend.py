"""The network below httpx (httpcore's backend interface): connections that obey the ambient deadline, and notice the first byte written."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import Any, TypeVar, cast

import httpcore
from httpcore._backends.auto import AutoBackend
from httpcore._synchronization import AsyncShieldCancellation

from holdfast import net
from holdfast.clients.exchange import wrote
from holdfast.net.clamp import alone
from holdfast.net.sockets import receive_plain, receive_tls, sendall_plain

T = TypeVar("T")

# Between attempts on a host's addresses, as in holdfast.net.
_STAGGER = 0.25

Options = Iterable[tuple[Any, ...]]


class Backend(httpcore.NetworkBackend):
    """Blocking connections."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options | None = None,
    ) -> httpcore.NetworkStream:
        """See httpcore: TCP to the host, name look-up included, within the timeout and the deadline."""
        source = (local_address, 0) if local_address is not None else None
        options = [(net_level, name, value) for net_level, name, value in socket_options or ()]
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
            sock = net.connect((host, port), timeout, source, [*net.NO_DELAY, *options])
        return _Stream(sock)

    def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Options | None = None) -> httpcore.NetworkStream:
        """See httpcore."""
        with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
            sock = net.Socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                for level, name, value in socket_options or ():
                    sock.setsockopt(level, name, value)
                sock.settimeout(timeout)
                sock.connect(path)
            except BaseException:
                sock.close()
                raise
        return _Stream(sock)

    def sleep(self, seconds: float) -> None:
        """See httpcore: between its own attempts to connect."""
        from holdfast.drivers.clock import current

        current.get().sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, sock: net.Socket | net.TLSSocket) -> None:
        self._sock = sock
        self._is_tls = isinstance(sock, ssl.SSLSocket)
        self._receive: Any = receive_tls if type(sock) is net.TLSSocket else receive_plain if not self._is_tls else type(sock).recv

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _READING:
            data: bytes = alone(self._sock, timeout, self._receive, max_bytes)
            return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            wrote()
            with _WRITING:
                if self._is_tls:
                    self._sock.settimeout(timeout)
                    self._sock.sendall(buffer)
                else:
                    alone(self._sock, timeout, sendall_plain, buffer, again=False)

    def close(self) -> None:
        self._sock.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            with _mapped(httpcore.ConnectTimeout, httpcore.ConnectError):
                self._sock.settimeout(timeout)
                if isinstance(self._sock, ssl.SSLSocket):  # through an HTTPS proxy
                    from httpcore._backends.sync import TLSinTLSStream

                    return TLSinTLSStream(self._sock, ssl_context, server_hostname, timeout)
                return _Stream(net.wrap_tls(self._sock, ssl_context, server_hostname))
        except BaseException:
            self.close()
            raise

    def get_extra_info(self, info: str) -> Any:
        sock = self._sock
        match info:
            case "ssl_object":
                return sock._sslobj if isinstance(sock, ssl.SSLSocket) else None  # type: ignore[attr-defined]  # httpcore asks it for ALPN
            case "client_addr":
                return sock.getsockname()
            case "server_addr":
                return sock.getpeername()
            case "socket":
                return sock
            case "is_readable":
                return net.is_readable(sock)
        return None


class _mapped:  # noqa: N801  (read as a word: `with _mapped(...)`)
    """An operation's timeout and failure become the client's own errors, with ours as their cause."""

    __slots__ = ("_failure", "_timeout")

    def __init__(self, timeout: type[Exception], failure: type[Exception]) -> None:
        self._timeout = timeout
        self._failure = failure

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, TimeoutError):
            raise self._timeout(str(error)) from error
        if isinstance(error, OSError):
            raise self._failure(str(error)) from error


_READING = _mapped(httpcore.ReadTimeout, httpcore.ReadError)
_WRITING = _mapped(httpcore.WriteTimeout, httpcore.WriteError)


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """Async connections: httpcore's own, but names are looked up where a deadline ends the wait and nothing waits for it later."""

    def __init__(self) -> None:
        self._inner = AutoBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Options | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        if not _in_asyncio():
            return _AsyncStream(await self._inner.connect_tcp(host, port, timeout, local_address, socket_options))
        try:
            async with asyncio.timeout(timeout):
                found = await net.agetaddrinfo(host, port, 0, net.STREAM)
                addresses = [str(info[4][0]) for info in net.interleave(found)]
                return _AsyncStream(await self._first(addresses, port, timeout, local_address, socket_options))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Options | None = None
    ) -> httpcore.AsyncNetworkStream:
        """See httpcore."""
        return _AsyncStream(await self._inner.connect_unix_socket(path, timeout, socket_options))

    async def sleep(self, seconds: float) -> None:
        """See httpcore."""
        await self._inner.sleep(seconds)

    async def _first(
        self, addresses: list[str], port: int, timeout: float | None, local: str | None, options: Options | None
    ) -> httpcore.AsyncNetworkStream:
        """The connection to whichever address answers first, 250 ms apart."""
        if len(addresses) == 1:
            return await self._inner.connect_tcp(addresses[0], port, timeout, local, options)
        tasks: set[asyncio.Task[httpcore.AsyncNetworkStream]] = set()
        failure: Exception = OSError("the host has no address")
        try:
            waiting = list(addresses)
            while waiting or tasks:
                if waiting:
                    tasks.add(asyncio.create_task(self._inner.connect_tcp(waiting.pop(0), port, timeout, local, options)))
                done, _ = await asyncio.wait(tasks, timeout=_STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    tasks.discard(task)
                    error = task.exception()
                    if error is None:
                        return task.result()
                    failure = cast("Exception", error)
            raise failure
        finally:
            await _give_up(tasks)


def _in_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False  # trio, whose look-ups a deadline ends by itself
    return True


async def _give_up(tasks: set[asyncio.Task[httpcore.AsyncNetworkStream]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, httpcore.AsyncNetworkStream):  # it connected just as it lost
            await result.aclose()


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner
        self.read = inner.read  # type: ignore[method-assign]  # no layer of ours where there is nothing to add
        self.aclose = inner.aclose  # type: ignore[method-assign]
        self.get_extra_info = inner.get_extra_info  # type: ignore[method-assign]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            wrote()
        await self._inner.write(buffer, timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return _AsyncStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))
        except BaseException:
            with AsyncShieldCancellation():  # httpcore closes it where the handshake fails, and not where it is cancelled
                await self._inner.aclose()
            raise
