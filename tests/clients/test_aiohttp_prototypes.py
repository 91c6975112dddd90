"""aiohttp's requests that are copies of an earlier one: nobody can tell, on the wire or in the session, that they are."""

from __future__ import annotations

import asyncio
import gc
import os
import weakref

import aiohttp
import pytest
from test_aiohttp import GOOD, Server, answer, outcome, retrying, serving, statuses

from holdfast import Backoff, Breaker, Policy, Retry
from holdfast.clients.aiohttp import BreakerOpen, ClientSession, DeadlineExceeded
from holdfast.clients.aiohttp_requests import kind_of
from holdfast.clients.logical_call import new_id
from holdfast.testing.faults import FaultProxy, Silence

OURS = {"x-request-id", "x-request-timeout-ms"}


def plain(request) -> tuple[str, str, dict[str, str], bytes]:
    return request.method, request.path, {name: value for name, value in request.headers.items() if name not in OURS}, request.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "post", "PATCH"])
def test_a_copy_says_on_the_wire_what_aiohttp_would_have_said(method):
    async def main():
        headers = {"Accept": "text/plain", "X-Tenant": "a"}
        async with serving(GOOD, retrying(), headers=headers) as (server, session), aiohttp.ClientSession(headers=headers) as bare:
            addresses = [server.url, server.url + "a/b?c=d%20e&f=g+h#part", server.url + "%C3%A4?q=%2F", server.url]
            for address in addresses:
                async with session.request(method, address) as response, bare.request(method, address) as other:
                    assert (response.url, response.real_url) == (other.url, other.real_url)
                    assert await response.read() == await other.read()
                    sent, expected = response.request_info, other.request_info
                    assert (sent.url, sent.method, sent.real_url) == (expected.url, expected.method, expected.real_url)
            assert session._prototypes.find(session, kind_of(method, response.url, {})) is not None  # so most of them were copies
        ours, bares = server.requests[::2], server.requests[1::2]
        for request, expected in zip(ours, bares, strict=True):
            assert request.headers.pop("x-request-attempt") == "1"
            assert plain(request) == plain(expected)
        assert len({r.headers["x-request-id"] for r in ours}) == len(addresses)

    asyncio.run(main())


@pytest.mark.parametrize("session_headers", [{}, {"Accept": "text/plain", "content-type": "text/x-own", "Authorization": "Basic eA=="}])
def test_what_a_request_has_of_its_own_goes_out_as_ever_and_stays_its_own(session_headers):
    def options(turn: int):
        own = {"Authorization": f"Bearer {turn}", "accept": f"application/x-{turn}", "X-Tenant": f"t{turn}"}
        yield {}
        yield {"headers": own}
        yield {"headers": own, "json": {"turn": turn}}
        yield {"json": ["x" * turn]}
        yield {"data": b"x" * turn, "headers": {"Content-Type": f"text/x-{turn}"}}
        yield {"data": "\u00e4" * turn, "params": {"turn": turn}}
        yield {"params": [("a", turn), ("a", "b c")]}
        yield {"headers": {"Host": f"h{turn}.test", "Cookie": f"c={turn}", "User-Agent": f"u{turn}"}}
        yield {"headers": {"Content-Length": "2"}, "data": b"ab"}
        yield {"headers": {"X-Twice": "a", "x-twice": f"b{turn}"}}
        yield {"data": {"form": turn}}
        yield {"data": b""}

    async def main():
        async with serving(GOOD, headers=session_headers) as (server, session), aiohttp.ClientSession(headers=session_headers) as bare:
            for method in ("POST", "GET"):
                for turn in (1, 2, 3):
                    for own in options(turn):
                        for each in (session, bare):
                            async with each.request(method, server.url + "a?b=c", **own) as response:
                                await response.read()
        ours, bares = server.requests[::2], server.requests[1::2]
        for request, expected in zip(ours, bares, strict=True):
            assert request.headers.pop("x-request-attempt") == "1"
            assert plain(request) == plain(expected)

    asyncio.run(main())


def test_bad_options_raise_what_aiohttp_raises_whether_or_not_there_is_something_to_copy():
    bad = [
        {"headers": {"X-A": "a\r\nX-B: b"}},
        {"headers": {"X-A": 1}},
        {"headers": {1: "a"}},
        {"params": {"a": object()}},
        {"json": object()},
        {"json": {}, "data": b""},
        {"headers": {"Content-Length": "x"}, "data": b"a"},
    ]

    async def kind(each, url, options):
        try:
            async with each.post(url, **options) as response:
                return response.status
        except Exception as error:
            return type(error), str(error)

    async def main():
        async with serving(GOOD, retrying()) as (server, session), aiohttp.ClientSession() as bare:
            for options in bad:
                good = {name: {"headers": {"X-A": "a"}, "params": {"a": "a"}, "json": {}, "data": b"a"}[name] for name in options}
                if len(good) < 2 or "json" not in good:
                    assert await kind(session, server.url, good) == 200
                expected = await kind(bare, server.url, options)
                assert await kind(session, server.url, options) == expected
                assert expected != 200
            assert await kind(session, server.url, {}) == 200

    asyncio.run(main())


def test_headers_that_the_session_gets_later_are_sent():
    async def main():
        async with serving(GOOD) as (server, session):
            for _ in range(2):
                await outcome(session, server.url)
            session.headers["X-Tenant"] = "b"
            for _ in range(2):
                await outcome(session, server.url)
            del session.headers["X-Tenant"]
            await outcome(session, server.url)
        assert [r.headers.get("x-tenant") for r in server.requests] == [None, None, "b", "b", None]

    asyncio.run(main())


def test_cookies_come_go_and_expire_as_ever():
    async def main():
        def reply(request):
            return [answer(200, b"", Set_Cookie="s=1; Path=/")] if request.path == "/login" else [answer()]

        async with serving(reply, cookie_jar=aiohttp.CookieJar(unsafe=True)) as (server, session):
            for path in ("", "login", "", "", "login", ""):
                await outcome(session, server.url + path)
            session.cookie_jar.clear()
            await outcome(session, server.url)
        assert [r.headers.get("cookie") for r in server.requests] == [None, None, "s=1", "s=1", "s=1", "s=1", None]

    asyncio.run(main())


def test_redirects_are_followed_from_a_copy_on_within_the_same_call():
    async def main():
        def reply(request):
            return [answer(302, b"", Location="/end", Set_Cookie="s=1")] if request.path == "/go" else [answer()]

        async with serving(reply, retrying(deadline=2.0), cookie_jar=aiohttp.CookieJar(unsafe=True)) as (server, session):
            await outcome(session, server.url)
            async with session.get(server.url + "go") as response:
                assert (response.url.path, [r.status for r in response.history]) == ("/end", [302])
            async with session.get(server.url + "go", allow_redirects=False) as response:
                assert (response.status, response.history) == (302, ())
        _, go, end, _ = server.requests
        assert [r.path for r in server.requests] == ["/", "/go", "/end", "/go"]
        assert go.headers["x-request-id"] == end.headers["x-request-id"]
        assert end.headers["cookie"] == "s=1"

    asyncio.run(main())


def test_an_endless_redirect_ends_as_ever():
    async def main():
        async with serving(lambda request: [answer(302, b"", Location="/") if request.path == "/" else answer()]) as (server, session):
            await outcome(session, server.url + "well")
            assert isinstance(await outcome(session, server.url), aiohttp.TooManyRedirects)
        assert len(server.requests) == 1 + 10

    asyncio.run(main())


def test_a_copy_is_retried_under_one_id_and_may_raise_for_status():
    async def main():
        async with serving(statuses(200, 503, 503, 200, 404), retrying(), raise_for_status=True) as (server, session):
            assert [await outcome(session, server.url) for _ in range(2)] == [200, 200]
            error = await outcome(session, server.url)
            assert isinstance(error, aiohttp.ClientResponseError)
            assert error.status == 404
        assert [r.headers["x-request-attempt"] for r in server.requests] == ["1", "1", "2", "3", "1"]
        assert len({r.headers["x-request-id"] for r in server.requests[1:4]}) == 1

    asyncio.run(main())


def test_what_the_session_gets_later_has_its_say():
    async def main():
        told, passed = [], []

        async def tell(session, context, params):
            told.append(params.method)

        async def passing(request, handler):
            passed.append(request.method)
            return await handler(request)

        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(tell)
        trace.freeze()
        middlewares = []
        async with serving(GOOD, middlewares=middlewares) as (server, session):
            for _ in range(2):
                await outcome(session, server.url)
            session.trace_configs.append(trace)
            await outcome(session, server.url)
            session.trace_configs.clear()
            middlewares.append(passing)
            await outcome(session, server.url)
        assert (told, passed) == (["GET"], ["GET"])

    asyncio.run(main())


def test_a_double_in_place_of_aiohttps_request_is_asked(monkeypatch):
    async def double(self, method, url, **options):
        return "doubled"

    async def main():
        async with serving(GOOD) as (server, session):
            await outcome(session, server.url)
            monkeypatch.setattr(aiohttp.ClientSession, "_request", double)
            assert await session.get(server.url) == "doubled"

    asyncio.run(main())


def test_a_user_in_the_address_is_for_that_address_alone():
    async def main():
        async with serving(GOOD) as (server, session):
            for address in (server.url.replace("//", "//u:p@"), server.url, server.url.replace("//", "//u:q@"), server.url):
                await outcome(session, address)
        first, second, third, fourth = [r.headers.get("authorization") for r in server.requests]
        assert first != third
        assert (second, fourth) == (None, None)

    asyncio.run(main())


def test_a_copys_errors_are_aiohttps_and_ours():
    async def main():
        policy = Policy("p", breaker=Breaker(consecutive=1))
        async with serving(GOOD, policy) as (server, session):
            await outcome(session, server.url)
            server._server.close()
            await session.connector.close()
            assert isinstance(await outcome(session, server.url), RuntimeError)  # the session is closed
        async with Server(GOOD) as server, ClientSession(policy=policy, connector=aiohttp.TCPConnector(force_close=True)) as session:
            await outcome(session, server.url)
            server._server.close()
            assert isinstance(await outcome(session, server.url), aiohttp.ClientConnectorError)
            assert isinstance(await outcome(session, server.url), BreakerOpen)

    asyncio.run(main())


def test_a_copy_that_gets_no_connection_in_time_says_so():
    async def main():
        connector = aiohttp.TCPConnector(limit=1)
        timeout = aiohttp.ClientTimeout(connect=0.05)
        async with serving(lambda request: [answer()[:-1], 5.0], connector=connector, timeout=timeout) as (server, session):
            async with session.get(server.url):
                assert isinstance(await outcome(session, server.url), aiohttp.ConnectionTimeoutError)

    asyncio.run(main())


@pytest.mark.realtime
def test_the_deadline_cuts_a_copy_and_its_connection_is_not_used_again():
    async def main():
        async with Server(GOOD) as server:
            with FaultProxy(to=server.address) as proxy:
                async with ClientSession(policy=Policy("p", deadline=0.4)) as session:
                    url = f"http://127.0.0.1:{proxy.port}/"
                    assert await outcome(session, url) == 200
                    proxy.set(Silence())
                    assert isinstance(await outcome(session, url), DeadlineExceeded)
                    proxy.set()
                    assert await outcome(session, url) == 200
                    assert not session.connector._acquired

    asyncio.run(main())


def test_a_session_that_is_forgotten_is_gone_at_once():
    async def main():
        async with Server(GOOD) as server:
            session = ClientSession(policy=Policy("p", deadline=2.0, retry=Retry(backoff=Backoff(base=0.01))))
            for _ in range(3):
                await outcome(session, server.url)
            await session.close()
            gone = weakref.ref(session)
            gc.disable()
            try:
                del session
                await asyncio.sleep(0)
                assert gone() is None
            finally:
                gc.enable()

    asyncio.run(main())


def test_a_session_remembers_a_limited_number_of_origins():
    async def main():
        async with serving(GOOD) as (server, session):
            for number in range(300):
                await outcome(session, server.url, f"M{number}")
            assert len(session._prototypes._known) <= 256
        assert len(server.requests) == 300

    asyncio.run(main())


def test_ids_are_of_one_call_each_on_both_sides_of_a_fork():
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(each) == 32 and int(each, 16) for each in ids)
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        os.write(writes, "".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    theirs = {text[at : at + 32] for at in range(0, len(text), 32)}
    assert len(theirs) == 100
    assert not theirs & {new_id() for _ in range(100)}
