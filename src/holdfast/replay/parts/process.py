"""A server's process: started in a folder of its own, waited for until it answers, ended by its pid and never by its name.

It is started in a session of its own, so that Ctrl-C in the terminal reaches only us and we end things in order; and with a signal
that the kernel sends it should we die first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self


class Unavailable(Exception):
    """This machine cannot run a part. The message says what is missing and how to get it."""


class StartFailed(Exception):
    """A server ended or did not answer in time. The message ends with the last lines of its log."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, and that the kernel gives to nobody for a while, but who asks for it by its number.

    A connection that was closed from this end keeps it, for a minute on Linux; servers listen all the same, by SO_REUSEADDR.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        listener.accept()[0].close()
        client.recv(1)  # it is closed first there, and not here
        port: int = listener.getsockname()[1]
        return port


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


class Folder:
    """A private folder that is gone afterwards."""

    def __init__(self, name: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=f"holdfast-{name}-"))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class Process:
    """One server.

    Args:
        command: program and arguments.
        name: for messages and the log's name.
        folder: where it runs and where `<name>.log` goes.
        ready: asked until it is true; it must not wait long itself.
        environment: added to ours.
        within: seconds that a start may take.
        death_signal: what the kernel sends it if the thread that started it ends first (Linux, with setpriv).
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        folder: Path,
        ready: Callable[[], bool] = lambda: True,
        environment: Mapping[str, str] | None = None,
        within: float = 30.0,
        death_signal: str = "KILL",
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [*_dying_with_us(death_signal), *command]
        self._folder = folder
        self._ready = ready
        self._environment = {**os.environ, **(environment or {})}
        self._within = within
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process.

        Raises:
            RuntimeError: it was not started.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start it and wait until it is ready.

        Raises:
            StartFailed: it ended or was not ready in time; nothing of it is left.
        """
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own command)
                self._command,
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + self._within
        while not self._ready():
            if not self.running:
                raise StartFailed(f"{self.name} ended while it started:\n{self.tail()}")
            if time.monotonic() > give_up:
                raise StartFailed(f"{self.name} did not answer within {self._within:g} s:\n{self.tail()}")
            time.sleep(0.02)

    def tail(self, lines: int = 20) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, and only to it. SIGSTOP has stopped all its threads when this returns."""
        os.kill(self.pid, number)
        give_up = time.monotonic() + 5.0
        while number == signal.SIGSTOP and not _has_stopped(self.pid) and time.monotonic() < give_up:
            time.sleep(0.001)

    def stop(self, grace: float = 5.0) -> None:
        """End it: SIGTERM, and SIGKILL for its whole session after `grace` seconds. Ending it again does nothing."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGCONT)  # a stopped one would not hear the next
            os.kill(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """SIGKILL for it and everything it started that stayed in its session's group."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()


class Server:
    """A server that is one process, which can be silenced, killed and started again."""

    process: Process

    def suspend(self) -> None:
        """SIGSTOP: its kernel still acknowledges and accepts, and nobody answers."""
        self.process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL: connections are reset, and new ones refused."""
        self.process.kill()

    def restart(self) -> None:
        """Start it again on the same port, ended first where it runs."""
        self.process.stop()
        self.process.start()


def _has_stopped(pid: int) -> bool:
    # The kernel tells a parent when the last thread has; WNOWAIT leaves the end of a process to Popen.
    return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _dying_with_us(death_signal: str) -> list[str]:
    # preexec_fn is not safe beside threads; util-linux has a program for it.
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", death_signal, "--"] if found else []
