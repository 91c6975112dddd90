"""httpx behind policies, blocking and async: what is retried, what goes out, what holds while a response is read, what is raised."""

from __future__ import annotations

import asyncio
import gc
import pickle
import random
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import trio

import holdfast
from certificates import client_context
from holdfast import Backoff, Breaker, Bulkhead, Hedge, Policy, RateLimit, Retry
from holdfast.clients.httpx import AsyncClient, AsyncTransport, BreakerOpen, BulkheadFull, Client, DeadlineExceeded, RateLimited, Transport
from holdfast.testing.faults import Cut, Drip, FaultProxy, Reset, Silence
from servers import Answer, Request, script, serving, soon
from stopwatch import Stopwatch, patiently

pytestmark = pytest.mark.realtime

LATE = 0.10
SOON = Backoff(base=0.001, cap=0.001)


def retrying(attempts: int = 3, **parts: Any) -> Policy:
    return Policy("billing", retry=Retry(attempts=attempts, backoff=SOON), **parts)


class Drive:
    """One way to say what both clients do."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self, policy: Any, work: Callable[[Any], Any], **options: Any) -> Any:
        """Open a client, and let `work` talk through it; it gets an object whose methods block, whichever client is below."""
        options.setdefault("verify", False)  # loading the certificates takes longer than some deadlines here
        if self.kind == "sync":
            with Client(policy=policy, **options) as client:
                return work(_Sync(client))
        if self.kind == "trio":
            return trio.run(self._in_trio, policy, work, options)
        with asyncio.Runner() as runner:

            async def make() -> AsyncClient:
                return AsyncClient(policy=policy, **options)

            client = runner.run(make())
            try:
                return work(_Blocking(client, runner.run))
            finally:
                runner.run(client.aclose())

    async def _in_trio(self, policy: Any, work: Callable[[Any], Any], options: dict[str, Any]) -> Any:
        async with AsyncClient(policy=policy, **options) as client:
            return await trio.to_thread.run_sync(work, _Blocking(client, _from_trio))

    def transport(self, policy: Any, **options: Any) -> Any:
        return Transport(policy, **options) if self.kind == "sync" else AsyncTransport(policy, **options)


def _from_trio(coroutine: Any) -> Any:
    async def awaited() -> Any:
        return await coroutine

    return trio.from_thread.run(awaited)


class _Sync:
    def __init__(self, client: Client) -> None:
        self.client = client

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self.client.request(method, url, **options)

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.request("GET", url, **options)

    def open(self, url: str, method: str = "GET", **options: Any) -> httpx.Response:
        return self.client.send(self.client.build_request(method, url, **options), stream=True)

    def read(self, response: httpx.Response) -> bytes:
        return response.read()

    def close(self, response: httpx.Response) -> None:
        response.close()

    def chunks(self) -> Any:
        return iter([b"a", b"b"])


class _Blocking(_Sync):
    def __init__(self, client: Any, run: Callable[[Any], Any]) -> None:
        super().__init__(client)
        self._run = run

    def request(self, method: str, url: str, **options: Any) -> httpx.Response:
        return self._run(self.client.request(method, url, **options))

    def open(self, url: str, method: str = "GET", **options: Any) -> httpx.Response:
        return self._run(self.client.send(self.client.build_request(method, url, **options), stream=True))

    def read(self, response: httpx.Response) -> bytes:
        return self._run(response.aread())

    def close(self, response: httpx.Response) -> None:
        self._run(response.aclose())

    def chunks(self) -> Any:
        async def made() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return made()


@pytest.fixture(params=["sync", "asyncio", "trio"])
def drive(request: pytest.FixtureRequest) -> Drive:
    return Drive(request.param)


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    watch = Stopwatch()
    yield
    assert seconds - 0.02 <= watch.elapsed
    assert watch.took <= seconds + LATE


# What is done again.


@pytest.mark.parametrize(
    ("method", "tries"), [("GET", 3), ("HEAD", 3), ("PUT", 3), ("DELETE", 3), ("OPTIONS", 3), ("POST", 1), ("PATCH", 1)]
)
def test_failures_are_retried_where_that_does_no_harm(drive, method, tries):
    """A 503 is a failure; only idempotent methods are sent again."""
    with serving(script(503)) as server:
        assert drive.run(retrying(), lambda client: client.request(method, server.url).status_code) == 503
        assert len(server.requests) == tries


def test_a_post_with_an_idempotency_key_is_retried(drive):
    """The key says that doing it twice is doing it once."""
    with serving(script(503, 200)) as server:
        response = drive.run(retrying(), lambda client: client.request("POST", server.url, content=b"x", headers={"Idempotency-Key": "k"}))
        assert response.status_code == 200
        assert [request.body for request in server.requests] == [b"x", b"x"]


@pytest.mark.parametrize("status", [400, 401, 404, 409, 418, 499])
def test_what_the_request_is_to_blame_for_is_no_failure(drive, status):
    """4xx but 429 is not retried, and for the breaker the server is well."""
    policy = retrying(breaker=Breaker(consecutive=1))
    with serving(script(status)) as server:
        assert drive.run(policy, lambda client: client.get(server.url)).status_code == status
        assert len(server.requests) == 1
    assert policy.breaker.state == "closed"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_the_server_is_to_blame_for_is_one(drive, status):
    """It is retried, the last answer is handed out, and the breaker counts it."""
    policy = retrying(2, breaker=Breaker(consecutive=2))
    with serving(script(status)) as server:
        assert drive.run(policy, lambda client: client.get(server.url)).status_code == status
        assert len(server.requests) == 2
    assert policy.breaker.state == "open"


def test_a_post_that_never_left_is_retried(drive):
    """A refused connection did nothing, so any method may try again."""
    with serving() as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        policy = Policy("billing", retry=Retry(attempts=3, backoff=SOON))
        with pytest.raises(httpx.ConnectError) as raised:
            drive.run(policy, lambda client: client.request("POST", f"http://127.0.0.1:{port}", content=b"x"))
        assert "gave up after 3 attempts" in raised.value.__notes__[0]
        proxy.set(Reset(where="data"))
        with pytest.raises(httpx.HTTPError) as raised:
            drive.run(policy, lambda client: client.request("POST", f"http://127.0.0.1:{proxy.port}", content=b"x"))
        assert not getattr(raised.value, "__notes__", [])
        assert proxy.counts.connections == 1


def test_a_failure_in_the_middle_of_a_body_is_retried(drive):
    """The response was not handed out yet."""
    with serving(script(Answer(body=b"0123456789", cut=True), Answer(body=b"whole"))) as server:
        assert drive.run(retrying(), lambda client: client.get(server.url)).content == b"whole"


def test_a_body_that_cannot_be_sent_twice_is_sent_once(drive):
    """A generator is used up by the first attempt."""
    with serving(script(503, 200)) as server:
        response = drive.run(retrying(), lambda client: client.request("PUT", server.url, content=client.chunks()))
        assert response.status_code == 503
        assert [request.body for request in server.requests] == [b"ab"]


def test_a_transport_that_tells_nothing_is_believed_to_have_sent(drive):
    """What is put under the policy may be anything; a POST whose fate is unknown is not sent again, one that did not connect is."""
    calls: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append(request.method)
        raise (httpx.ConnectError if request.url.path == "/connect" else httpx.ReadError)("broken")

    for path, method, tries in (("/read", "POST", 1), ("/connect", "POST", 3), ("/read", "GET", 3)):
        calls.clear()
        with pytest.raises(httpx.NetworkError):
            drive.run(retrying(), lambda client: client.request(method, f"http://x{path}"), transport=httpx.MockTransport(handle))  # noqa: B023
        assert len(calls) == tries


def test_a_policy_over_a_policy_knows_what_was_sent(drive):
    """What the inner transport wrote is written for the outer client too."""
    with serving() as server, FaultProxy(("127.0.0.1", server.port), faults=[Cut(where="headers", after=3)]) as proxy:
        inner = drive.transport(Policy("inner"))
        with pytest.raises(httpx.RemoteProtocolError):
            drive.run(retrying(), lambda client: client.request("POST", f"http://127.0.0.1:{proxy.port}"), transport=inner)
        assert proxy.counts.connections == 1


# What goes out.


def test_the_headers_of_an_attempt(drive):
    """One id for the logical call, attempts from 1, and the time that is left, which shrinks."""
    with serving(script(Answer(503, pause=0.05), 503, 200)) as server:
        drive.run(retrying(deadline=5.0), lambda client: client.get(server.url))
        assert len(set(server.sent("X-Request-Id"))) == 1
        assert server.sent("X-Request-Attempt") == ["1", "2", "3"]
        left = [int(value or 0) for value in server.sent("X-Request-Timeout-Ms")]
        assert 5000 >= left[0] > left[1] + 40
        assert left[1] >= left[2] > 4000


def test_an_id_of_the_callers_stays_and_calls_have_their_own(drive):
    """A name that the caller gave is kept."""
    with serving() as server:

        def work(client: Any) -> None:
            client.get(server.url, headers={"x-request-id": "mine"})
            client.get(server.url)
            client.get(server.url)

        drive.run(None, work)
        sent = server.sent("X-Request-Id")
        assert sent[0] == "mine"
        assert len(set(sent)) == 3
        assert server.sent("X-Request-Timeout-Ms") == [None] * 3


def test_the_attempts_own_time_goes_out_where_it_is_less(drive):
    """The server need not work for longer than the attempt waits."""
    with serving() as server:
        drive.run(Policy("billing", deadline=10.0, attempt_timeout=1.0), lambda client: client.get(server.url))
        assert 500 < int(server.sent("X-Request-Timeout-Ms")[0] or 0) <= 1000


def test_retry_after_replaces_the_backoff_up_to_a_cap(drive):
    """A server that asks for an hour does not get it."""
    with serving(script(Answer(503, headers={"Retry-After": "1"}), 200)) as server, in_time(1.0):
        assert drive.run(retrying(), lambda client: client.get(server.url)).status_code == 200
    policy = Policy("billing", retry=Retry(attempts=2, backoff=SOON, delay_max=0.2))
    with serving(script(Answer(429, headers={"Retry-After": "3600"}), 200)) as server, in_time(0.2):
        assert drive.run(policy, lambda client: client.get(server.url)).status_code == 200


# Time.


def test_the_deadline_is_for_the_whole_body(drive):
    """A byte every so often does not lengthen it, and the error says what ran out, after how long, in which attempt."""
    with (
        serving(lambda _: Answer(body=b"x" * 1000)) as server,
        FaultProxy(("127.0.0.1", server.port), faults=[Drip(interval=0.01)]) as proxy,
    ):
        with (
            in_time(0.3),
            pytest.raises(DeadlineExceeded, match=r"billing: deadline of 0.3 s exceeded after 0\.\d+ s, in attempt 1") as raised,
        ):
            drive.run(Policy("billing", deadline=0.3), lambda client: client.get(f"http://127.0.0.1:{proxy.port}"))
        assert isinstance(raised.value, httpx.TimeoutException)
        assert isinstance(raised.value, holdfast.DeadlineExceeded)
        assert raised.value.request.method == "GET"


def test_a_body_in_countless_pieces_does_not_keep_the_deadline_waiting(drive):
    """Thousands of chunks of a byte are in hand at any time, and nobody waits for a thing that could be cut off."""
    chunks = b"1\r\nx\r\n" * 400_000
    answer = Answer(body=chunks + b"0\r\n\r\n", headers={"Transfer-Encoding": "chunked", "Connection": "close"})
    with serving(lambda _: answer) as server, in_time(0.3), pytest.raises(DeadlineExceeded):
        drive.run(Policy("billing", deadline=0.3), lambda client: client.get(server.url))


def test_the_deadline_is_for_redirects_together(drive):
    """Each hop is quick enough, and the chain is not."""

    def round_and_round(request: Request) -> Answer:
        return Answer(302, headers={"Location": f"/{int(request.path[1:] or 0) + 1}"}, pause=0.1)

    with serving(round_and_round) as server:
        with in_time(0.35), pytest.raises(DeadlineExceeded):
            drive.run(Policy("billing", deadline=0.35), lambda client: client.get(server.url, follow_redirects=True))
        assert len(set(server.sent("X-Request-Id"))) == 1
        assert 1 < len(server.requests) <= 4


def test_redirects_keep_their_meaning(drive):
    """A POST that is answered with 303 becomes a GET, and the history is httpx's."""
    with serving(lambda request: Answer(303, headers={"Location": "/there"}) if request.path == "/" else Answer(body=b"there")) as server:
        response = drive.run(retrying(), lambda client: client.request("POST", server.url + "/", content=b"x", follow_redirects=True))
        assert (response.content, len(response.history)) == (b"there", 1)
        assert [request.method for request in server.requests] == ["POST", "GET"]


def test_an_authentication_keeps_its_meaning(drive):
    """A digest challenge is answered within the same call and the same deadline."""
    challenge = Answer(401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'})
    with serving(lambda request: Answer(body=b"in") if "authorization" in request.headers else challenge) as server:
        response = drive.run(retrying(deadline=5.0), lambda client: client.get(server.url, auth=httpx.DigestAuth("a", "b")))
        assert response.content == b"in"
        assert len(server.requests) == 2
        assert len(set(server.sent("X-Request-Id"))) == 1


def test_the_wait_for_a_connection_is_bound_too(drive):
    """A pool whose only connection is taken keeps nobody beyond the deadline."""
    with serving(lambda _: Answer(body=b"x" * 10)) as server:

        def work(client: Any) -> None:
            taken = patiently(lambda: client.open(server.url))
            with in_time(0.2), pytest.raises(holdfast.DeadlineExceeded):
                client.get(server.url)
            client.close(taken)
            assert patiently(lambda: client.get(server.url)).status_code == 200

        drive.run(Policy("billing", deadline=0.2), work, limits=httpx.Limits(max_connections=1))


def test_an_own_timeout_that_comes_first_is_httpx_own(drive):
    """ReadTimeout and ConnectTimeout stay what they are, and the defaults are not endless."""
    with FaultProxy(faults=[Silence()]) as proxy:
        timeout = httpx.Timeout(5.0, read=0.1)
        with in_time(0.1), pytest.raises(httpx.ReadTimeout) as raised:
            drive.run(Policy("billing", deadline=5.0), lambda client: client.get(f"http://127.0.0.1:{proxy.port}", timeout=timeout))
        assert not isinstance(raised.value, holdfast.DeadlineExceeded)
    timeouts = drive.run(None, lambda client: client.client.timeout)
    assert (timeouts.connect, timeouts.read, timeouts.write, timeouts.pool) == (5.0, 10.0, 10.0, 10.0)


def test_the_caller_may_bound_it_from_outside():
    """An ambient deadline that is shorter than the policy's is the one that counts, and says nothing about the server."""
    policy = Policy("billing", deadline=5.0, breaker=Breaker(consecutive=1), attempt_timeout=2.0)
    with FaultProxy(faults=[Silence()]) as proxy, Client(policy=policy) as client:
        with in_time(0.15), pytest.raises(httpx.TimeoutException) as raised, holdfast.deadline(0.15):
            client.get(f"http://127.0.0.1:{proxy.port}")
        assert raised.value.budget == 0.15  # type: ignore[attr-defined]
    assert policy.breaker.state == "closed"


def test_an_error_that_was_being_handled_is_no_part_of_the_call():
    """Python chains what is handled to whatever is raised then; a refused connection stays one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(policy=Policy("billing")) as client:
        try:
            raise holdfast.DeadlineExceeded("other", 1.0)
        except holdfast.DeadlineExceeded:
            with pytest.raises(httpx.ConnectError) as raised:
                client.get(f"http://127.0.0.1:{port}")
    assert not isinstance(raised.value, holdfast.DeadlineExceeded)


# Streams.


def test_a_streamed_body_is_read_under_the_deadline(drive):
    """The headers came in time, the body does not."""
    with serving(lambda _: Answer(body=b"x" * 1000)) as server:
        with FaultProxy(("127.0.0.1", server.port), faults=[Silence(where="body", after=5)]) as proxy:

            def work(client: Any) -> None:
                watch = Stopwatch()
                response = client.open(f"http://127.0.0.1:{proxy.port}")
                with pytest.raises(DeadlineExceeded, match="in attempt 1"):
                    client.read(response)
                assert 0.28 < watch.elapsed
                assert watch.took < 0.3 + LATE
                client.close(response)

            policy = Policy("billing", deadline=0.3, bulkhead=Bulkhead(1), breaker=Breaker(consecutive=1))
            drive.run(policy, work)
            assert policy.snapshot()["limit"]["running"] == 0  # type: ignore[index]
            assert policy.breaker.state == "open"


def test_a_stream_holds_its_place_until_it_is_closed(drive):
    """Read to the end, closed early or forgotten: each gives it back once."""
    policy = Policy("billing", bulkhead=Bulkhead(1))

    def running() -> int:
        limit = policy.snapshot()["limit"]
        assert limit is not None
        return limit["running"]

    def work(client: Any) -> None:
        response = client.open(server.url)
        assert running() == 1
        with pytest.raises(BulkheadFull):
            client.get(server.url)
        assert client.read(response) == b"0123456789"
        assert running() == 0
        client.close(response)
        assert running() == 0
        response = client.open(server.url)
        client.close(response)
        assert running() == 0
        response = client.open(server.url)
        assert running() == 1
        del response
        gc.collect()
        assert running() == 0

    with serving(lambda _: Answer(body=b"0123456789")) as server:
        drive.run(policy, work, limits=httpx.Limits(max_connections=10))


def test_a_stream_that_failed_is_retried_before_it_is_handed_out(drive):
    """503 is not what anybody wants to stream."""
    with serving(script(503, Answer(body=b"good"))) as server:

        def work(client: Any) -> bytes:
            response = client.open(server.url)
            try:
                return client.read(response)
            finally:
                client.close(response)

        assert drive.run(retrying(), work) == b"good"


def test_a_long_failure_is_the_answer(drive):
    """The body of a failure is read only so far; what is longer is handed out whole, unread."""
    long = b"x" * 1_000_000
    with serving(script(Answer(503, body=long))) as server:

        def work(client: Any) -> bytes:
            response = client.open(server.url)
            try:
                return client.read(response)
            finally:
                client.close(response)

        assert drive.run(retrying(), work) == long


# Hosts, proxies, transports.


def test_each_host_has_its_policy(drive):
    """A mapping names hosts, "*" is for the others, and a breaker of one is not the other's."""
    one, others = Policy("one", breaker=Breaker(consecutive=1)), Policy("others")
    with serving(script(500)) as server:

        def work(client: Any) -> None:
            client.get(f"http://localhost:{server.port}")
            with pytest.raises(BreakerOpen) as raised:
                client.get(f"http://LOCALHOST:{server.port}")
            assert raised.value.policy == "one"
            assert client.get(f"http://127.0.0.1:{server.port}").status_code == 500

        drive.run({"localhost": one, "*": others}, work)
        assert len(server.requests) == 2
    with pytest.raises(TypeError, match="policy must be"):
        Client(policy={"a": 1})  # type: ignore[dict-item]


def test_a_proxy_and_mounts_are_behind_the_policy(drive):
    """Whatever carries the request, it passes the policy."""
    with serving(script(503, 200)) as server:
        response = drive.run(retrying(), lambda client: client.get("http://elsewhere.test/"), proxy=server.url)
        assert response.status_code == 200
        assert [request.path for request in server.requests] == ["http://elsewhere.test/"] * 2
    with serving(script(503, 200)) as server:
        made = httpx.HTTPTransport() if drive.kind == "sync" else httpx.AsyncHTTPTransport()
        response = drive.run(retrying(), lambda client: client.get(server.url), mounts={"http://127.0.0.1": made})
        assert response.status_code == 200


def test_a_unix_socket(drive, tmp_path):
    """`uds` of httpx works, and obeys the deadline."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        made = httpx.HTTPTransport(uds=path) if drive.kind == "sync" else httpx.AsyncHTTPTransport(uds=path)
        with in_time(0.2), pytest.raises(DeadlineExceeded):
            drive.run(Policy("billing", deadline=0.2), lambda client: client.get("http://x/"), transport=made)


def test_a_transport_under_a_client_that_exists():
    """`Transport` alone retries what has not been handed out, and bounds what has."""
    with serving(script(503, 200)) as server, httpx.Client(transport=Transport(retrying(deadline=5.0))) as client:
        assert client.get(server.url).status_code == 200
        assert server.sent("X-Request-Attempt") == ["1", "2"]


def test_tls(drive):
    """Over TLS too."""
    with serving(tls=True) as server:
        assert drive.run(retrying(deadline=5.0), lambda client: client.get(server.url).content, verify=client_context()) == b"ok"


# Refusals and errors.


def test_refusals_are_httpx_errors_too(drive):
    """`except httpx.ConnectError` catches what was refused, and nothing was sent."""
    policy = Policy("billing", breaker=Breaker(consecutive=1), rate_limit=RateLimit(1000.0))
    with serving() as server:
        policy.breaker.force_open()
        with pytest.raises(httpx.ConnectError) as raised:
            drive.run(policy, lambda client: client.get(server.url))
        assert isinstance(raised.value, (BreakerOpen, holdfast.BreakerOpen))
        assert isinstance(raised.value, holdfast.Rejected)
        assert raised.value.request.url == server.url
        assert not server.requests


@pytest.mark.parametrize(
    "error",
    [DeadlineExceeded("billing", 1.0, 1.1, True, 2), BreakerOpen("billing", 3.0), BulkheadFull("billing"), RateLimited("billing", 0.5)],
    ids=lambda error: type(error).__name__,
)
def test_errors_pickle(error):
    """With what they say, and with the request where there is one."""
    error._request = httpx.Request("GET", "http://x/")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.args) == (type(error), str(error), error.args)
    assert copy.request.url == "http://x/"
    assert isinstance(copy, (httpx.TimeoutException, httpx.ConnectError))


def test_a_bad_request_is_nobodys_failure(drive):
    """A URL that is none is the caller's mistake: not retried, not counted."""
    policy = retrying(breaker=Breaker(consecutive=1))
    with pytest.raises(httpx.UnsupportedProtocol):
        drive.run(policy, lambda client: client.get("ftp://x/"))
    assert policy.breaker.state == "closed"


# The pool.


@pytest.mark.parametrize("fault", [Silence(where="body", after=3), Silence(where="headers", after=3), Cut(where="body", after=3)])
def test_a_pool_stays_healthy_after_a_cut_off(drive, fault):
    """A half-read connection is never used again: the next request gets its own answer."""
    with serving(lambda request: Answer(body=request.path.encode() * 10)) as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"

        def work(client: Any) -> None:
            assert patiently(lambda: client.get(f"{url}/1")).content == b"/1" * 10
            for number in range(2, 12, 2):
                proxy.set(fault)
                with pytest.raises(httpx.HTTPError):
                    client.get(f"{url}/{number}")
                proxy.clear()
                after = f"/{number + 1}"
                assert patiently(partial(client.get, url + after)).content == after.encode() * 10

        drive.run(Policy("billing", deadline=0.1), work, limits=httpx.Limits(max_connections=1))
        assert soon(lambda: proxy.counts.open == 0)


def test_many_threads_and_one_client():
    """Each gets its own answer, and the policy's counts are right in the end."""
    policy = Policy("billing", deadline=5.0, bulkhead=Bulkhead(8, queue=100, wait=5.0))
    with serving(lambda request: Answer(body=request.path.encode())) as server, Client(policy=policy) as client:
        wrong: list[str] = []

        def ask(first: int) -> None:
            paths = [f"/{number}" for number in range(first, first + 20)]
            wrong.extend(path for path in paths if client.get(server.url + path).text != path)

        threads = [threading.Thread(target=ask, args=(start * 100,)) for start in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert policy.snapshot()["limit"]["running"] == 0  # type: ignore[index]


def test_a_hedge_asks_twice_and_answers_once():
    """The second attempt wins, and its answer is judged by itself."""

    async def main(url: str) -> httpx.Response:
        async with AsyncClient(policy=Policy("billing", hedge=Hedge(after=0.05), deadline=2.0)) as client:
            return await client.get(url)

    first = threading.Event()

    def answer(_request: Request) -> Answer:
        if first.is_set():
            return Answer(body=b"second")
        first.set()
        return Answer(body=b"first", pause=1.0)

    with serving(answer) as server:
        watch = Stopwatch()
        assert asyncio.run(main(server.url)).content == b"second"
        assert watch.took < 0.5


def test_a_request_that_may_do_harm_twice_is_not_hedged(drive):
    """A POST waits for its only answer; with an `Idempotency-Key` it is asked twice like any other."""
    policy = Policy("billing", hedge=Hedge(after=0.05, executor=ThreadPoolExecutor(4)), deadline=5.0)
    with serving(lambda _request: Answer(pause=0.3)) as server:
        assert drive.run(policy, lambda client: client.request("POST", server.url)).status_code == 200
        assert len(server.requests) == 1
        drive.run(policy, lambda client: client.request("POST", server.url, headers={"Idempotency-Key": "1"}))
        assert soon(lambda: len(server.requests) == 3)


def test_an_address_that_was_asked_for_before_is_the_same_address(drive):
    """Arguments of one request stay with it, although addresses are kept."""
    with serving(script(200)) as server:

        def work(client: Any) -> None:
            for number in (1, 2):
                client.get(server.url + "/a", params={"n": number})
            client.get(server.url + "/a")

        drive.run(None, work)
    assert [request.path for request in server.requests] == ["/a?n=1", "/a?n=2", "/a"]


def test_cookies_are_kept_and_sent(drive):
    """Also where most responses have none."""
    with serving(script(Answer(), Answer(headers={"Set-Cookie": "basket=7"}), Answer())) as server:

        def work(client: Any) -> None:
            for _ in range(3):
                client.get(server.url)

        drive.run(None, work)
    assert server.sent("Cookie") == [None, None, "basket=7"]


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_that_are_cancelled_anywhere_leave_their_connections_to_others(streamed: bool) -> None:
    async def get(client: AsyncClient, url: str) -> str:
        if not streamed:
            return (await client.get(url)).text
        async with client.stream("GET", url) as response:
            return "".join([text async for text in response.aiter_text()])

    async def main(url: str) -> None:
        rng = random.Random(7)
        limits = httpx.Limits(max_connections=2)
        async with AsyncClient(policy=Policy("p", deadline=5.0), limits=limits) as client:
            for _ in range(40):
                tasks = [asyncio.create_task(get(client, url)) for _ in range(5)]
                for task in tasks:
                    await asyncio.sleep(rng.random() * 0.008)
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert await asyncio.gather(get(client, url), get(client, url)) == ["ab", "ab"]

    with serving(lambda _: Answer(200, b"ab", pause=0.003)) as server:
        asyncio.run(main(server.url))
