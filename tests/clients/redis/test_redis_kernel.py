"""A kernel that drops packets without a word, between two network namespaces: idle and in flight, with a deadline and without."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.replay.parts.namespaces import Namespaces
from holdfast.replay.parts.process import Process
from holdfast.replay.parts.redis import find_redis

pytestmark = pytest.mark.realtime

DEAD = 2.0
ADDRESS = "10.77.0.2"

# It connects, says so, waits to be told that the wire is cut, and tells how long its command took to fail.
CLIENT = """
import asyncio, sys, time, contextlib
import holdfast
from holdfast.clients.redis import from_url, async_from_url
kind, idle, limit = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
with asyncio.Runner() as runner:
    client = (from_url if kind == "sync" else async_from_url)("redis://10.77.0.2:6379/0", dead_after=2.0)
    async def ask():
        with holdfast.deadline(limit):
            return await client.get("a")
    def once():
        if kind == "async":
            return runner.run(ask())
        with holdfast.deadline(limit):
            return client.get("a")
    once()
    print("connected", flush=True)
    sys.stdin.readline()
    time.sleep(idle)
    began = time.monotonic()
    try:
        once()
        print("answered", flush=True)
    except Exception as error:
        print(time.monotonic() - began, type(error).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespaces]:
    folder = tmp_path_factory.mktemp("far")
    with Namespaces() as made:
        command = [str(find_redis()), "--port", "6379", "--bind", ADDRESS, "--protected-mode", "no", "--save", "", "--dir", str(folder)]
        with Process(made.command(made.far, command), name="redis", folder=folder):
            time.sleep(0.5)
            yield made


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("idle", "limit", "bar"), [(0.0, 1.0, 1.1), (0.0, 30.0, DEAD + 1.0), (DEAD + 1.0, 30.0, DEAD + 1.0)])
def test_a_kernel_that_drops_is_noticed_in_time(net: Namespaces, tmp_path: Path, kind: str, idle: float, limit: float, bar: float):
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    command = net.command(net.near, [sys.executable, str(script), kind, str(idle), str(limit)])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            assert client.stdout.readline() == "connected\n"
            net.drop()
            client.stdin.write("\n")
            client.stdin.flush()
            took, _ = client.stdout.readline().split()
            assert float(took) < bar
        finally:
            net.mend()
            client.kill()
