"""gunicorn as a part: an application in worker processes, on a port of its own, ready when every worker is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from holdfast.replay.parts.process import Process, free_port

# The pool's figures are taken in every run, with holdfast and without: they watch, and guard nothing.
_SETTINGS = """
import holdfast.servers.gunicorn as pool

bind = "127.0.0.1:{port}"
workers = {workers}
proc_name = {pool!r}
control_socket_disable = True
when_ready = pool.when_ready
child_exit = pool.child_exit
{more}

def post_worker_init(worker):
    pool.post_worker_init(worker)
    open({folder!r} + f"/ready-{{worker.pid}}", "w").close()
"""


class Gunicorn:
    """One server; `process` starts and stops it, `pool` is its name for `holdfast.servers.workers.snapshot`.

    Args:
        app: "module:name".
        workers: how many.
        folder: for its configuration and log.
        environment: added to ours.
        config: more lines of its configuration file, which is Python.
        name: of its files.
    """

    def __init__(
        self,
        app: str,
        *,
        workers: int,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        config: str = "",
        name: str = "gunicorn",
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.workers = workers
        self.pool = f"{name}-{self.port}"
        self._folder = folder
        settings = folder / f"{name}.conf.py"
        settings.write_text(_SETTINGS.format(port=self.port, workers=workers, pool=self.pool, more=config, folder=str(folder)))
        command = [sys.executable, "-m", "gunicorn", "--config", str(settings), app]
        self.process = Process(command, name=name, folder=folder, environment=environment, ready=self._all_ready, within=60.0)

    def _all_ready(self) -> bool:
        return len(list(self._folder.glob("ready-*"))) >= self.workers

    def forget_workers(self) -> None:
        """Before it is started again: none of its workers is there."""
        for mark in self._folder.glob("ready-*"):
            mark.unlink()

    def cpu_seconds(self) -> float:
        """What master and workers used so far."""
        master = psutil.Process(self.process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (master, *master.children()))
