"""prometheus_client's mode of several processes, under a real gunicorn: a scrape of one worker tells of all."""

import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from holdfast.replay.parts.process import Folder, Process, accepts, free_port

HOOKS = """
from prometheus_client import multiprocess

import holdfast.servers.gunicorn as pool

proc_name = "observed"
when_ready = pool.when_ready
post_worker_init = pool.post_worker_init

def child_exit(server, worker):
    pool.child_exit(server, worker)
    multiprocess.mark_process_dead(worker.pid)
"""


@pytest.fixture(params=[[], ["--preload"]], ids=["each worker imports", "preload"])
def gunicorn(request):
    with Folder("observe") as folder:
        values = folder / "values"
        values.mkdir()
        (folder / "hooks.py").write_text(HOOKS)
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "--config", str(folder / "hooks.py")]
        server = Process(
            [*command, *request.param, "--chdir", str(Path(__file__).parent), "app_of_gunicorn:app"],
            name="gunicorn",
            folder=folder,
            ready=lambda: accepts(port),
            environment={"PROMETHEUS_MULTIPROC_DIR": str(values), "HOLDFAST_RUN_DIR": str(folder)},
            death_signal="TERM",
        )
        with server:
            yield port


def get(port, path="/"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return response.read().decode()


def scraped(port):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(get(port, "/metrics"))
        for sample in family.samples
    }


def until(ask, wanted, seconds=20.0):
    end = time.monotonic() + seconds
    while (found := ask()) != wanted and time.monotonic() < end:
        time.sleep(0.1)
    return found


def pids_of_both_workers(port):
    """A call to each: calls in a row may all go to one worker, so half a request keeps one busy while the other is asked."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as half:
        half.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        free = int(get(port))
        half.sendall(b"\r\n")
        with half.makefile("rb") as answer:
            return {free, int(answer.read().split()[-1])}


@pytest.mark.realtime
def test_a_scrape_tells_of_the_calls_of_all_workers_and_of_the_gauges_of_those_that_live(gunicorn):
    assert len(pids_of_both_workers(gunicorn)) == 2
    policy = ("policy", "billing")
    assert scraped(gunicorn)["holdfast_calls_total", policy] == 2
    assert scraped(gunicorn)["holdfast_attempt_duration_seconds_count", policy, ("verdict", "success")] == 2
    # Both workers have written their gauges: the limits of two processes, and no breaker open.
    assert until(lambda: scraped(gunicorn).get(("holdfast_bulkhead_limit", policy)), 10) == 10
    assert scraped(gunicorn)["holdfast_breaker_state", policy, ("state", "forced-open")] == 0

    # The pool of workers is read by whoever is asked: two of them, and one works on this scrape.
    assert until(lambda: scraped(gunicorn)["holdfast_workers_live", ("pool", "observed")], 2) == 2
    assert until(lambda: scraped(gunicorn)["holdfast_workers_busy", ("pool", "observed")], 1) == 1
    assert scraped(gunicorn)["holdfast_workers_requests_total", ("pool", "observed")] >= 2

    tripped = int(get(gunicorn, "/trip"))
    state = ("holdfast_breaker_state", policy, ("state", "forced-open"))
    assert until(lambda: scraped(gunicorn)[state], 1) == 1

    os.kill(tripped, 9)
    # What the dead worker showed is gone, what it had counted stays.
    assert until(lambda: scraped(gunicorn)[state], 0) == 0
    assert scraped(gunicorn)["holdfast_calls_total", policy] >= 2


@pytest.mark.realtime
def test_the_thread_that_writes_gauges_ends_with_the_installation():
    program = """
import os, tempfile, threading
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()
from holdfast import Bulkhead, Policy
from holdfast.observe import prometheus
before = threading.active_count()
stop = prometheus.install(pools=[])
assert threading.active_count() == before, "no thread before the first event"
policy = Policy("billing", bulkhead=Bulkhead(3))
policy.call(int)
assert threading.active_count() == before + 1
policy.call(int)
assert threading.active_count() == before + 1
if (child := os.fork()) == 0:
    policy.call(int)
    os._exit(threading.active_count() - before)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
registry = prometheus.scrape_registry(pools=[])
stop()
assert threading.active_count() == before
assert registry.get_sample_value("holdfast_bulkhead_limit", {"policy": "billing"}) is not None
"""
    import subprocess

    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)
