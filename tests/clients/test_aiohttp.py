"""aiohttp behind policies, on real sockets: what it sends, does again, cuts off, gives back, and leaves behind."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

import holdfast
import servers
from certificates import client_context
from holdfast import Backoff, Breaker, Bulkhead, Hedge, Policy, RateLimit, Retry
from holdfast.clients.aiohttp import BreakerOpen, BulkheadFull, ClientSession, DeadlineExceeded, RateLimited, Resolver
from holdfast.net import dns
from holdfast.testing.faults import Drip, FaultProxy, Reset, Silence, TlsStall
from stopwatch import Stopwatch
from watching import open_fds

AT_ONCE = Backoff(base=0.001, cap=0.002)
LATE = 0.1  # seconds that a cut-off may come after its time


class Request:
    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body


class Server:
    """Answers each request with what `answer` returns: the pieces, and between them pauses in seconds."""

    def __init__(self, answer) -> None:
        self._answer = answer
        self.requests: list[Request] = []
        self.connections = 0
        self._tasks: set[asyncio.Task] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").rstrip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                while headers.get("transfer-encoding") == "chunked":
                    size = int(await reader.readline(), 16)
                    body += (await reader.readexactly(size + 2))[:-2]
                    if not size:
                        break
                request = Request(*first.split(" ")[:2], headers, body)
                self.requests.append(request)
                for piece in self._answer(request):
                    if piece is None:
                        return
                    if isinstance(piece, float):
                        await asyncio.sleep(piece)
                    else:
                        writer.write(piece.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if request.method == "HEAD" else piece)
                        await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = self._server.sockets[0].getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}/"
        return self

    async def __aexit__(self, *exc) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def answer(status: int = 200, body: bytes = b"hello", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def statuses(*codes: int):
    """One after the other, and the last for ever."""
    left = list(codes)
    return lambda request: [answer(left.pop(0) if len(left) > 1 else left[0])]


GOOD = statuses(200)


@asynccontextmanager
async def serving(reply, policy=None, **options):
    async with Server(reply) as server, ClientSession(policy=policy, **options) as session:
        yield server, session


@asynccontextmanager
async def faulty(fault, reply=GOOD, policy=None, **options):
    """A server behind a proxy with a fault, and a session. The proxy's URL."""
    async with Server(reply) as server:
        with FaultProxy(to=server.address, faults=(fault,) if fault else ()) as proxy:
            async with ClientSession(policy=policy, **options) as session:
                yield server, proxy, f"http://127.0.0.1:{proxy.port}/", session


def retrying(attempts: int = 3, **parts) -> Policy:
    return Policy("p", retry=Retry(attempts=attempts, backoff=AT_ONCE), **parts)


async def outcome(session, url: str, method: str = "GET", **options):
    """The status with the body read, or the error."""
    try:
        async with session.request(method, url, **options) as response:
            await response.read()
            return response.status
    except Exception as error:
        return error


async def patient_outcome(session, url: str):
    """The same, asked again where a deadline passed that is short for the sake of another request."""
    for _ in range(20):
        if not isinstance(found := await outcome(session, url), DeadlineExceeded):
            break
    return found


# What it is.


def test_it_is_aiohttps_session_and_warns_of_nothing_even_where_aiohttp_looks_at_attributes():
    async def main():
        async with ClientSession(policy=Policy("p"), headers={"X": "1"}) as session:
            assert isinstance(session, aiohttp.ClientSession)
            assert set(vars(session)) <= session.ATTRS  # what aiohttp's debug mode checks

    asyncio.run(main())


def test_what_the_user_brings_is_used():
    class Mine(aiohttp.ClientResponse):
        pass

    class Req(aiohttp.ClientRequest):
        pass

    async def main():
        seen = []
        traces = aiohttp.TraceConfig()

        async def end(session, context, params):
            seen.append(params.response.status)

        traces.on_request_end.append(end)
        resolver = aiohttp.ThreadedResolver()
        connector = aiohttp.TCPConnector(resolver=resolver, limit=7)
        options = {"connector": connector, "response_class": Mine, "request_class": Req, "trace_configs": [traces]}
        async with serving(statuses(200), **options) as (server, session):
            assert session.connector is connector
            assert connector._resolver is resolver
            async with session.get(server.url) as response:
                assert isinstance(response, Mine)
                assert await response.text() == "hello"
            assert seen == [200]

    asyncio.run(main())


def test_base_url_json_and_every_verb():
    async def main():
        async with Server(statuses(200)) as server, ClientSession(server.url, policy=retrying()) as session:
            for verb in ("get", "options", "head", "post", "put", "patch", "delete"):
                async with getattr(session, verb)("a", **({"json": {"x": 1}} if verb == "post" else {})) as response:
                    assert response.status == 200
                    response.close()
            assert [r.method for r in server.requests] == ["GET", "OPTIONS", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
            assert {r.path for r in server.requests} == {"/a"}
            assert server.requests[3].body == b'{"x": 1}'

    asyncio.run(main())


# Headers, attempts.


def test_each_attempt_tells_its_number_and_what_is_left_and_all_have_one_id():
    async def main():
        async with serving(statuses(503, 503, 200), retrying(deadline=20.0)) as (server, session):
            assert await outcome(session, server.url) == 200
            assert await outcome(session, server.url) == 200
        first, second = server.requests[:3], server.requests[3:]
        assert [r.headers["x-request-attempt"] for r in first] == ["1", "2", "3"]
        assert all(15_000 <= int(r.headers["x-request-timeout-ms"]) <= 20_000 for r in first)
        assert len({r.headers["x-request-id"] for r in first}) == 1
        assert second[0].headers["x-request-id"] != first[0].headers["x-request-id"]

    asyncio.run(main())


def test_an_id_of_the_callers_stays():
    async def main():
        async with serving(statuses(503, 200), retrying(), headers={"X-Request-Id": "session"}) as (server, session):
            assert await outcome(session, server.url) == 200
            assert await outcome(session, server.url, headers={"x-request-id": "mine"}) == 200
        assert [r.headers["x-request-id"] for r in server.requests] == ["session", "session", "mine"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("method", "options", "seen"),
    [
        ("GET", {}, 3),
        ("PUT", {"data": b"x" * 9}, 3),
        ("DELETE", {}, 3),
        ("POST", {}, 1),
        ("PATCH", {"data": b"x"}, 1),
        ("POST", {"headers": {"Idempotency-Key": "k"}, "json": {"a": 1}}, 3),
        ("PUT", {"data": io.BytesIO(b"12345")}, 3),
    ],
)
@pytest.mark.parametrize("failure", [503, 429, "reset"])
def test_what_is_idempotent_is_done_again_with_the_same_body(method, options, seen, failure):
    async def main():
        def reply(request):
            return [None] if failure == "reset" else [answer(failure)]

        async with serving(reply, retrying()) as (server, session):
            got = await outcome(session, server.url, method, **options)
            assert got == failure or isinstance(got, aiohttp.ServerDisconnectedError)
        assert len(server.requests) == seen
        assert len({r.body for r in server.requests}) == 1

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["generator", "pipe", "form with a pipe"])
def test_a_body_that_cannot_be_sent_again_is_sent_once(kind):
    async def pieces():
        yield b"one"

    async def main():
        ends = [os.fdopen(fd, mode) for fd, mode in zip(os.pipe(), ("rb", "wb"), strict=True)]
        ends[1].write(b"one")
        ends[1].close()
        data = pieces() if kind == "generator" else ends[0]
        if kind == "form with a pipe":
            data = aiohttp.FormData()
            data.add_field("file", ends[0])
        async with serving(statuses(503, 200), retrying()) as (server, session):
            assert await outcome(session, server.url, "PUT", data=data) == 503
        assert len(server.requests) == 1
        assert b"one" in server.requests[0].body
        ends[0].close()

    asyncio.run(main())


def test_a_body_that_cannot_be_sent_again_is_retried_where_no_connection_was_had():
    async def main():
        async def pieces():
            yield b"one"

        async with Server(statuses(200)) as server:
            pass
        async with ClientSession(policy=retrying()) as session:
            error = await outcome(session, server.url, "POST", data=pieces())
        assert isinstance(error, aiohttp.ClientConnectorError)
        assert any("gave up after 3 attempts" in note for note in error.__notes__)

    asyncio.run(main())


@pytest.mark.realtime
@pytest.mark.parametrize(("fault", "attempts"), [(TlsStall(), 2), (Silence(), 1)])
def test_an_attempt_that_was_cut_off_is_done_again_only_if_nothing_was_written(fault, attempts):
    async def main():
        policy = retrying(2, attempt_timeout=0.1)
        async with faulty(fault, policy=policy) as (_, _, url, session):
            error = await outcome(session, url.replace("http", "https") if attempts == 2 else url, "POST", data=b"x")
        assert isinstance(error, DeadlineExceeded)
        assert error.attempt == attempts

    asyncio.run(main())


def test_aiohttps_own_silent_resend_is_off_and_the_policys_is_counted():
    async def main():
        async with serving(lambda r: [None], retrying(1)) as (server, session):
            assert isinstance(await outcome(session, server.url), aiohttp.ServerDisconnectedError)
            assert len(server.requests) == 1

    asyncio.run(main())


def test_retry_after_replaces_the_backoff_and_is_capped():
    async def main():
        slow = Backoff(base=30.0, cap=30.0, jitter="none")
        policy = Policy("p", retry=Retry(attempts=3, backoff=slow, delay_max=0.05))
        replies = [answer(503, Retry_After="0"), answer(429, Retry_After="3600"), answer(200)]
        async with serving(lambda r: [replies.pop(0)], policy) as (server, session):
            watch = Stopwatch()
            assert await outcome(session, server.url) == 200
            assert 0.04 < watch.elapsed
            assert watch.took < 1.0
        assert len(server.requests) == 3

    asyncio.run(main())


def test_the_body_of_a_failure_is_read_so_that_its_connection_serves_the_next_attempt():
    async def main():
        long = b"x" * 100_000
        whole = answer(503, long)

        def reply(request):
            return [whole[:50_000], 0.02, whole[50_000:]] if len(server.requests) < 3 else [answer(200)]

        async with serving(reply, retrying()) as (server, session):
            assert await outcome(session, server.url) == 200
            assert len(server.requests) == 3
            assert server.connections == 1

    asyncio.run(main())


@pytest.mark.parametrize("chunked", [False, True])
def test_a_failure_with_a_body_too_long_to_wait_for_is_the_answer_and_complete(chunked):
    async def main():
        long = b"0123456789" * 200_000
        chunks = [b"HTTP/1.1 503 Said\r\nTransfer-Encoding: chunked\r\n\r\n"]
        chunks += [b"2710\r\n" + long[:10_000] + b"\r\n"] * 200 + [b"0\r\n\r\n"]
        async with serving(lambda r: chunks if chunked else [answer(503, long)], retrying()) as (server, session):
            async with session.get(server.url) as response:
                assert response.status == 503
                assert b"".join([piece async for piece in response.content.iter_chunked(7777)]) == long
            assert len(server.requests) == 1

    asyncio.run(main())


def test_a_failure_whose_last_answer_was_read_can_still_be_read_in_every_way():
    async def main():
        async with serving(lambda r: [answer(503, b"a\n")[:-1], 0.01, b"\n"], retrying(2)) as (server, session):
            async with session.get(server.url) as response:
                assert await response.text() == "a\n"
            async with session.get(server.url) as response:
                assert [line async for line in response.content] == [b"a\n"]

    asyncio.run(main())


@pytest.mark.realtime
def test_a_failure_whose_body_stalls_ends_with_its_attempt():
    async def main():
        policy = retrying(2, attempt_timeout=0.15)
        async with serving(lambda r: [answer(503)[:-1], 9.0], policy) as (server, session):
            watch = Stopwatch()
            error = await outcome(session, server.url)
            assert isinstance(error, DeadlineExceeded)
            assert error.attempt == 2
            assert watch.took < 0.3 + LATE

    asyncio.run(main())


# Deadlines.


@pytest.mark.realtime
@pytest.mark.parametrize("fault", [Silence(), Drip(interval=0.03), Silence(after=3, where="body"), Silence(after=3, where="headers")])
def test_the_deadline_holds_over_headers_and_body_and_the_error_says_what_ran_out(fault):
    async def main():
        async with faulty(fault, policy=retrying(deadline=0.3)) as (_, _, url, session):
            watch = Stopwatch()
            error = await outcome(session, url)
            assert 0.29 < watch.elapsed
            assert watch.took < 0.3 + LATE
        assert isinstance(error, (DeadlineExceeded, aiohttp.ServerTimeoutError))
        assert isinstance(error, holdfast.DeadlineExceeded)
        assert isinstance(error, TimeoutError)
        assert isinstance(error, aiohttp.ClientError)
        assert str(error).startswith("p: deadline of 0.3 s exceeded after 0.3")
        assert str(error).endswith("s, in attempt 1")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is DeadlineExceeded
        assert str(again) == str(error)

    asyncio.run(main())


WAYS = {
    "read": lambda r: r.read(),
    "text": lambda r: r.text(),
    "json": lambda r: r.json(),
    "iter_chunked": lambda r: _drain(r.content.iter_chunked(10)),
    "iter_any": lambda r: _drain(r.content.iter_any()),
    "iter_chunks": lambda r: _drain(r.content.iter_chunks()),
    "lines": lambda r: _drain(r.content),
    "readexactly": lambda r: r.content.readexactly(1000),
    "readchunk": lambda r: _drain(r.content.iter_chunks()),
    "wait_eof": lambda r: r.content.wait_eof(),
}


async def _drain(pieces):
    async for _ in pieces:
        pass


@pytest.mark.realtime
@pytest.mark.parametrize("way", WAYS)
def test_the_deadline_holds_however_the_body_is_read_and_its_connection_is_not_used_again(way):
    async def main():
        slow = [answer(200, b"x" * 1000)[:-1000], *[b"x", 0.02] * 1000]
        policy = Policy("p", deadline=0.3, bulkhead=Bulkhead(limit=1))
        async with serving(lambda r: slow if r.path == "/" else [answer(200)], policy) as (server, session):
            watch = Stopwatch()
            response = await session.get(server.url)  # nobody closes it
            with pytest.raises(DeadlineExceeded, match=r"p: deadline of 0.3 s exceeded after 0\.\d+ s, in attempt 1"):
                await WAYS[way](response)
            assert watch.took < 0.3 + LATE
            with pytest.raises(DeadlineExceeded):
                await response.content.read()
            assert await outcome(session, server.url + "next") == 200
            assert server.connections == 2

    asyncio.run(main())


@pytest.mark.realtime
def test_a_cut_off_attempts_connection_is_not_used_again_and_healthy_ones_are():
    async def main():
        async with faulty(None, policy=Policy("p", attempt_timeout=0.4)) as (server, proxy, url, session):
            assert await outcome(session, url) == 200
            assert await outcome(session, url) == 200
            assert server.connections == 1
            proxy.set(Silence(after=3, where="headers"))
            assert isinstance(await outcome(session, url), DeadlineExceeded)
            proxy.clear()
            for _ in range(3):
                async with session.get(url) as response:
                    assert await response.read() == b"hello"
            assert server.connections == 2

    asyncio.run(main())


@pytest.mark.realtime
@pytest.mark.parametrize("options", [{}, {"timeout": aiohttp.ClientTimeout(5.0)}], ids=["", "with a timeout of its own"])
def test_a_post_does_not_go_out_on_a_connection_that_ended_while_the_loop_was_busy(options):
    """Nobody has told aiohttp yet; what was not written is written elsewhere, whatever its method."""

    def serve() -> None:
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            closed.set()

    async def main() -> list[int]:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        statuses = []
        async with ClientSession(policy=Policy("p", deadline=5.0, retry=Retry(attempts=2, backoff=Backoff(base=0.01)))) as session:
            for _ in range(2):
                async with session.post(url, data=b"1", **options) as response:
                    statuses.append(response.status)
                closed.wait(5.0)  # the loop with it
        return statuses

    closed = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert asyncio.run(main()) == [200, 200]
        thread.join(5.0)


def test_redirects_and_attempts_share_the_deadline():
    async def main():
        def reply(request):
            return [0.12, answer(302, b"", Location="/next")]

        async with serving(reply, retrying(deadline=0.3)) as (server, session):
            watch = Stopwatch()
            assert isinstance(await outcome(session, server.url), DeadlineExceeded)
            assert watch.took < 0.3 + LATE
            assert 1 < len(server.requests) <= 3
            assert len({r.headers["x-request-id"] for r in server.requests}) == 1

    asyncio.run(main())


@pytest.mark.realtime
def test_the_deadline_around_the_call_holds_too_and_is_not_the_servers_fault():
    async def main():
        policy = Policy("p", breaker=Breaker(consecutive=1))
        async with faulty(Silence(), policy=policy) as (_, _, url, session):
            watch = Stopwatch()
            with pytest.raises(holdfast.DeadlineExceeded, match=r"deadline of 0\.1 s"):
                async with holdfast.deadline(0.1):
                    await session.get(url)
            assert watch.took < 0.1 + LATE
            with holdfast.deadline(0.1):  # tells, and does not cancel: the client keeps it
                assert isinstance(await outcome(session, url), DeadlineExceeded)
            assert watch.took < 0.2 + 2 * LATE
        assert policy.breaker.state == "closed"

    asyncio.run(main())


def test_the_callers_own_cancellation_stays_one_and_gives_everything_back():
    async def main():
        policy = retrying(deadline=5.0, bulkhead=Bulkhead(limit=1))
        async with faulty(Silence(), policy=policy) as (_, proxy, url, session):
            task = asyncio.create_task(outcome(session, url))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            proxy.clear()
            assert await outcome(session, url) == 200

    asyncio.run(main())


# Timeouts.


def test_timeouts_are_never_none_unless_the_caller_says_so():
    async def main():
        async with ClientSession() as session:
            assert (session.timeout.total, session.timeout.connect, session.timeout.sock_read) == (300.0, 5.0, 10.0)
        async with ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            assert (session.timeout.total, session.timeout.connect, session.timeout.sock_read) == (2, 5.0, 10.0)
        async with ClientSession(timeout=aiohttp.ClientTimeout(sock_connect=20, sock_read=0)) as session:
            assert (session.timeout.connect, session.timeout.sock_connect, session.timeout.sock_read) == (25.0, 20, 0)

    asyncio.run(main())


@pytest.mark.realtime
@pytest.mark.parametrize("where", ["session", "request"])
def test_a_total_timeout_is_a_deadline_for_all_attempts(where):
    async def main():
        policy = retrying(5, breaker=Breaker(consecutive=1))
        timeout = {"timeout": aiohttp.ClientTimeout(total=0.15)}
        session_has = timeout if where == "session" else {}
        async with faulty(Silence(), policy=policy, **session_has) as (_, _, url, session):
            watch = Stopwatch()
            error = await outcome(session, url, **({} if session_has else timeout))
            assert watch.took < 0.15 + LATE
        assert isinstance(error, DeadlineExceeded)
        assert "deadline of 0.15 s" in str(error)
        assert policy.breaker.state == "open"  # the server had all the time there was

    asyncio.run(main())


@pytest.mark.realtime
def test_a_read_timeout_is_aiohttps_and_retried():
    async def main():
        async with faulty(Silence(), policy=retrying(2)) as (_, _, url, session):
            error = await outcome(session, url, timeout=aiohttp.ClientTimeout(sock_read=0.05))
        assert isinstance(error, aiohttp.SocketTimeoutError)
        assert any("gave up after 2 attempts" in note for note in error.__notes__)

    asyncio.run(main())


@pytest.mark.realtime
def test_the_default_total_yields_to_a_policys_deadline_and_the_callers_does_not():
    async def main():
        async with serving(statuses(200), Policy("p", deadline=900.0)) as (server, session):
            await outcome(session, server.url)
            await outcome(session, server.url, timeout=aiohttp.ClientTimeout(total=7))
            await outcome(session, server.url, timeout=3)
        left = [int(r.headers["x-request-timeout-ms"]) for r in server.requests]
        assert left[0] > 890_000
        assert 6_000 < left[1] <= 7_000
        assert 2_000 < left[2] <= 3_000

    asyncio.run(main())


# Permits, breakers, refusals.


def test_a_response_holds_its_place_until_it_is_read_closed_or_forgotten():
    async def main():
        policy = Policy("p", bulkhead=Bulkhead(limit=1))
        whole = answer(200, b"x" * 1000)
        async with serving(lambda r: [whole[:-900], 0.03, whole[-900:]], policy) as (server, session):
            response = await session.get(server.url)
            refusal = await outcome(session, server.url)
            assert type(refusal) is BulkheadFull
            assert isinstance(refusal, aiohttp.ClientConnectionError)
            assert type(pickle.loads(pickle.dumps(refusal))) is BulkheadFull
            assert await response.read() == b"x" * 1000
            for end in ("close", "release", "with", "forget"):
                response = await session.get(server.url)
                if end == "with":
                    async with response:
                        pass
                elif end == "forget":
                    del response
                else:
                    getattr(response, end)()
                response = await session.get(server.url)  # there is a place
                await response.read()

    asyncio.run(main())


@pytest.mark.realtime
def test_a_response_that_is_kept_and_not_read_gives_its_place_and_connection_back_at_the_deadline():
    async def main():
        policy = Policy("p", deadline=0.3, bulkhead=Bulkhead(limit=1))
        async with serving(lambda r: [answer(200)[:-2], 9.0] if r.path == "/" else [answer()], policy) as (server, session):
            kept = await session.get(server.url)
            await asyncio.sleep(0.35)
            assert kept.closed
            assert not session.connector._acquired
            assert await patient_outcome(session, server.url + "next") == 200

    asyncio.run(main())


def test_who_keeps_only_the_stream_can_go_on_reading():
    async def main():
        policy = Policy("p", bulkhead=Bulkhead(limit=1))
        whole = answer(200, b"x" * 1000)
        async with serving(lambda r: [whole[:-900], 0.03, whole[-900:]], policy) as (server, session):
            content = (await session.get(server.url)).content
            assert await content.read() == b"x" * 1000
            await outcome(session, server.url)
            assert server.connections == 1  # it went back

    asyncio.run(main())


def test_what_a_streamed_response_was_counts_when_it_ends():
    async def main():
        policy = Policy("p", breaker=Breaker(consecutive=1))
        whole = answer(200, b"x" * 1000)
        async with serving(lambda r: [whole[:-900], 0.02, None], policy) as (server, session):
            response = await session.get(server.url)
            assert policy.breaker.state == "closed"
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
            assert policy.breaker.state == "open"
            refusal = await outcome(session, server.url)
            assert type(refusal) is BreakerOpen
            assert isinstance(refusal, aiohttp.ClientConnectionError)
            assert len(server.requests) == 1

    asyncio.run(main())


@pytest.mark.parametrize(("status", "state"), [(404, "closed"), (200, "closed"), (500, "open"), (429, "open")])
def test_only_the_servers_failures_count(status, state):
    async def main():
        policy = Policy("p", breaker=Breaker(consecutive=1))
        async with serving(statuses(status), policy) as (server, session):
            assert await outcome(session, server.url) == status
        assert policy.breaker.state == state

    asyncio.run(main())


def test_a_streamed_failure_counts_as_one_when_it_ends():
    async def main():
        policy = Policy("p", breaker=Breaker(consecutive=1))
        async with serving(lambda r: [answer(500)[:-1], 0.02, b"o"], policy) as (server, session):
            assert await outcome(session, server.url, "POST") == 500
        assert policy.breaker.state == "open"

    asyncio.run(main())


def test_a_bad_url_is_aiohttps_error_and_nobodys_failure():
    async def main():
        policy = retrying(breaker=Breaker(consecutive=1))
        async with ClientSession(policy=policy) as session:
            assert isinstance(await outcome(session, "http:///x"), aiohttp.InvalidURL)
            assert isinstance(await outcome(session, "ftp://example.test/"), aiohttp.NonHttpUrlClientError)
            error = await outcome(session, "http://2130706433/")  # only the connector sees what is wrong with it
            assert isinstance(error, aiohttp.InvalidURL)
            assert not hasattr(error, "__notes__")  # nobody tried again
        assert policy.breaker.state == "closed"

    asyncio.run(main())


def test_a_used_up_rate_is_a_connection_error():
    async def main():
        async with serving(statuses(200), Policy("p", rate_limit=RateLimit(1, per=60.0))) as (server, session):
            assert await outcome(session, server.url) == 200
            assert type(await outcome(session, server.url)) is RateLimited

    asyncio.run(main())


def test_each_host_has_its_policy():
    async def main():
        here, others = Policy("here", breaker=Breaker(consecutive=1)), Policy("others", breaker=Breaker(consecutive=1))
        async with serving(statuses(500), {"LOCALHOST": here, "*": others}) as (server, session):
            assert await outcome(session, server.url.replace("127.0.0.1", "localhost")) == 500
            assert (here.breaker.state, others.breaker.state) == ("open", "closed")
            assert await outcome(session, server.url) == 500
            assert others.breaker.state == "open"

    asyncio.run(main())


def test_a_redirect_to_another_host_passes_that_hosts_policy():
    async def main():
        there = Policy("there", breaker=Breaker(consecutive=1))
        there.breaker.force_open()

        def reply(request):
            return [answer(302, b"", Location=server.url.replace("127.0.0.1", "localhost"))]

        async with serving(reply, {"localhost": there}) as (server, session):
            assert isinstance(await outcome(session, server.url), BreakerOpen)

    asyncio.run(main())


def test_redirects_change_methods_and_drop_secrets_as_ever():
    async def main():
        def reply(request):
            return [answer(303, b"", Location=server.url.replace("127.0.0.1", "localhost"))] if request.method == "POST" else [answer()]

        async with serving(reply, retrying()) as (server, session):
            async with session.post(server.url, data=b"x", headers={"Authorization": "secret"}) as response:
                assert [r.status for r in response.history] == [303]
        post, get = server.requests
        assert (post.method, get.method, get.body) == ("POST", "GET", b"")
        assert "authorization" in post.headers
        assert "authorization" not in get.headers
        assert post.headers["x-request-id"] == get.headers["x-request-id"]

    asyncio.run(main())


def test_an_authentication_in_several_steps_is_one_call():
    async def main():
        async def sign(request, handler):
            response = await handler(request)
            if response.status == 401:
                await response.read()
                request.headers["Authorization"] = "yes"
                response = await handler(request)
            return response

        def reply(request):
            return [answer(200 if "authorization" in request.headers else 401)]

        async with serving(reply, retrying(), middlewares=(sign,)) as (server, session):
            assert await outcome(session, server.url) == 200
            assert await outcome(session, server.url, middlewares=()) == 401
        assert server.requests[0].headers["x-request-id"] == server.requests[1].headers["x-request-id"]

    asyncio.run(main())


def test_raise_for_status_raises_after_the_last_attempt_and_gives_the_place_back():
    async def main():
        policy = retrying(2, bulkhead=Bulkhead(limit=1))
        async with serving(statuses(503), policy, raise_for_status=True) as (server, session):
            for seen in (2, 4):
                with pytest.raises(aiohttp.ClientResponseError, match="503"):
                    await session.get(server.url)
                assert len(server.requests) == seen

    asyncio.run(main())


@pytest.mark.realtime
def test_a_hedge_takes_the_first_answer_and_cuts_the_other():
    async def main():
        policy = Policy("p", hedge=Hedge(after=0.05), bulkhead=Bulkhead(limit=2))

        def reply(request):
            return [3.0, answer(200)] if len(server.requests) == 1 else [answer(200)]

        async with serving(reply, policy) as (server, session):
            watch = Stopwatch()
            assert await outcome(session, server.url) == 200
            assert watch.took < 1.0
            assert len(server.requests) == 2
            assert not session.connector._acquired

    asyncio.run(main())


def test_a_websockets_handshake_passes_the_policy_and_the_websocket_outlives_its_deadline():
    async def echo(request):
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            await ws.send_str(message.data)
        return ws

    async def main():
        app = web.Application()
        app.router.add_get("/", echo)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        policy = Policy("p", deadline=0.4, bulkhead=Bulkhead(limit=1))
        async with ClientSession(policy=policy) as session:
            async with session.ws_connect(f"http://127.0.0.1:{port}/") as ws, session.ws_connect(f"http://127.0.0.1:{port}/") as other:
                await asyncio.sleep(0.5)
                await ws.send_str("a")
                await other.send_str("b")
                assert (await ws.receive_str(), await other.receive_str()) == ("a", "b")
        await runner.cleanup()

    asyncio.run(main())


# Names.


@pytest.fixture
def stalled(monkeypatch):
    """Every look-up of a name hangs until the test is over."""
    over = threading.Event()

    def hang(*query):
        over.wait(20)
        raise dns.socket.gaierror(dns.socket.EAI_AGAIN, "over")

    monkeypatch.setattr(dns.RESOLVER, "_look_up", hang)
    yield
    over.set()


@pytest.mark.realtime
def test_a_look_up_that_hangs_holds_neither_the_deadline_nor_a_task(stalled):
    async def main():
        async with ClientSession(policy=Policy("p", deadline=0.15)) as session:
            watch = Stopwatch()
            assert isinstance(await outcome(session, "http://stalled.example.test/", "POST"), DeadlineExceeded)
            assert watch.took < 0.15 + LATE
        assert len(asyncio.all_tasks()) == 1
        assert asyncio.get_running_loop()._default_executor is None

    asyncio.run(main())


@pytest.mark.realtime
def test_a_process_ends_at_once_while_a_look_up_hangs():
    code = """
import asyncio, time
from holdfast import Policy
from holdfast.clients.aiohttp import ClientSession
from holdfast.net import dns
dns.RESOLVER._look_up = lambda *query: time.sleep(20)
async def main():
    async with ClientSession(policy=Policy("p", deadline=0.1)) as session:
        await session.get("http://stalled.example.test/")
try:
    asyncio.run(main())
except TimeoutError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=15, check=True)
    assert "p: deadline of 0.1 s exceeded" in said.stdout
    assert not said.stderr


def test_names_are_looked_up_by_the_resolver_and_failures_are_aiohttps():
    async def main():
        found = await Resolver().resolve("localhost", 80, dns.socket.AF_INET)
        assert found[0]["host"] == "127.0.0.1"
        assert found[0]["hostname"] == "localhost"
        async with serving(statuses(200)) as (server, session):
            assert await outcome(session, server.url.replace("127.0.0.1", "localhost")) == 200
            assert isinstance(await outcome(session, "http://nobody.invalid/"), aiohttp.ClientConnectorDNSError)
            assert asyncio.get_running_loop()._default_executor is None

    asyncio.run(main())


# What is left.


@pytest.mark.realtime
@pytest.mark.parametrize("fault", [Silence(), Drip(interval=0.02), Reset(where="data"), Silence(after=3, where="body"), TlsStall()])
def test_200_calls_that_are_cut_off_leave_nothing(fault):
    def fds() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def main():
        scheme = "https" if isinstance(fault, TlsStall) else "http"
        policy = Policy("p", deadline=5.0 if isinstance(fault, Reset) else 0.25, bulkhead=Bulkhead(limit=100))
        async with faulty(fault, policy=policy) as (_, proxy, url, session):
            await outcome(session, url.replace("http", scheme))
            tasks, threads = len(asyncio.all_tasks()), threading.active_count()
            loop = asyncio.get_running_loop()
            for _ in range(2):
                got = await asyncio.gather(*(outcome(session, url.replace("http", scheme)) for _ in range(100)))
                wanted = aiohttp.ClientConnectionError if isinstance(fault, Reset) else DeadlineExceeded
                assert all(isinstance(each, wanted) for each in got), got[0]
            until = time.monotonic() + 2
            while (len(asyncio.all_tasks()) > tasks or proxy.counts.open) and time.monotonic() < until:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # the other side's ends
            assert len(asyncio.all_tasks()) <= tasks
            assert not session.connector._acquired
            assert not session.connector._conns
            assert threading.active_count() <= threads
            gc.collect()
            assert [h for h in loop._scheduled if not h.cancelled() and "aiohttp" in repr(h)] == []

    before = fds()
    asyncio.run(main())
    gc.collect()
    assert fds() <= before


def test_an_error_keeps_no_traceback_of_an_older_one():
    async def main():
        async with serving(statuses(200), Policy("p", bulkhead=Bulkhead(limit=1))) as (_, session):
            try:
                raise holdfast.DeadlineExceeded("somebody else", 1.0, 1.0)
            except holdfast.DeadlineExceeded:
                error = await outcome(session, "http://127.0.0.1:1/")
            assert isinstance(error, aiohttp.ClientConnectorError), traceback.format_exception(error)

    asyncio.run(main())


@pytest.mark.realtime
def test_a_tls_connection_that_was_cut_off_before_its_answer_is_gone_at_once():
    """TLS would wait for the last word of a peer that is silent, half a minute."""

    async def main(url):
        async with ClientSession(policy=Policy("p", deadline=0.2)) as session:
            before = open_fds()
            with pytest.raises(DeadlineExceeded):
                await session.get(url, ssl=client_context())
            await asyncio.sleep(0.05)
            assert open_fds() <= before + 1  # the server's side

    def silent(_request):
        time.sleep(1.0)
        return servers.Answer()

    with servers.serving(silent, tls=True) as server:
        asyncio.run(main(server.url))


@pytest.mark.realtime
def test_a_look_up_that_nobody_waits_for_leaves_its_task_for_as_long_as_a_connection_may_take(stalled):
    async def main():
        connector = aiohttp.TCPConnector(resolver=Resolver(timeout=0.3))
        async with ClientSession(policy=Policy("p", deadline=0.1), connector=connector) as session:
            for number in range(5):
                assert isinstance(await outcome(session, f"http://{number}.example.test/", "POST"), DeadlineExceeded)
            await asyncio.sleep(0.4)
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
