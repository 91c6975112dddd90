"""One connection through the proxy: two streams, driven by one task."""

from __future__ import annotations

import asyncio
import math
import socket
import struct
from collections.abc import Sequence
from random import Random
from typing import Any, TypeAlias

from holdfast.testing.faults.fault import Direction, End, Fault, Talk
from holdfast.testing.faults.stream import Stream

# After a FIN in both directions, so many seconds for the ends to send theirs: a close with bytes unread would be a RST.
_LINGER = 1.0

# Family, and address as the socket functions take it: what getaddrinfo gives.
Resolved: TypeAlias = "tuple[int, tuple[Any, ...]]"


class Connection:
    """A client, and what it talks to.

    Args:
        client: the accepted socket, not blocking.
        upstream: where it is to be connected to; None where faults answer by themselves.
        rng: for what faults draw on this connection.
    """

    def __init__(self, client: socket.socket, upstream: Resolved | None, rng: Random) -> None:
        self._client = client
        self._address = upstream
        self._server = None if upstream is None else socket.socket(upstream[0], socket.SOCK_STREAM)
        self._rng = rng
        self._changed = asyncio.Event()
        self._talk = Talk()
        loop, wake = asyncio.get_running_loop(), self._changed.set
        self.up = Stream(loop, client, self._server, self._talk, up=True, wake=wake)
        self.down = Stream(loop, self._server, client, self._talk, up=False, wake=wake)
        self._linger_until = math.inf

    def switch(self, faults: Sequence[Fault]) -> None:
        """From now on, these faults."""
        streams: tuple[tuple[Stream, Direction], ...] = ((self.up, "up"), (self.down, "down"))
        for stream, _ in streams:
            stream.stages = []
        for fault in faults:
            # Each fault draws from numbers of its own, so that what one draws does not depend on what passes another.
            rng = Random(self._rng.getrandbits(64))
            if fault.befalls(rng):
                for stream, direction in streams:
                    stage = fault.stage(direction, self._talk, rng)
                    if stage is not None:
                        stream.stages.append(stage)
        self._changed.set()

    async def run(self) -> None:
        """Pass bytes until it is over. The sockets are left to `close`."""
        loop = asyncio.get_running_loop()
        try:
            await self._connect()
            self.up.start()
            self.down.start()
            while (again := self._step(loop.time())) is not None:
                timer = loop.call_at(again, self._changed.set) if again < math.inf else None
                await self._changed.wait()
                self._changed.clear()
                if timer is not None:
                    timer.cancel()
        except OSError:  # nobody upstream: to the client that is a connection which dies at once
            self._send_rst()

    async def _connect(self) -> None:
        # Each piece is to arrive when it is sent, not when the next one is.
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._server is not None and self._address is not None:
            self._server.setblocking(False)
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(self._server, self._address[1])

    def _step(self, now: float) -> float | None:
        """Do what can be done now. When to do it again, in the loop's seconds; None when it is over."""
        again = math.inf
        for stream in (self.up, self.down):
            decision = stream.step(now)
            if decision.end is End.RESET or self.up.broken or self.down.broken:
                self._send_rst()
                return None
            if decision.end is End.HALF:
                stream.shut()
            elif decision.end is End.CUT:
                self.up.shut()
                self.down.shut()
            elif not decision.size and decision.at == math.inf and self.up.ended:
                return None  # the client has given up, and nothing would ever tell it anything
            again = min(again, decision.at)
        if self._server is None and self.up.done and not self.down.ended:
            self.down.feed(b"")  # a server that is not there closes when its client does
            again = now
        if self.up.done and self.down.done:
            self._linger_until = min(self._linger_until, now + _LINGER)
            if (self.up.ended and self.down.ended) or now >= self._linger_until:
                return None
        return min(again, self._linger_until)

    def _send_rst(self) -> None:
        for side in (self._client, self._server):
            if side is not None:
                # Linger on, for 0 seconds: close() throws away what waits and sends a RST.
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Close both sockets."""
        self.up.stop()
        self.down.stop()
        for side in (self._client, self._server):
            if side is not None:
                side.close()
