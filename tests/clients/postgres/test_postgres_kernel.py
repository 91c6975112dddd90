"""A PostgreSQL whose packets the kernel drops without a word: every client, idle, in flight, and under a deadline."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.replay.parts.namespaces import Namespaces
from holdfast.replay.parts.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.realtime

_PROGRAM = Path(__file__).parent / "waiting.py"
_KINDS = ("psycopg", "psycopg-async", "asyncpg", "sqlalchemy", "sqlalchemy-async")
_DEAD_AFTER = 1.0
_BARS = {"flight": _DEAD_AFTER + 1.0, "idle": _DEAD_AFTER + 1.0, "deadline": 1.1}


@pytest.fixture(scope="module")
def far_server() -> Iterator[tuple[Namespaces, PostgresServer]]:
    with Namespaces() as net, postgres_server(host=net.far.address, prefix=net.command(net.far, [])) as server:
        server.allow_from("10.77.0.0/24")
        yield net, server


def test_a_vanished_server_is_noticed_in_time_by_every_client(far_server: tuple[Namespaces, PostgresServer]):
    net, server = far_server
    waiting = {}
    for kind in _KINDS:
        command = net.command(net.near, [sys.executable, str(_PROGRAM), server.url, kind, str(_DEAD_AFTER)])
        waiting[kind] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for program in waiting.values():
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        net.drop()
        for program in waiting.values():  # all at once: each counts from here
            assert program.stdin is not None
            program.stdin.write("go\n")
            program.stdin.flush()
        told = {kind: [line.split() for line in program.communicate(timeout=30)[0].splitlines()] for kind, program in waiting.items()}
        late = {(kind, *line) for kind, lines in told.items() for line in lines if float(line[1]) > _BARS[line[0]] or line[2] == "nothing"}
        assert [len(lines) for lines in told.values()] == [3] * len(_KINDS)
        assert not late
    finally:
        net.mend()
        for program in waiting.values():
            program.kill()
            program.communicate()
