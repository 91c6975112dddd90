"""How asyncpg reaches a server: through its event loop, which looks names up in the loop's own threads.

`asyncio.run` waits for those at the end, and so for a resolver that says nothing. `Connecting` stands in the loop's place while asyncpg
connects, and makes the connection as this package's other clients do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from holdfast.net import TcpOptions
from holdfast.net.async_eyeballs import aconnect


class Connecting:
    """The running event loop, whose connections to a host are made by `holdfast.net`.

    Args:
        dead_after: seconds after which a vanished server is noticed.
    """

    def __init__(self, dead_after: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._options = TcpOptions(dead_after=dead_after).as_list()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int, *, ssl: Any = None) -> tuple[Any, Any]:
        """See asyncio."""
        sock = await aconnect((host, port), self._options)
        protocol = factory()
        try:
            return await self._loop.create_connection(lambda: protocol, sock=sock, ssl=ssl, server_hostname=host if ssl else None)
        except BaseException:
            sock.close()
            answer = getattr(protocol, "on_data", None)  # of the server, to whether it has TLS: nobody waits for it any more
            if answer is not None:
                answer.add_done_callback(forget)
            raise


def forget(future: asyncio.Future[Any]) -> None:
    """Ask for its error, so that asyncio does not report it as lost."""
    if not future.cancelled():
        future.exception()
