"""Incident 2's servers: Valkey for the mutex, RabbitMQ for the receipts, and a Redis stream where there is no RabbitMQ."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from holdfast.replay.parts.namespaces import Namespaces
from holdfast.replay.parts.process import Process, Server, Unavailable
from holdfast.replay.parts.rabbitmq import RabbitServer, rabbitmq_server
from holdfast.replay.parts.redis import find_redis


class Valkey(Server):
    """A server on the far side. That is a network of its own, where every port is free.

    Args:
        net: the pair of namespaces.
        folder: for its files.
        name: of its files.
        port: where it listens.
    """

    def __init__(self, net: Namespaces, folder: Path, name: str, port: int) -> None:
        self.port = port
        self.url = f"redis://{net.far.address}:{port}/0"
        self._socket = folder / f"{name}.sock"  # from here its network is out of reach, and its files are not
        lines = [f"bind {net.far.address}", f"port {port}", f"unixsocket {self._socket}", "protected-mode no", f"dir {folder}"]
        settings = folder / f"{name}.conf"
        settings.write_text("\n".join([*lines, 'save ""', "appendonly yes", "appendfsync always", f"appendfilename {name}.aof", ""]))
        self.process = Process(net.command(net.far, [str(find_redis()), str(settings)]), name=name, folder=folder, ready=self._answers)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0.5)
            connection.connect(str(self._socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        return False


# Who takes the receipts.
Broker: TypeAlias = RabbitServer | Valkey


@contextlib.contextmanager
def broker(net: Namespaces, folder: Path) -> Iterator[tuple[Broker, str, str]]:
    """Who takes the receipts, what follows the names of the programs that speak to it, and why it is not RabbitMQ where it is not."""
    try:
        server = rabbitmq_server(host=net.far.address, prefix=net.command(net.far, []))
        started = server.__enter__()
    except Unavailable as missing:
        stream = Valkey(net, folder, "stream", 6380)
        with stream.process:
            yield stream, "_stream", str(missing)
        return
    with contextlib.ExitStack() as stack:
        stack.push(server.__exit__)
        yield started, "", ""
