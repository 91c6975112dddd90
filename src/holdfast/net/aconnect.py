"""`connect` for asyncio: a connected socket by whichever of the host's addresses answers first, 250 ms apart (RFC 8305).

Whoever calls it bounds it: by `async with holdfast.deadline(...)`, a policy, or `asyncio.timeout`.
"""

from __future__ import annotations

import asyncio
import socket

from holdfast.net.dns import AddressInfo, agetaddrinfo
from holdfast.net.eyeballs import STREAM, SocketOptions, interleave

_STAGGER = 0.25


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
    waiting = interleave(await agetaddrinfo(*address, type=STREAM))
    tasks: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError(f"{address[0]!r} has no address")
    try:
        while waiting or tasks:
            if waiting:
                tasks.add(asyncio.create_task(_attempt(waiting.pop(0), options)))
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


async def _attempt(info: AddressInfo, options: SocketOptions) -> socket.socket:
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


async def _give_up(tasks: set[asyncio.Task[socket.socket]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, socket.socket):  # it connected just as it lost
            result.close()
