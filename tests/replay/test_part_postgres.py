"""PostgreSQL as a part, where the tests are root's and its processes are not."""

import shutil
from pathlib import Path

import psycopg
import pytest

from holdfast.replay.parts import postgres


def test_it_starts_from_a_virtual_environment_that_only_its_owner_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = postgres._binaries().parent.parent
    for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if part.is_dir():
            shutil.copytree(part, tmp_path / part.name, ignore=shutil.ignore_patterns("include"))
    tmp_path.chmod(0o700)
    monkeypatch.setattr(postgres, "_binaries", lambda: tmp_path / wheel.name / "pginstall/bin")
    with postgres.postgres_server() as server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
