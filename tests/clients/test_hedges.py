"""Attempts of one call that run at once, through every client: each has its own number, and the slower one leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import holdfast.clients.aiohttp
import holdfast.clients.httpx
import holdfast.clients.requests
import holdfast.clients.urllib3
from holdfast import Breaker, Bulkhead, Hedge, Policy
from servers import Answer, Request, Server, serving, soon

pytestmark = pytest.mark.realtime

BIG = b"0123456789" * 100_000


def hedged(executor: ThreadPoolExecutor | None, **parts: Any) -> Policy:
    return Policy("billing", deadline=5.0, hedge=Hedge(after=0.05, executor=executor), breaker=Breaker(), bulkhead=Bulkhead(2), **parts)


class SlowFirst:
    """The first attempt waits before its headers until it may go on."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, request: Request) -> Answer:
        number = request.headers["x-request-attempt"]
        if number == "1":
            self.go_on.wait(10.0)
        return Answer(200, BIG, {"X-Answers": number})


def _httpx(policy: Policy, url: str, streamed: bool) -> tuple[str, bytes]:
    with holdfast.clients.httpx.Client(policy=policy) as client:
        if streamed:
            with client.stream("PUT", url, content=b"body") as response:
                return response.headers["X-Answers"], response.read()
        response = client.put(url, content=b"body")
        assert response.request.headers["X-Request-Attempt"] == response.headers["X-Answers"]
        return response.headers["X-Answers"], response.content


def _requests(policy: Policy, url: str, streamed: bool) -> tuple[str, bytes]:
    with holdfast.clients.requests.Session(policy=policy) as session:
        response = session.put(url, data=b"body", stream=streamed)
        assert response.request.headers["X-Request-Attempt"] == response.headers["X-Answers"]
        return response.headers["X-Answers"], response.content


def _urllib3(policy: Policy, url: str, streamed: bool) -> tuple[str, bytes]:
    with holdfast.clients.urllib3.PoolManager(policy=policy) as http:
        response = http.request("PUT", url, body=b"body", preload_content=not streamed)
        return response.headers["X-Answers"], response.data


async def _async_httpx(policy: Policy, url: str, streamed: bool) -> tuple[str, bytes]:
    async with holdfast.clients.httpx.AsyncClient(policy=policy) as client:
        if streamed:
            async with client.stream("PUT", url, content=b"body") as response:
                return response.headers["X-Answers"], await response.aread()
        response = await client.put(url, content=b"body")
        return response.headers["X-Answers"], response.content


async def _aiohttp(policy: Policy, url: str, _streamed: bool) -> tuple[str, bytes]:
    async with holdfast.clients.aiohttp.ClientSession(policy=policy) as session, session.put(url, data=b"body") as response:
        await asyncio.sleep(0.05)  # the slower one has gone by now
        return response.headers["X-Answers"], await response.read()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("ask", [_httpx, _requests, _urllib3, _async_httpx, _aiohttp])
def test_each_rival_is_a_request_of_its_own_and_the_slower_one_gives_everything_back(ask: Any, streamed: bool) -> None:
    slow_first = SlowFirst()
    with serving(slow_first) as server, ThreadPoolExecutor(4) as executor:
        policy = hedged(executor)
        for turn in (1, 2):
            slow_first.go_on.clear()
            answer = ask(policy, server.url, streamed)
            number, body = asyncio.run(answer) if asyncio.iscoroutine(answer) else answer
            assert (number, body) == ("2", BIG)
            slow_first.go_on.set()
            assert soon(lambda: _running(policy) == 0, within=2.0)
            assert _sent(server) == [("1", b"body"), ("2", b"body")] * turn
        assert len(set(server.sent("X-Request-Id"))) == 2


def _running(policy: Policy) -> int:
    limit = policy.snapshot()["limit"]
    assert limit is not None
    return limit["running"]


def _sent(server: Server) -> list[tuple[str, bytes]]:
    calls: dict[str, list[tuple[str, bytes]]] = {}
    for request in server.requests:
        calls.setdefault(request.headers["x-request-id"], []).append((request.headers["x-request-attempt"], request.body))
    return [each for call in calls.values() for each in sorted(call)]


@pytest.mark.parametrize("ask", [_httpx, _requests, _urllib3])
def test_an_answer_that_comes_too_late_is_closed_though_it_was_to_be_streamed(ask: Any) -> None:
    slow_first = SlowFirst()
    with serving(slow_first) as server, ThreadPoolExecutor(4) as executor:
        policy = hedged(executor)
        assert ask(policy, server.url, True) == ("2", BIG)
        slow_first.go_on.set()
        assert soon(lambda: len(server.requests) == 2 and _running(policy) == 0, within=2.0)


def test_a_body_that_is_read_from_a_file_is_not_hedged() -> None:
    import io

    def slow(request: Request) -> Answer:
        time.sleep(0.2)
        return Answer(200, BIG, {"X-Answers": request.headers["x-request-attempt"]})

    with serving(slow) as server, ThreadPoolExecutor(4) as executor:
        policy = hedged(executor)
        with holdfast.clients.requests.Session(policy=policy) as session:
            assert session.put(server.url, data=io.BytesIO(b"body")).headers["X-Answers"] == "1"
        with holdfast.clients.urllib3.PoolManager(policy=policy) as http:
            assert http.request("PUT", server.url, body=io.BytesIO(b"body")).headers["X-Answers"] == "1"
        assert _sent(server) == [("1", b"body")] * 2


def test_a_hedged_call_that_runs_out_of_time_says_so_in_the_clients_words() -> None:
    import httpx

    over = threading.Event()

    def never(_request: Request) -> Answer:
        over.wait(2.0)
        return Answer()

    with serving(never) as server, ThreadPoolExecutor(4) as executor:
        policy = Policy("billing", attempt_timeout=0.3, hedge=Hedge(after=0.05, executor=executor))
        with holdfast.clients.httpx.Client(policy=policy) as client, pytest.raises(httpx.TimeoutException) as caught:
            client.get(server.url)
        assert isinstance(caught.value, holdfast.DeadlineExceeded)
        assert caught.value.budget == 0.3
        with contextlib.suppress(RuntimeError):
            over.set()
