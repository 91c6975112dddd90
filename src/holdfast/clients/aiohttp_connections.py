"""Connections of aiohttp: names are looked up by holdfast, and a body that has come whole asks the connection for nothing more."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from time import monotonic
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection

from holdfast.clients.exchange import CONNECT_TIMEOUT
from holdfast.net import agetaddrinfo, is_readable
from holdfast.validation import positive_seconds


class Resolver(AbstractResolver):
    """Name look-up for an `aiohttp.TCPConnector` in threads of holdfast's: aiohttp's own default runs in the loop's executor, for which
    `asyncio.run` waits at its end.

    Args:
        timeout: seconds for a look-up, > 0. aiohttp leaves it to a task that outlives the calls which gave up on it.
    """

    def __init__(self, timeout: float = CONNECT_TIMEOUT) -> None:
        self._timeout = positive_seconds("Resolver.timeout", timeout)

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """See aiohttp."""
        found: list[ResolveResult] = []
        async with asyncio.timeout(self._timeout):
            answer = await agetaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
        for kind, _, proto, _, address in answer:
            if kind == socket.AF_INET6 and len(address) < 4:
                continue  # a Python without IPv6
            # Asked for in numbers this does not wait; it writes the scope of a link-local address.
            numeric, _ = socket.getnameinfo(cast("tuple[str, int]", address), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            found.append(ResolveResult(hostname=host, host=numeric, port=cast("int", address[1]), family=kind, proto=proto, flags=flags))
        return found

    async def close(self) -> None:
        """There is nothing to close: the threads are the process's."""


class _Protocol(ResponseHandler):
    """aiohttp's, which tells transport and parser to go on at a body's end, and again when it is read, though nobody held them back."""

    def resume_reading(self, *resume_parser: Any, **named: Any) -> None:
        """See aiohttp."""
        body = cast("Any", self._payload)
        if self._reading_paused or body.__class__ is not aiohttp.StreamReader or not body._eof:
            super().resume_reading(*resume_parser, **named)


class Connector(aiohttp.TCPConnector):
    """aiohttp's connector as a session of ours makes it where the user brings none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = cast("partial[ResponseHandler]", partial(_Protocol, loop=self._loop))

    def reuse(self, key: ConnectionKey) -> Connection | None:
        """The connection to which a request goes that need not wait for one; None where that is not plain to see."""
        idle = self._conns.get(key)
        if not idle or self._limit_per_host or self._closed:
            return None
        protocol, since = idle[0]
        lasts = self._keepalive_timeout
        transport = protocol.transport
        if transport is None or not protocol.is_connected() or (lasts is not None and monotonic() - since > lasts):
            return None
        if is_readable(transport.get_extra_info("socket")):  # the peer has closed it, and the loop was busy meanwhile
            protocol.close()
            return None
        idle.popleft()
        if not idle:
            del self._conns[key]
        self._acquired.add(protocol)
        return Connection(self, key, protocol, self._loop)
