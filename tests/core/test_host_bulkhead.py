"""Bulkhead(across="host"): one set of places for all processes of a machine."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from holdfast import Bulkhead, BulkheadFull, Policy
from holdfast.drivers import host

FORK = multiprocessing.get_context("fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def name():
    unique = f"test {uuid.uuid4()}/ä"
    yield unique
    (host.folder() / f"{host.quote(unique, safe='')}.bulkhead").unlink()


def held_elsewhere(name, limit=1):
    """A process that holds a place until its standard input ends."""
    code = (
        "import sys\n"
        "from holdfast import Bulkhead, Policy\n"
        f"with Policy({name!r}, bulkhead=Bulkhead({limit}, across='host')).guard():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def crowd(name, limit, running, most, refused, rounds):
    policy = Policy(name, bulkhead=Bulkhead(limit, across="host"))

    def call():
        with running.get_lock():
            running.value += 1
            most.value = max(most.value, running.value)
        os.sched_yield()
        with running.get_lock():
            running.value -= 1

    def many():
        for _ in range(rounds):
            try:
                policy.call(call)
            except BulkheadFull:
                with refused.get_lock():
                    refused.value += 1

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_processes_and_threads_together_never_take_more_than_the_limit(name):
    running, most, refused = FORK.Value("i", 0), FORK.Value("i", 0), FORK.Value("i", 0)
    processes = [FORK.Process(target=crowd, args=(name, 3, running, most, refused, 500)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert most.value == 3  # it was reached, so it was a limit
    assert running.value == 0
    assert 0 < refused.value < 4 * 4 * 500
    assert Policy(name, bulkhead=Bulkhead(3, across="host")).snapshot()["limit"] == {"limit": 3, "running": 0, "waiting": 0}


def test_a_place_of_another_process_is_seen_and_refused(name):
    policy = Policy(name, bulkhead=Bulkhead(1, across="host"))
    with held_elsewhere(name) as process:
        assert policy.snapshot()["limit"] == {"limit": 1, "running": 1, "waiting": 0}
        with pytest.raises(BulkheadFull):
            policy.call(int)
        process.communicate()
    assert policy.call(int) == 0


def test_a_killed_process_gives_its_place_back(name):
    policy = Policy(name, bulkhead=Bulkhead(1, across="host"))
    with held_elsewhere(name) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert policy.call(int) == 0


def test_a_stopped_process_keeps_its_place(name):
    policy = Policy(name, bulkhead=Bulkhead(1, across="host"))
    with held_elsewhere(name) as process:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(BulkheadFull):
            policy.call(int)
        process.send_signal(signal.SIGCONT)
        process.communicate()


def test_policies_of_one_name_in_one_process_share_the_places(name):
    one, other = (Policy(name, bulkhead=Bulkhead(2, across="host")) for _ in range(2))
    with one.guard(), other.guard():
        with pytest.raises(BulkheadFull):
            one.call(int)
    assert other.snapshot()["limit"]["running"] == 0


def test_a_smaller_limit_keeps_to_its_own_places(name):
    wide, narrow = Policy(name, bulkhead=Bulkhead(3, across="host")), Policy(name, bulkhead=Bulkhead(1, across="host"))
    with narrow.guard():
        with pytest.raises(BulkheadFull):
            narrow.call(int)
        with wide.guard(), wide.guard():
            with pytest.raises(BulkheadFull):
                wide.call(int)
        assert wide.snapshot()["limit"]["running"] == 1
        assert narrow.snapshot()["limit"]["running"] == 1


def test_a_fork_inherits_no_place_and_cannot_give_its_parents_back(name):
    policy = Policy(name, bulkhead=Bulkhead(2, across="host"))
    reading, writing = os.pipe()
    guard = policy.guard()
    guard.__enter__()
    child = os.fork()
    if child == 0:
        seen = [policy.snapshot()["limit"]["running"]]
        guard.__exit__(None, None, None)  # as an unwinding child would
        seen.append(policy.snapshot()["limit"]["running"])
        with policy.guard():
            seen.append(policy.snapshot()["limit"]["running"])
        os.write(writing, repr(seen).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        assert told.read() == "[1, 1, 2]"
    assert policy.snapshot()["limit"]["running"] == 1
    guard.__exit__(None, None, None)
    assert policy.snapshot()["limit"]["running"] == 0


async def _refused(policy):
    async with policy.guard():
        try:
            await policy.acall(_nothing)
        except BulkheadFull:
            return True
    return False


async def _nothing():
    return None


def test_async_calls_take_the_same_places(name):
    import asyncio

    policy = Policy(name, bulkhead=Bulkhead(1, across="host"))
    assert asyncio.run(_refused(policy))
    assert policy.snapshot()["limit"]["running"] == 0


def test_processes_with_another_run_dir_count_apart(name, tmp_path, monkeypatch):
    with held_elsewhere(name):
        monkeypatch.setenv("HOLDFAST_RUN_DIR", str(tmp_path))
        apart = Policy(name, bulkhead=Bulkhead(1, across="host"))
        monkeypatch.delenv("HOLDFAST_RUN_DIR")
        assert apart.call(int) == 0
        assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_others_may_write_to_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(host.os, "access", lambda *_: False)
    monkeypatch.setattr(host.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = tmp_path / f"holdfast-{os.geteuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="must be a directory that only user"):
        Policy("a", bulkhead=Bulkhead(1, across="host"))
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="must be a directory that only user"):
        Policy("a", bulkhead=Bulkhead(1, across="host"))


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "folder", lambda: tmp_path)
    (tmp_path / "linked.bulkhead").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Policy("linked", bulkhead=Bulkhead(1, across="host"))
    assert not Path(tmp_path / "elsewhere").exists()


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"Bulkhead\.across must be one of"):
        Bulkhead(1, across="cluster")
    with pytest.raises(ValueError, match=r"Bulkhead\.queue must be 0 with across='host'"):
        Bulkhead(1, queue=1, wait=1.0, across="host")
    with pytest.raises(ValueError, match=r"Bulkhead\.wait must be 0 with across='host'"):
        Bulkhead(1, wait=1.0, across="host")
    with pytest.raises(ValueError, match="at most 200 bytes"):
        Policy("x" * 201, bulkhead=Bulkhead(1, across="host"))


def test_it_says_so_in_words(name):
    assert "at most 3 at once on this machine, nobody waits" in Policy(name, bulkhead=Bulkhead(3, across="host")).explain()
