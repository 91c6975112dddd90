"""Servers of our own start, answer, and end, and nothing of them is left."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from holdfast.replay.parts.process import Folder, Process, StartFailed, accepts, free_port

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def gone(pid):
    """Whether it has ended; who is to bury an orphan may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_for(condition, seconds=5.0):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_folder_is_private_and_gone_afterwards():
    with Folder("test") as path:
        assert path.stat().st_mode & 0o777 == 0o700
        (path / "file").touch()
    assert not path.exists()


def test_a_process_is_ended_with_its_block_even_when_stopped(tmp_path):
    with Process(SLEEP, name="sleeper", folder=tmp_path) as process:
        pid = process.pid
        assert process.running
        process.send(signal.SIGSTOP)
    assert gone(pid)
    process.stop()  # again: nothing


def test_what_ignores_sigterm_is_killed_with_its_children(tmp_path):
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    process = Process(
        [sys.executable, "-c", code], name="stubborn", folder=tmp_path, ready=lambda: (tmp_path / "stubborn.log").read_text() != ""
    )
    process.start()
    pid, child = process.pid, int(process.tail())
    process.stop(grace=0.2)
    assert gone(pid)
    wait_for(lambda: gone(child))


def test_one_that_ends_while_it_starts_is_an_error_with_its_last_words(tmp_path):
    process = Process([sys.executable, "-c", "raise SystemExit('no such port')"], name="failing", folder=tmp_path, ready=lambda: False)
    with pytest.raises(StartFailed, match="failing ended while it started:\nno such port"):
        process.start()


def test_one_that_never_answers_is_ended_and_an_error(tmp_path):
    process = Process(SLEEP, name="silent", folder=tmp_path, ready=lambda: False, within=0.3)
    with pytest.raises(StartFailed, match=r"silent did not answer within 0\.3 s"):
        process.start()
    assert not process.running
    assert gone(process.pid)


def test_an_interrupt_while_it_starts_leaves_nothing(tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    process = Process(SLEEP, name="sleeper", folder=tmp_path, ready=interrupt)
    with pytest.raises(KeyboardInterrupt):
        process.start()
    assert gone(process.pid)


def test_it_dies_with_us(tmp_path):
    code = (
        "import pathlib, sys, time\n"
        "from holdfast.replay.parts.process import Process\n"
        f"p = Process({SLEEP!r}, name='orphan', folder=pathlib.Path({str(tmp_path)!r})).start()\n"
        "print(p.pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    wait_for(lambda: gone(pid))


def test_ports_are_free_and_seen_when_taken():
    import socket

    port = free_port()
    assert not accepts(port)
    with socket.create_server(("127.0.0.1", port)):
        assert accepts(port)


def test_asking_for_the_pid_of_what_was_never_started_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="sleeper is not running"):
        _ = Process(SLEEP, name="sleeper", folder=tmp_path).pid
