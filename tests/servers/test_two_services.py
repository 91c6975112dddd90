"""What travels with a request through two real services: what is left of its deadline, and its priority."""

import json

import pytest
from serving import eventually, serve

OUTER = """
import os
import holdfast
from holdfast import Policy
from holdfast.clients.httpx import AsyncClient
from holdfast.servers import Admission
from holdfast.servers.asgi import Shield

client = AsyncClient(policy=Policy("inner", deadline=20.0))

async def app(scope, receive, send):
    answer = await client.get(os.environ["INNER"] + scope["path"])
    await send({"type": "http.response.start", "status": answer.status_code, "headers": []})
    await send({"type": "http.response.body", "body": answer.content})

app = Shield(app, deadline=5.0, admission=Admission(limit=10, priority={"/": "normal", "/buy": "critical", "/report": "sheddable"}))
"""

INNER = """
import json, os, time
import holdfast
from holdfast import priority
from holdfast.servers import Admission
from holdfast.servers.wsgi import Shield

def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        began = time.monotonic()
        try:
            time.sleep(20)
        finally:
            with open(os.environ["NOTES"], "w") as notes:
                notes.write(str(time.monotonic() - began))
    level = priority.ambient.get()
    start_response("200 OK", [])
    return [json.dumps({"left": holdfast.remaining(), "level": None if level is None else priority.LEVELS[level]}).encode()]

app = Shield(app, deadline=10.0, admission=Admission(limit=10, trusted=TRUSTED))
"""


@pytest.fixture(params=[True, False], ids=["trusted", "not-trusted"])
def services(request, tmp_path, monkeypatch):
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    inner = serve("sync", tmp_path / "inner", INNER.replace("TRUSTED", str(request.param)), "-w", "2")
    monkeypatch.setenv("INNER", f"http://127.0.0.1:{inner.port}")
    outer = serve("uvicorn", tmp_path / "outer", OUTER)
    with inner.process, outer.process:
        outer.trusted = request.param
        outer.notes = tmp_path / "notes"
        yield outer


@pytest.mark.realtime
def test_deadline_and_priority_travel_with_the_request(services):
    seen = {path: json.loads(services.get(path).body) for path in ("/", "/buy", "/report")}
    assert all(0 < one["left"] <= 5.0 for one in seen.values())
    assert seen["/"]["level"] is None
    assert seen["/buy"]["level"] == ("critical" if services.trusted else None)
    assert seen["/report"]["level"] == "sheddable"


@pytest.mark.realtime
def test_work_at_the_end_of_the_chain_stops_with_the_deadline_of_its_beginning(services):
    answer = services.get("/slow", {"X-Request-Timeout-Ms": "400"})
    assert answer.status == 504
    assert answer.took < 0.9
    assert eventually(lambda: services.notes.exists() and services.notes.read_text())
    assert float(services.notes.read_text()) < 2.0, "not with its own, nor with that of what stands between"
