"""A TCP connection in asyncio, by whichever of the host's addresses answers first, 250 ms apart (RFC 8305).

Whoever calls it bounds it: by `async with holdfast.deadline(...)`, a policy, or `asyncio.timeout`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

from holdfast.net.dns import AddressInfo, agetaddrinfo
from holdfast.net.eyeballs import STREAM, SocketOptions, interleave

_STAGGER = 0.25


class _Closes(Protocol):
    def close(self) -> object: ...


A = TypeVar("A")
C = TypeVar("C", bound=_Closes)


async def aconnect(address: tuple[str, int], options: SocketOptions = ()) -> socket.socket:
    """Connect to a host and port.

    Args:
        address: host (a name or an address) and port.
        options: for `setsockopt`, before connecting.

    Returns:
        A socket that does not block, for `asyncio.open_connection(sock=...)`.

    Raises:
        OSError: the look-up failed, or no address accepts; then the error of the last.
    """
    return await first_connected(interleave(await agetaddrinfo(*address, type=STREAM)), partial(_attempt, options))


async def first_connected(addresses: Iterable[A], connect: Callable[[A], Coroutine[Any, Any, C]]) -> C:
    """The connection to whichever address answers first; the others are closed, should they come to be.

    Args:
        addresses: in the order in which they are tried.
        connect: connects to one.

    Raises:
        Exception: none accepts; what the last one raised.
    """
    waiting = [*addresses]
    if len(waiting) == 1:
        return await connect(waiting[0])
    tasks: set[asyncio.Task[C]] = set()
    failure: BaseException = OSError("the host has no address")
    try:
        while waiting or tasks:
            if waiting:
                tasks.add(asyncio.create_task(connect(waiting.pop(0))))
            done, _ = await asyncio.wait(tasks, timeout=_STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                tasks.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                failure = error
        raise failure
    finally:
        await _give_up(tasks)


async def _attempt(options: SocketOptions, info: AddressInfo) -> socket.socket:
    family, kind, proto, _, where = info
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        for level, name, value in options:
            sock.setsockopt(level, name, value)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def _give_up(tasks: set[asyncio.Task[C]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(result, BaseException):  # it connected just as it lost
            result.close()
