"""Incident 5 in small: the protected half, with less of a crowd's patience."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from holdfast.replay.incidents import crowd, crowd_runs
from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.process import Folder
from holdfast.replay.stage import Stage


@pytest.fixture
def database() -> Iterator[str]:
    with postgres_server() as server:
        crowd_runs.customers(server)
        yield server.url


@pytest.mark.realtime
def test_billing_gets_up_before_the_crowd_and_refused_checkouts_cost_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(crowd_runs.ENDS, "after", 14.0)
    with Folder("crowd") as folder:
        stage = Stage(seed=3, scale=10.0, folder=folder, tell=lambda _: None)
        run = crowd_runs.run_side(stage, stage.subfolder("protected"), "after", database)
    assert run.kills == 0
    assert [one.out_of_memory for one in run.starts] == [False, False]
    assert run.recovery is not None
    assert run.recovery <= crowd.RECOVERED_WITHIN
    assert 0 < run.in_vain() < 20
    assert run.count("authorized") <= run.called() + 2
    assert sum(not one.good for one in run.samples) > 50
