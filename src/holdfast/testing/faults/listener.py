"""The listening side of a proxy, which can be closed and opened again without losing its port."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from holdfast.testing.faults.connection import Resolved

_BACKLOG = 1024

# Seconds until the next try when accept fails, mostly for want of file descriptors.
_AGAIN = 0.1


class Listener:
    """A port of ours: bound all the time, listening when `open`.

    Args:
        address: where, with port 0 for any free one.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(self, address: Resolved) -> None:
        self._family = address[0]
        self._socket = _bound(address)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._bound_to: Resolved = (address[0], self._socket.getsockname())
        self._listening = False

    def open(self) -> None:
        """Let connects in; the kernel keeps them until somebody accepts."""
        if not self._listening:
            self._socket.listen(_BACKLOG)
            self._listening = True

    def refuse(self, accepted: Callable[[socket.socket], None]) -> None:
        """Refuse connects. The port stays ours: a socket that is bound to it and does not listen holds it."""
        if self._listening:
            # To their clients, the ones that the kernel still keeps are made.
            while (client := self._accept()) is not None:
                accepted(client)
            self.close()
            self._socket = _bound(self._bound_to)

    def serve(self, loop: asyncio.AbstractEventLoop, accepted: Callable[[socket.socket], None]) -> None:
        """Call `accepted` with each connection from now on."""
        if self._listening:
            loop.add_reader(self._socket, self._serve_one, loop, accepted)

    def pause(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept nothing more."""
        if self._socket.fileno() >= 0:
            loop.remove_reader(self._socket)

    def close(self) -> None:
        """Give up the socket."""
        self._listening = False
        self._socket.close()

    def _serve_one(self, loop: asyncio.AbstractEventLoop, accepted: Callable[[socket.socket], None]) -> None:
        try:
            client = self._accept()
        except OSError:
            self.pause(loop)
            loop.call_later(_AGAIN, self.serve, loop, accepted)
            return
        if client is not None:
            accepted(client)

    def _accept(self) -> socket.socket | None:
        try:
            client, _ = self._socket.accept()
        except BlockingIOError:  # nobody is there, or not any more
            return None
        client.setblocking(False)
        return client


def _bound(address: Resolved) -> socket.socket:
    made = socket.socket(address[0], socket.SOCK_STREAM)
    try:
        # Connections of an earlier listener may still have the port.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setblocking(False)
        made.bind(address[1])
    except BaseException:
        made.close()
        raise
    return made
