"""Listeners: they cost nothing when there are none, and cannot harm a call when there are."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
from typing import Any

import pytest
from attacks import fail, in_threads, listening, nothing_held

from holdfast import Backoff, Breaker, Bulkhead, Hedge, Policy, Retry, events
from holdfast.testing import FakeClock


def shop() -> Policy:
    return Policy(
        "shop", deadline=5, retry=Retry(attempts=2, backoff=Backoff(base=0.0)), breaker=Breaker(consecutive=4), bulkhead=Bulkhead(2)
    )


def use(kind: str, policy: Policy) -> None:
    """A success, a failure with its retry."""
    with FakeClock() as clock:
        if kind == "sync":
            assert policy.call(int) == 0
            with contextlib.suppress(ConnectionError):
                policy.call(fail, ConnectionError())
            return

        async def broken() -> None:
            raise ConnectionError

        async def main() -> None:
            await policy.acall(asyncio.sleep, 0)
            with contextlib.suppress(ConnectionError):
                await policy.acall(broken)

        clock.run(main())


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_one_that_raises_is_reported_once_and_harms_nobody(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *report: reports.append(report))

    def bad(_: events.Event) -> None:
        raise LookupError("a bug in the listener")

    stop = events.subscribe(bad)
    try:
        with listening() as seen:
            policy = shop()
            use(kind, policy)
            use(kind, policy)
    finally:
        stop()
    assert len([event for event in seen if isinstance(event, events.AttemptEnded)]) == 6
    assert [report[0] for report in reports] == [LookupError]
    assert "raised by the holdfast listener" in reports[0][1].__notes__[0]
    nothing_held(policy)


def test_the_report_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    stop = events.subscribe(lambda _: 1 / 0)
    use("sync", shop())
    stop()
    assert capsys.readouterr().err.count("ZeroDivisionError") == 1


def test_a_report_that_fails_itself_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bad:
        def __repr__(self) -> str:
            raise LookupError

        def __call__(self, _: events.Event) -> None:
            raise ValueError

    def hook(*_: object) -> None:
        raise LookupError

    monkeypatch.setattr(sys, "excepthook", hook)
    stops = [events.subscribe(Bad()), events.subscribe(lambda _: 1 / 0)]
    use("sync", shop())
    for stop in stops:
        stop()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_where_nobody_listens_no_record_is_built(kind: str) -> None:
    built: list[str] = []

    def profile(frame: Any, what: str, _: object) -> None:
        if what == "call" and frame.f_globals.get("__name__") == "holdfast.events":
            built.append(frame.f_code.co_name)

    policy = shop()
    hedged = Policy("hedged", hedge=Hedge(after=1))
    sys.setprofile(profile)
    try:
        for _ in range(4):  # until the breaker opens and refuses
            with contextlib.suppress(Exception):
                use(kind, policy)
        if kind == "async":
            FakeClock().run(hedged.acall(asyncio.sleep, 2))
    finally:
        sys.setprofile(None)
    assert set(built) <= {"publish"}
    with listening() as seen:
        use(kind, shop())
    assert seen


def test_subscribing_and_unsubscribing_while_calls_run_loses_no_event_of_others() -> None:
    policy = Policy("shop", bulkhead=Bulkhead(8))
    done = threading.Event()

    def churn(_: int) -> None:
        while not done.is_set():
            events.subscribe(lambda _: None)()

    def caller(index: int) -> None:
        if index < 2:
            churn(index)
            return
        try:
            for _ in range(500):
                policy.call(int)
        finally:
            ended.append(1)
            if len(ended) == 4:
                done.set()

    ended: list[int] = []
    with listening() as seen:
        assert in_threads(6, caller) == [None] * 6
    assert len(seen) == 2000
    assert not events.listeners


def test_a_listener_may_end_itself_and_others_and_is_subscribed_as_often_as_it_was() -> None:
    seen: list[str] = []

    def once(_: events.Event) -> None:
        seen.append("once")
        stop_once()

    def same(_: events.Event) -> None:
        seen.append("same")

    stop_once = events.subscribe(once)
    stops = [events.subscribe(same), events.subscribe(same)]
    policy = Policy("shop", bulkhead=Bulkhead(1))
    policy.call(int)
    stops[0]()
    stops[0]()
    policy.call(int)
    stops[1]()
    policy.call(int)
    assert seen == ["once", "same", "same", "same"]
    assert not events.listeners
    with pytest.raises(TypeError):
        events.subscribe(1)  # type: ignore[arg-type]


def test_a_policy_with_only_a_retry_tells_of_its_calls_while_somebody_listens_and_not_before_or_after() -> None:
    """It does not look on each call, and is switched instead."""
    policy = Policy("quick", retry=Retry(attempts=2, backoff=Backoff(base=0.0)))
    made_before = policy(lambda answer: answer)
    assert made_before(1) == 1
    seen: list[events.Event] = []
    stop = events.subscribe(seen.append)
    made_while = policy(lambda answer: answer)
    assert (made_before(2), made_while(3)) == (2, 3)
    assert [type(event).__name__ for event in seen] == ["AttemptEnded", "AttemptEnded"]
    stop()
    assert (made_before(4), made_while(5)) == (4, 5)
    assert len(seen) == 2


def test_a_guarded_function_that_nobody_holds_any_more_is_not_kept_for_its_listeners() -> None:
    gc.collect()
    before = len(events._switches)

    def use() -> None:
        @Policy("quick", retry=Retry())
        def recursive(depth: int) -> int:  # it holds itself
            return recursive(depth - 1) if depth else 0

        assert recursive(3) == 0
        assert len(events._switches) == before + 1

    use()
    gc.collect()
    assert len(events._switches) == before
