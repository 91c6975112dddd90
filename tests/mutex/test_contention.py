"""8 processes contend for one lock and are stopped past its ttl: the guarded table never accepts two tokens out of order.

`HOLDFAST_LOCK_ROUNDS=1000` runs it at full size.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

pytestmark = pytest.mark.realtime

ROUNDS = int(os.environ.get("HOLDFAST_LOCK_ROUNDS", "30"))
PROCESSES = 8
TTL = 0.3


@pytest.mark.timeout(540)
@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_no_two_tokens_are_accepted_out_of_order(kind, request, postgres):
    """In the order in which the table took them, accepted tokens only grow; what a stopped holder wrote late was refused."""
    store = request.getfixturevalue("redis").url if kind == "redis" else postgres.url
    with psycopg.connect(postgres.url, autocommit=True) as table:
        table.execute("drop table if exists guarded, journal")
        table.execute("create table guarded (value bigint, token bigint)")
        table.execute("insert into guarded values (0, 0)")
        table.execute("create table journal (token bigint, value bigint)")
        script = str(Path(__file__).with_name("contend.py"))
        command = [sys.executable, script, store, postgres.url, str(ROUNDS), str(TTL)]
        workers = [subprocess.Popen(command) for _ in range(PROCESSES)]
        try:
            _wake_until_done(workers)
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        assert [worker.returncode for worker in workers] == [0] * PROCESSES
        accepted = [token for (token,) in table.execute("select token from journal where value is not null order by value")]
        refused = table.execute("select count(*) from journal where value is null").fetchone()[0]
    assert len(accepted) == ROUNDS
    assert accepted == sorted(set(accepted))
    print(f"{kind}: {len(accepted)} accepted in order, {refused} late ones refused")  # noqa: T201  (the figure of the full-size run)


def _wake_until_done(workers):
    stopped = {}
    end = time.monotonic() + 500
    while any(worker.poll() is None for worker in workers) and time.monotonic() < end:
        now = time.monotonic()
        for worker in workers:
            if worker.poll() is None and _is_stopped(worker.pid):
                if now - stopped.setdefault(worker.pid, now) > TTL * 1.5:
                    stopped.pop(worker.pid)
                    os.kill(worker.pid, signal.SIGCONT)
        time.sleep(0.02)


def _is_stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
