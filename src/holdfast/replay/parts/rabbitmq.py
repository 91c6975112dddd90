"""RabbitMQ as a part: Debian's `rabbitmq-server`, run unmanaged by whoever we are.

    with rabbitmq_server() as server:
        pika.BlockingConnection(pika.URLParameters(server.url))
        server.suspend()        # SIGSTOP: its kernel still acknowledges and accepts, and nobody answers
        server.resume()
        server.kill()           # SIGKILL; what is durable is there after restart()
        server.restart()        # on the same port

Node name, ports, folders and cookie are its own. Erlang's port mapper (epmd), which a node would leave behind, is started beside it on a
port of its own and ended by its pid. It listens on 127.0.0.1 alone, unless told otherwise.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import which

from holdfast.replay.parts.process import Folder, Process, Server, Unavailable, accepts, free_port

_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
_CONTROL = Path("/usr/lib/rabbitmq/bin/rabbitmqctl")

HOW_TO_INSTALL = "there is no RabbitMQ: apt-get install -y --no-install-recommends rabbitmq-server"

# One line of its log says that listeners are open and definitions are loaded; the port alone is open a little earlier.
_STARTED = b"Server startup complete"
# And one that it has begun to take nothing; its connections are told right after.
_BLOCKED = b"memory resource limit alarm set"
_TOLD = 0.1

_SETTINGS = {
    "loopback_users": "none",  # the password is random, and the other side of a pair of namespaces is not the loopback
    "log.console": "true",
    "log.console.level": "info",
    "log.file": "false",
    "disk_free_limit.absolute": "50MB",
    "vm_memory_high_watermark.absolute": "1GB",
}


class RabbitServer(Server):
    """One broker, made by `rabbitmq_server`.

    Args:
        folder: private; its data and its log go there.
        host: the address it listens on.
        prefix: what goes before its commands, to run it elsewhere (`Namespaces.command`).
        settings: of `rabbitmq.conf`, beside the part's own.
    """

    def __init__(self, folder: Path, host: str, prefix: Sequence[str], settings: Mapping[str, str]) -> None:
        self.host = host
        self.port = free_port()
        self.password = secrets.token_hex(16)
        self._folder = folder
        self._prefix = [*prefix]
        self._log_before = 0
        mapper = free_port()
        own = {"listeners.tcp.1": f"{host}:{self.port}", "default_user": "holdfast", "default_pass": self.password}
        lines = [f"{name} = {value}" for name, value in {**_SETTINGS, **own, **settings}.items()]
        (folder / "rabbitmq.conf").write_text("\n".join([*lines, ""]))
        (folder / "environment.conf").touch()
        (folder / "plugins").write_text("[].")
        self._environment = _environment(folder, self.port, mapper)
        # In the foreground it stays ours; as a daemon, which the node would start, it outlives everybody.
        self._mapper = Process(
            [*prefix, which("epmd") or "epmd", "-address", "127.0.0.1", "-port", str(mapper)],
            name="epmd",
            folder=folder,
            ready=(lambda: True) if prefix else (lambda: accepts(mapper)),
        )
        self.process = Process(
            [*prefix, str(_SERVER)], name="rabbitmq", folder=folder, ready=self._started, environment=self._environment, within=60.0
        )

    @property
    def url(self) -> str:
        """For pika and aio-pika; with the password."""
        return self.url_at(self.host, self.port)

    def url_at(self, host: str, port: int) -> str:
        """The same at another address: a proxy's in front of it."""
        return f"amqp://holdfast:{self.password}@{host}:{port}/%2F"

    @property
    def pid(self) -> int:
        """Of the Erlang machine that is the broker."""
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it has started up."""
        if not self._mapper.running:
            self._mapper.start()
        self._log_before = self.process.log.stat().st_size if self.process.log.exists() else 0
        self.process.start()

    def stop(self) -> None:
        """End it in order, then its port mapper. Ending it again does nothing."""
        self.process.stop(grace=15.0)
        self._mapper.stop()

    def restart(self) -> None:
        """Start it again on the same port with the same data, ended first where it runs."""
        self.process.stop(grace=15.0)
        self.start()

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` with these arguments; about a second. What it printed.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        command = [*self._prefix, str(_CONTROL), "--quiet", *arguments]
        environment = {**os.environ, **self._environment}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout  # noqa: S603  (our own command)

    def block(self) -> None:
        """Let it run out of memory, as far as it can tell: connections that publish are blocked until `unblock`."""
        before, give_up = self.process.log.stat().st_size, time.monotonic() + 5.0
        self.control("set_vm_memory_high_watermark", "0")
        while not self._said(_BLOCKED, before) and time.monotonic() < give_up:
            time.sleep(0.01)
        time.sleep(_TOLD)

    def unblock(self) -> None:
        """Give the memory back."""
        self.control("set_vm_memory_high_watermark", "absolute", "1GB")

    def _started(self) -> bool:
        return self._said(_STARTED, self._log_before)

    def _said(self, line: bytes, since: int) -> bool:
        with self.process.log.open("rb") as log:
            log.seek(since)
            return line in log.read()


def _environment(folder: Path, port: int, mapper: int) -> dict[str, str]:
    listen = "-kernel inet_dist_use_interface {127,0,0,1}"
    return {
        "HOME": str(folder),  # the cookie's place
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"holdfast-{port}@localhost",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "environment.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-start_epmd false {listen} +S 2:2",
        # Its script then becomes the server instead of waiting for it as a child: signals to the pid reach the broker itself.
        "RUNNING_UNDER_SYSTEMD": "true",
    }


@contextlib.contextmanager
def rabbitmq_server(
    *, host: str = "127.0.0.1", prefix: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> Iterator[RabbitServer]:
    """A broker of our own, empty, on a private port.

    Args:
        host: the address it listens on.
        prefix: what goes before its commands, to run it elsewhere.
        settings: of `rabbitmq.conf`, such as `{"listeners.ssl.1": "127.0.0.1:5671"}`.

    Raises:
        Unavailable: there is none on this machine; with how to install it.
        StartFailed: it did not start.
    """
    if not _SERVER.exists() or which("epmd") is None:
        raise Unavailable(HOW_TO_INSTALL)
    with Folder("rabbitmq") as folder:
        server = RabbitServer(folder, host, prefix, settings or {})
        try:
            server.start()
            yield server
        finally:
            server.stop()
