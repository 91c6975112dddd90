"""What is in the store may be anything: it is not used, it is reported, and nothing grows from it."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import fleet_hosts as do
import pytest
import redis as library
from fleet_hosts import hosts, until
from hypothesis import given
from hypothesis import strategies as st

from holdfast.fleet import protocol
from holdfast.replay.parts.redis import redis_server

RULE = {"min_calls": 10, "failure_rate": 0.5, "window": 30, "open_for": 0.5, "open_for_max": 2.0, "probe_share": 1.0, "probes_to_close": 2}
BREAKER, COUNTS, MEMBERS, SEEN, BAD, SHUT, PROBES, BUDGET, _ = protocol.keys("holdfast", "billing")

POISON: list[Any] = ["", "nan", "inf", "-1", "1e308", "9" * 400, "0x10", "x" * 5000, "\x00\xff", "-9007199254740993", "1.5", "closed"]
FIELDS = {
    BREAKER: ["generation", "state", "ends", "pause", "passed", "probers", "failed", "why", "force", "stamp"],
    COUNTS: ["span", "slice", "calls", "failures", "slow", *(f"calls:{slot}" for slot in range(20))],
    BUDGET: ["span", "slice", "calls", "retries", *(f"retries:{slot}" for slot in range(20))],
}


@pytest.mark.realtime
@pytest.mark.parametrize("key", [BREAKER, COUNTS, BUDGET], ids=["breaker", "counts", "budget"])
def test_no_value_of_any_field_stops_the_fleet(key: str) -> None:
    budget = {"ratio": 0.1, "min_per_second": 1.0, "window": 10}
    with redis_server() as redis, hosts(2, redis.url, breaker=RULE, budget=budget, interval=0.01) as fleet:
        client = library.Redis.from_url(redis.url)
        for host in fleet:
            host.do(do.pump, 1, 0.002)
        for field in FIELDS[key]:
            for poison in POISON:
                client.hset(key, field, poison)
                time.sleep(0.002)
        time.sleep(0.2)
        for host in fleet:
            assert not [outcome for outcome in host.do(do.stop) if outcome.startswith("raised")]
        client.delete(key)
        for host in fleet:
            host.do(do.force, "reset")
        until(lambda: all(host.do(do.state) == "closed" for host in fleet))
        time.sleep(0.5)  # of orders given at once, the one that arrives last holds
        fleet[0].do(do.force, "force_open")
        until(lambda: all(host.do(do.state) == "forced-open" for host in fleet), what="one fleet as before")
        ignored = [event.what for host in fleet for event in host.do(do.told, "FleetIgnored")]
        assert ignored, "it is reported"
        assert len(ignored) <= 20, "and not every time"


@pytest.mark.realtime
def test_keys_of_another_type_are_mended_and_reported() -> None:
    budget = {"ratio": 0.1, "min_per_second": 1.0, "window": 10}
    with redis_server() as redis, hosts(2, redis.url, breaker=RULE, budget=budget) as fleet:
        client = library.Redis.from_url(redis.url)
        fleet[0].do(do.calls, 5)
        for key in (BREAKER, COUNTS, MEMBERS, SEEN, BAD, SHUT, PROBES, BUDGET):
            client.pipeline().delete(key).lpush(key, "x" * 100).execute()  # at once: the fleet writes it again when it is missing
        for host in fleet:
            host.do(do.set_failing, True)
            host.do(do.calls, 15)
        until(lambda: all(host.do(do.state) != "closed" for host in fleet))
        until(lambda: "a key of type list" in [event.what for host in fleet for event in host.do(do.told, "FleetIgnored")])
        for host in fleet:
            host.do(do.set_failing, False)
            host.do(do.pump)
        until(lambda: all(host.do(do.state) == "closed" for host in fleet), 20)


@pytest.mark.realtime
def test_a_state_from_the_far_future_opens_nothing_for_longer_than_the_rule() -> None:
    with redis_server() as redis, hosts(1, redis.url, breaker=RULE) as (host,):
        client = library.Redis.from_url(redis.url)
        seconds, _ = client.time()
        row = {"generation": seconds * 1000 + 60_000, "state": "open", "ends": seconds * 1000 + 10**9, "pause": 10**9}
        client.hset(BREAKER, mapping=row)
        began = time.monotonic()
        host.do(do.pump)
        until(lambda: host.do(do.state) == "open")
        until(lambda: host.do(do.state) == "closed", 15, "probed and closed")
        assert time.monotonic() - began < RULE["open_for_max"] + 3
        client.hset(BREAKER, mapping={"generation": 2**60, "state": "open"})
        time.sleep(0.4)
        assert host.do(do.state) == "closed"
        assert host.do(do.told, "FleetIgnored")


@pytest.mark.realtime
def test_a_member_that_was_written_by_a_stranger_counts_for_nothing() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker=RULE) as fleet:
        client = library.Redis.from_url(redis.url)
        for host in fleet:
            host.do(do.calls, 1)
        time.sleep(0.2)
        for member in client.hkeys(MEMBERS):
            client.hset(MEMBERS, member, "1 2 drop table")
        client.hset(PROBES, mapping={"stranger": "99 99999999999999", "other": "nonsense"})
        for host in fleet:
            host.do(do.set_failing, True)
            host.do(do.calls, 10)
        until(lambda: all(host.do(do.state) != "closed" for host in fleet))
        for host in fleet:
            host.do(do.set_failing, False)
            host.do(do.pump)
        until(lambda: all(host.do(do.state) == "closed" for host in fleet), 20, "a stranger's lease from the future holds nobody up")


@pytest.mark.realtime
def test_shouting_on_the_channel_costs_little() -> None:
    with redis_server() as redis, hosts(1, redis.url, breaker=RULE) as (host,):
        client = library.Redis.from_url(redis.url)
        time.sleep(0.3)
        client.config_resetstat()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            for words in (b"billing", b"\xff\xfe", b"x" * 100_000, b""):
                client.publish("holdfast:changes", words)
        rounds = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        assert rounds < 120, "at most a hundred rounds a second, however many messages"
        assert host.do(do.calls, 10) == {"ok": 10}


def test_an_access_list_without_the_channel_is_told_once_and_rounds_do_without() -> None:
    config = ["user app on >secret ~* resetchannels +@all"]
    with redis_server(config=config) as redis, hosts(2, redis.url_of("app", "secret"), breaker=RULE) as fleet:
        fleet[0].do(do.force, "force_open")
        until(lambda: fleet[1].do(do.state) == "forced-open")
        until(lambda: fleet[0].do(do.told, "FleetIgnored") or fleet[0].do(do.told, "FleetLost"))


ANSWER: dict[str, Any] = {
    "processes": 1,
    "forgotten": False,
    "ignored": "",
    "breaker": {
        "generation": 5, "state": "open", "left": 100, "pause": 500, "why": "failures", "force": "none", "stamp": 0,
        "passed": 0, "calls": 1, "failures": 1, "slow": 0, "lent": 0,
    },
    "budget": {"lent": 1, "calls": 2, "retries": 1, "left": 5},
}  # fmt: skip


def test_an_answer_of_ours_is_read() -> None:
    answer = protocol.read(json.dumps(ANSWER), 50.0, 30.0)
    assert answer.state == protocol.FleetState(5, "open", 50.1, 0.5, "failures", "none", 0)
    assert answer.budget == protocol.Lent(1, 2, 1, 5)


READ: list[tuple[str, ...]] = [("processes",)]
READ += [("breaker", name) for name in ANSWER["breaker"] if name != "passed"]
READ += [("budget", name) for name in ANSWER["budget"]]


@pytest.mark.parametrize("path", READ)
@pytest.mark.parametrize("value", [None, -1, 1.5, True, "x", [], {}, 2**53, float("nan"), float("inf")])
def test_a_field_of_another_kind_or_range_is_malformed(path: tuple[str, ...], value: Any) -> None:
    answer = json.loads(json.dumps(ANSWER))
    inner = answer if len(path) == 1 else answer[path[0]]
    inner[path[-1]] = value
    with pytest.raises(protocol.Malformed):
        protocol.read(json.dumps(answer), 0.0, 30.0)


_anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["breaker", "budget", "processes", "state", "lent"]), inner)
    ),
)


@given(st.one_of(st.binary(), st.text(), _anything.map(json.dumps), st.integers(), st.none()))
def test_whatever_comes_is_an_answer_or_malformed(text: Any) -> None:
    with contextlib.suppress(protocol.Malformed):
        assert isinstance(protocol.read(text, 0.0, 30.0), protocol.Answer)


def test_a_long_answer_a_deep_one_and_a_late_one_are_not_believed() -> None:
    for text in ("[" * 9000, " " * 20_000, b"\xff\xfe"):
        with pytest.raises(protocol.Malformed):
            protocol.read(text, 0.0, 30.0)
    far = json.loads(json.dumps(ANSWER))
    far["breaker"].update(left=10**12, pause=10**12)
    state = protocol.read(json.dumps(far), 7.0, 30.0).state
    assert state is not None
    assert (state.ends, state.pause) == (37.0, 30.0)


@given(st.text(max_size=20))
def test_all_keys_of_a_policy_are_in_one_slot_and_no_two_policies_share_one(name: str) -> None:
    names = protocol.keys("holdfast", name)
    tags = {key[key.index("{") + 1 : key.index("}")] for key in names}
    assert len(tags) == 1
    assert len(set(names)) == len(names)
    if name.isprintable() and name.isascii():
        assert protocol.policy_of("holdfast", names[0]) == name
