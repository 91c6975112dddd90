"""Clients of a master that Sentinels know, blocking and in asyncio: it is stopped, another takes over, and the old one comes back."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis as redis_py

import holdfast
from holdfast import Backoff, DeadlineExceeded, Policy, Retry
from holdfast.clients.redis import AsyncSentinel, Sentinel
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

Ask = Callable[..., Any]


@contextmanager
def _sync(sentinels: Any, **options: Any) -> Iterator[Ask]:
    sentinel = Sentinel([("127.0.0.1", each.port) for each in sentinels], **options)
    with sentinel.master_for("shop") as client:
        yield client.execute_command
    for each in sentinel.sentinels:
        each.close()


@contextmanager
def _async(sentinels: Any, **options: Any) -> Iterator[Ask]:
    with asyncio.Runner() as runner:
        sentinel = AsyncSentinel([("127.0.0.1", each.port) for each in sentinels], **options)
        client = sentinel.master_for("shop")

        async def ask(*args: Any) -> Any:
            return await client.execute_command(*args)

        try:
            yield lambda *args: runner.run(ask(*args), context=contextvars.copy_context())
        finally:
            for each in (client, *sentinel.sentinels):
                runner.run(each.aclose())


@pytest.mark.parametrize("client", [_sync, _async], ids=["sync", "async"])
def test_a_sentinel_that_says_nothing_has_its_share_of_the_time_alone(client, watched):
    _, _, sentinels = watched
    with client(sentinels, dead_after=2.0) as ask:
        sentinels[0].suspend()
        try:
            with holdfast.deadline(1.5):
                assert ask("PING")
        finally:
            sentinels[0].resume()


@pytest.mark.parametrize("client", [_sync, _async], ids=["sync", "async"])
def test_where_no_sentinel_answers_the_deadline_holds(client, watched):
    _, _, sentinels = watched
    for each in sentinels:
        each.suspend()
    try:
        with client(sentinels) as ask:
            watch = Stopwatch()
            with pytest.raises(DeadlineExceeded), holdfast.deadline(0.5):
                ask("PING")
            assert watch.took < 0.6
    finally:
        for each in sentinels:
            each.resume()


def test_an_unknown_service_is_an_error_that_says_so(watched):
    sentinel = Sentinel([("127.0.0.1", watched[2][0].port)])
    with sentinel.master_for("nobody") as client, pytest.raises(redis_py.ConnectionError, match="'nobody'"):
        client.ping()
    sentinel.sentinels[0].close()


def test_commands_go_on_at_the_new_master_within_their_deadline(watched):
    master, _, sentinels = watched
    policy = Policy("shop", deadline=15.0, attempt_timeout=0.3, retry=Retry(attempts=200, backoff=Backoff(base=0.05, cap=0.1)))
    with _sync(sentinels, policy=policy) as ask, _async(sentinels, policy=policy) as aask:
        for each in (ask, aask):
            assert each("SET", "a", "1")
        master.suspend()
        try:
            for each in (ask, aask):
                assert each("SET", "a", "2")
        finally:
            master.resume()
        # Connections may still lead to the old master; it refuses to begin, and nothing is counted twice.
        for number in range(1, 11):
            assert (ask, aask)[number % 2]("INCR", "count") == number
            time.sleep(0.05)
