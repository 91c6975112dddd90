"""The examples of the documentation, as a new user runs them: served, asked, stopped and killed under load."""

import http.client
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from serving import eventually, serve

from holdfast.servers import workers

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
HOOKS = ("-c", "python:holdfast.servers.gunicorn", "--name", "shop")

SERVED = [
    ("fastapi_shop", "uvicorn", ()),
    ("fastapi_shop", "uvicorn-worker", (*HOOKS, "-w", "2")),
    ("starlette_shop", "uvicorn", ()),
    ("starlette_shop", "uvicorn-worker", (*HOOKS, "-w", "2")),
    ("flask_shop", "sync", (*HOOKS, "-w", "2")),
    ("flask_shop", "gthread", HOOKS),
    ("django_shop", "sync", (*HOOKS, "-w", "2")),
    ("django_shop", "gthread", HOOKS),
]


@pytest.fixture(params=SERVED, ids=[f"{name}-{kind}" for name, kind, _ in SERVED])
def shop(request, tmp_path, monkeypatch):
    name, kind, options = request.param
    monkeypatch.setenv("HOLDFAST_RUN_DIR", str(tmp_path / "workers"))
    served = serve(kind, tmp_path, (EXAMPLES / f"{name}.py").read_text(), *options, app=f"{name}:app")
    served.kind, served.name = kind, name
    with served.process:
        assert eventually(lambda: served.get("/readyz").status == 200)
        yield served


@pytest.mark.realtime
def test_an_example_works_and_is_shielded(shop):
    assert eventually(lambda: json.loads(shop.get("/").body) == {"hello": "world"})  # a busy machine may be late for a deadline of a second
    late = shop.get("/slow", {"X-Request-Timeout-Ms": "300"})
    assert (late.status, json.loads(late.body)["code"]) == (504, "deadline-exceeded")
    assert late.took < 0.9
    if shop.name in {"fastapi_shop", "starlette_shop"}:
        assert shop.get("/thread", {"X-Request-Timeout-Ms": "300"}).status == 504
    for number in range(10):
        headers = {"Content-Type": "application/json", "Idempotency-Key": f'"k-{number}"', "X-Request-Timeout-Ms": "800"}
        first = shop.get("/orders", headers, method="POST", body=b'{"item": 42}')
        if first.status != 504:
            break
    assert first.status == 200
    assert json.loads(first.body)["ordered"] == 42
    assert 0 < json.loads(first.body)["left"] <= 0.8
    assert eventually(lambda: shop.get("/missing").status == 404)
    assert eventually(lambda: workers.snapshot("shop")["busy"] == 0)
    assert workers.snapshot("shop")["requests"] >= 4


@pytest.mark.realtime
def test_an_example_that_is_told_to_stop_under_load_loses_no_request_it_had_taken(shop):
    answers, errors, stop = [], [], threading.Event()

    def client():
        while not stop.is_set():
            try:
                answers.append((time.monotonic(), shop.get("/").status))
            except (OSError, http.client.HTTPException) as error:
                errors.append((time.monotonic(), error))
                if not isinstance(error, ConnectionRefusedError):
                    continue
                return

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: len(answers) > 40)
    told = time.monotonic()
    os.kill(shop.process.pid, signal.SIGTERM)
    assert eventually(lambda: not shop.process.running, 10)
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for _, status in answers} <= {200, 503, 504}
    assert all(moment >= told for moment, _ in errors)


@pytest.mark.realtime
def test_an_example_whose_process_is_killed_under_load_comes_back(shop):
    stop, good = threading.Event(), []

    def client():
        while not stop.is_set():
            try:
                good.append(shop.get("/").status)
            except (OSError, http.client.HTTPException):
                time.sleep(0.01)

    threads = [threading.Thread(target=client) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        assert eventually(lambda: len(good) > 20)
        if shop.kind == "uvicorn":
            os.kill(shop.process.pid, signal.SIGKILL)
            assert eventually(lambda: not shop.process.running)
            shop.process.kill()
            shop.process.start()
        else:
            for line in Path(f"/proc/{shop.process.pid}/task/{shop.process.pid}/children").read_text().split():
                os.kill(int(line), signal.SIGKILL)
        before = len(good)
        assert eventually(lambda: len(good) > before + 40, 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert eventually(lambda: workers.snapshot("shop")["busy"] == 0, 5), workers.snapshot("shop")
