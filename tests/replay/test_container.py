"""A container, as far as the replay needs one: killed beyond its memory, and started again."""

from __future__ import annotations

import http.client
import time
from functools import partial
from pathlib import Path

import pytest

from holdfast.replay.parts.container import Container, MemoryLimit
from holdfast.replay.parts.gunicorn import Gunicorn
from holdfast.replay.parts.process import accepts
from watching import soon

pytestmark = pytest.mark.realtime

GREEDY = """
import os, threading, time
from functools import partial
from pathlib import Path

def take():
    taken = []
    while (Path(__file__).parent / "greedy").exists():
        taken.append(b"x" * 2**22)
        time.sleep(0.002)

def app(environ, start_response):
    threading.Thread(target=take, daemon=True).start()
    start_response("200 OK", [])
    return [b""]
"""


eventually = partial(soon, within=20.0)


@pytest.mark.parametrize("kernel", [True, False])
def test_it_is_killed_beyond_its_memory_and_started_again(tmp_path: Path, kernel: bool) -> None:
    """By the kernel where this user may make cgroups, else by the watchdog; either way all of it, and somebody knows why."""
    (tmp_path / "greedy_app.py").write_text(GREEDY)
    (tmp_path / "greedy").touch()
    fresh: list[float] = []
    with MemoryLimit(256 * 2**20, "test", kernel=kernel) as limit:
        assert limit.kind == "watchdog" or kernel
        server = Gunicorn("greedy_app:app", workers=2, folder=tmp_path, environment={"PYTHONPATH": str(tmp_path)}, config=limit.joining)
        with Container(server, limit, delay=0.5, fresh=lambda: fresh.append(time.monotonic())) as container:
            before = server.process.pid
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request("GET", "/")
            connection.getresponse().read()
            connection.close()
            assert eventually(lambda: container.starts)
            (tmp_path / "greedy").unlink()
            assert container.starts[0].out_of_memory
            assert eventually(lambda: len(fresh) == 2 and server.process.pid != before and accepts(server.port))
            assert eventually(lambda: limit.used() > 0)
    assert [one.out_of_memory for one in container.starts] == [True, False]
    assert eventually(lambda: not accepts(server.port))  # killed processes leave a moment later
