"""A broker that vanishes from the network without a word: every way in which the kernel loses packets, every client, idle and in flight."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.replay.parts.namespaces import Namespaces
from holdfast.replay.parts.rabbitmq import RabbitServer, rabbitmq_server

_PROGRAM = Path(__file__).parent / "waiting.py"
_DEAD_AFTER = 2.0


@pytest.fixture(scope="module")
def far_broker() -> Iterator[tuple[Namespaces, RabbitServer]]:
    with Namespaces() as net, rabbitmq_server(host=net.far.address, prefix=net.command(net.far, [])) as server:
        yield net, server


@pytest.mark.realtime
@pytest.mark.parametrize("fault", ["drop", "blackhole", "unplug"])
def test_a_vanished_broker_is_noticed_in_time_by_every_client(far_broker: tuple[Namespaces, RabbitServer], fault: str) -> None:
    net, server = far_broker
    waiting = {}
    for kind in ("pika", "aio-pika"):
        for how in ("idle", "flight"):
            command = net.command(net.near, [sys.executable, str(_PROGRAM), server.url, kind, how, str(_DEAD_AFTER)])
            waiting[kind, how] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for program in waiting.values():
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        getattr(net, fault)()
        for program in waiting.values():  # all at once: each counts from here
            assert program.stdin is not None
            program.stdin.write("go\n")
            program.stdin.flush()
        took = {what: float(program.communicate(timeout=20)[0]) for what, program in waiting.items()}
        assert all(seconds <= _DEAD_AFTER + 1.0 for seconds in took.values()), took
    finally:
        net.mend()
        for program in waiting.values():
            program.kill()
            program.communicate()
