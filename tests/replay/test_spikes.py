"""Incident 3 in small: what it counts, on real processes; its bars on time are for the replay itself."""

from collections import Counter
from dataclasses import replace

import pytest

from holdfast.replay.incidents import spikes, spikes_runs
from holdfast.replay.incidents.spikes_runs import PLANS, Phase
from holdfast.replay.parts.nginx import Nginx, program
from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.process import Folder
from holdfast.replay.stage import Stage

# Slow enough for a busy machine: a fifth of the incident's times, and a hundred calls a second.
SCALE = 5.0
STORM = Phase(name="storm", length=15.0, stall=0.3)
OUTAGE = Phase(name="outage", length=25.0, status=503)


@pytest.fixture(scope="module")
def database():
    program()
    with postgres_server() as server:
        yield server.url


@pytest.fixture
def stage(monkeypatch):
    monkeypatch.setattr(spikes_runs, "RATES", {"authorize": 5.0, "order": 15.0})
    monkeypatch.setattr(spikes_runs, "storm", STORM)
    with Folder("spikes") as folder:
        yield Stage(seed=7, scale=SCALE, folder=folder, tell=lambda _: None)


def play(stage, database, name, *phases):
    return spikes_runs.run(stage, stage.subfolder("run"), replace(PLANS[name], phases=phases), database)


@pytest.mark.realtime
def test_retries_by_hand_order_twice_and_multiply_an_outage(stage, database):
    one = play(stage, database, "retries by hand", STORM, OUTAGE)
    assert one.twice > 0
    assert len(one.stretches["outage"].asked) / len(one.stretches["outage"].samples) > 3.5
    assert all(claim.held for claim in spikes._by_hand(stage, one))


@pytest.mark.realtime
def test_with_holdfast_the_same_storm_makes_each_order_once_and_an_outage_stays_within_the_budget(stage, database):
    one = play(stage, database, "protected", STORM, OUTAGE)
    assert one.orders > 30
    assert one.twice == 0
    assert len(one.stretches["outage"].asked) / len(one.stretches["outage"].samples) <= 1.1
    assert sum(asked.took >= 3.0 for asked in one.stretches["storm"].asked) > 5
    assert one.watch.numbers("attempts", 0.0, 60.0)[-1] > one.watch.numbers("calls", 0.0, 60.0)[-1]


@pytest.mark.realtime
def test_behind_nginx_each_order_is_made_once_and_every_request_has_an_id(stage, database):
    one = play(stage, database, "nginx", STORM)
    assert one.twice == 0
    asked = [asked.identity for asked in one.stretches["storm"].asked]
    assert all(asked)
    assert 1 < max(Counter(asked).values()) <= spikes_runs.ATTEMPTS
    assert spikes._once(stage, "nginx", one).held


def test_what_nginx_is_given_is_the_policy_of_the_shop(stage, database):
    text = spikes_runs.exported(stage, "127.0.0.1:9", 8081)
    for line in (
        "proxy_read_timeout 200ms;",
        "proxy_next_upstream error timeout http_502 http_503 http_504 non_idempotent;",
        "proxy_next_upstream_tries 4;",
        "listen 127.0.0.1:8081;",
    ):
        assert line in text
    assert "successful" in Nginx(text, port=1, folder=stage.subfolder("nginx")).check()
