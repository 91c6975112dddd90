"""urllib3 behind policies: what holds for calls through `PoolManager`, against real servers and a proxy that breaks things.

What it shares with requests (connections, bodies that are streamed, what may be done again) is tried in test_requests.py.
"""

from __future__ import annotations

import gc
import io
import pickle
import re
from contextlib import contextmanager

import pytest
import urllib3

import holdfast
from certificates import certificate, client_context
from holdfast import Backoff, Breaker, BreakerOpen, Bulkhead, BulkheadFull, DeadlineExceeded, Policy, Retry
from holdfast.clients import urllib3 as guarded
from holdfast.testing.faults import Drip, FaultProxy, Silence, TlsStall, stalled_dns
from servers import Answer, script, serving
from stopwatch import Stopwatch, patiently

AGAIN = Retry(attempts=3, backoff=Backoff(base=0.001, cap=0.001))
NOWHERE = "http://127.0.0.1:1/"


@contextmanager
def within(seconds: float):
    """It takes no less than these seconds, and no more than a tenth longer."""
    watch = Stopwatch()
    yield
    assert seconds - 0.01 <= watch.elapsed
    assert watch.took <= seconds + 0.1


def manager(options=None, **parts):
    return guarded.PoolManager(policy=Policy("billing", **parts), **(options or {}))


READ = {
    "data": lambda response: response.data,
    "read": lambda response: response.read(),
    "read some": lambda response: b"".join(iter(lambda: response.read(3), b"")),
    "read1": lambda response: b"".join(iter(response.read1, b"")),
    "stream": lambda response: b"".join(response.stream(3)),
    "lines": b"".join,
    "file": lambda response: io.BufferedReader(response).read(),
}


@pytest.mark.realtime
@pytest.mark.parametrize("preload", [True, False], ids=["preloaded", "streamed"])
@pytest.mark.parametrize("fault", [Drip(interval=0.05), Silence(), Silence(where="body", after=3)], ids=repr)
def test_the_deadline_holds_whatever_the_peer_does(fault, preload):
    with serving(lambda _: Answer(body=b"x" * 100)) as server, FaultProxy(to=("127.0.0.1", server.port), faults=[fault]) as proxy:
        with manager(deadline=0.3) as client, within(0.3), pytest.raises(urllib3.exceptions.TimeoutError) as caught:
            READ["data"](client.request("GET", f"http://127.0.0.1:{proxy.port}/", preload_content=preload))
    assert isinstance(caught.value, DeadlineExceeded)
    assert re.fullmatch(r"billing: deadline of 0\.3 s exceeded after 0\.\d+ s, in attempt 1", str(caught.value))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (guarded.DeadlineExceeded, str(caught.value))


@pytest.mark.realtime
@pytest.mark.parametrize("read", READ)
def test_the_deadline_holds_while_the_caller_reads_and_the_place_is_given_back(read):
    with serving(lambda _: Answer(body=b"x" * 100)) as server, FaultProxy(to=("127.0.0.1", server.port)) as proxy:
        at = f"http://127.0.0.1:{proxy.port}/"
        with manager({"maxsize": 1, "block": True}, deadline=0.3, bulkhead=Bulkhead(1)) as client:
            proxy.set(Silence(where="body"))
            with within(0.3):
                response = client.request("GET", at, preload_content=False)
                proxy.set(Drip(interval=0.03))
                with pytest.raises(guarded.DeadlineExceeded):
                    READ[read](response)
            proxy.clear()
            assert patiently(lambda: READ[read](client.request("GET", at, preload_content=False))) == b"x" * 100


@pytest.mark.realtime
def test_the_deadline_holds_over_redirects_which_keep_the_id():
    def answer(request):
        return Answer(302, headers={"Location": f"/{int(request.path[1:] or 0) + 1}"}, pause=0.1)

    with serving(answer) as server, manager(deadline=0.25) as client:
        with within(0.25), pytest.raises(DeadlineExceeded):
            client.request("GET", server.url)
        assert 1 < len(server.requests) <= 3
        assert len(set(server.sent("X-Request-Id"))) == 1


@pytest.mark.realtime
def test_the_deadline_holds_over_name_look_up_and_tls():
    with stalled_dns(5.0, host="billing.test"), manager(deadline=0.2) as client, within(0.2):
        with pytest.raises(DeadlineExceeded):
            client.request("GET", "http://billing.test/")
    with FaultProxy(faults=[TlsStall()]) as proxy, manager({"ssl_context": client_context()}, deadline=0.2) as client, within(0.2):
        with pytest.raises(DeadlineExceeded):
            client.request("GET", f"https://127.0.0.1:{proxy.port}/")


@pytest.mark.realtime
def test_the_deadline_holds_while_waiting_for_a_free_connection_and_the_pool_stays_whole():
    with serving() as server, manager({"maxsize": 1, "block": True}) as client:
        held = client.request("GET", server.url, preload_content=False)
        for _ in range(2):
            with within(0.1), pytest.raises(DeadlineExceeded), holdfast.deadline(0.1):
                client.request("GET", server.url)
        assert held.read() == b"ok"
        pool = client.connection_from_url(server.url).pool
        assert (pool.qsize(), client.request("GET", server.url).data) == (1, b"ok")


@pytest.mark.realtime
def test_there_is_a_timeout_where_the_caller_gives_none(monkeypatch):
    monkeypatch.setattr(guarded, "TIMEOUTS", urllib3.Timeout(connect=0.2, read=0.2))
    for options in ({}, {"timeout": None}):
        with FaultProxy(faults=[Silence()]) as proxy, guarded.PoolManager() as client:
            with within(0.2), pytest.raises(urllib3.exceptions.HTTPError) as caught:
                client.request("GET", f"http://127.0.0.1:{proxy.port}/", **options)
        assert not isinstance(caught.value, DeadlineExceeded)


@pytest.mark.parametrize(
    ("method", "headers", "attempts"), [("GET", {}, 3), ("PUT", {}, 3), ("POST", {}, 1), ("POST", {"Idempotency-Key": "a"}, 3)]
)
@pytest.mark.parametrize(
    "body", [b"body", "body", bytearray(b"body"), [b"bo", b"dy"], io.BytesIO(b"body")], ids=lambda body: type(body).__name__
)
def test_only_what_does_no_harm_twice_is_done_again(method, headers, attempts, body):
    given = dict(headers)
    with serving(lambda _: Answer(503, body=b"down")) as server, manager(retry=AGAIN) as client:
        if hasattr(body, "seek"):
            body.seek(0)
        response = client.request(method, server.url, body=body, headers=given)
        assert (response.status, response.data) == (503, b"down")
        assert [request.body for request in server.requests] == [b"body"] * attempts
        assert server.sent("X-Request-Attempt") == ["1", "2", "3"][:attempts]
        assert len(set(server.sent("X-Request-Id"))) == 1
    assert given == headers  # the caller's own dictionary is left alone


def test_a_generator_is_sent_once_but_only_if_it_was_sent():
    with serving(script(503)) as server, manager(retry=AGAIN) as client:
        assert client.request("PUT", server.url, body=(part for part in [b"a"])).status == 503
        assert len(server.requests) == 1
        with pytest.raises(urllib3.exceptions.MaxRetryError) as caught:
            client.request("POST", NOWHERE, body=(part for part in [b"a"]))
    assert any("3 attempts" in line for line in caught.value.__notes__)


def test_retries_of_urllib3_count_redirects_only():
    with serving(lambda _: Answer(302, headers={"Location": "/"})) as server, manager() as client:
        with pytest.raises(urllib3.exceptions.MaxRetryError, match="too many redirects"):
            client.request("GET", server.url, retries=2)
        assert len(server.requests) == 3
        assert client.request("GET", server.url, redirect=False).status == 302
    with serving(script(503)) as server, manager() as client:
        assert client.request("GET", server.url, retries=urllib3.Retry(5, status_forcelist=[503])).status == 503
        assert len(server.requests) == 1
        with pytest.raises(urllib3.exceptions.NewConnectionError):
            client.request("GET", NOWHERE, retries=False)


@pytest.mark.parametrize("end", ["read", "close", "forgotten", "released", "drained"])
def test_a_streamed_response_holds_its_place_until_it_ends_and_its_connection_is_not_used_half_read(end):
    def answer(request):
        return Answer(body=request.path.encode() * 20)

    with serving(answer) as server, manager({"maxsize": 1, "block": True}, bulkhead=Bulkhead(1)) as client:
        for _ in range(2):
            response = client.request("GET", f"{server.url}/first", preload_content=False)
            assert response.read(3) == b"/fi"
            with pytest.raises(BulkheadFull):
                client.request("GET", server.url)
            if end == "read":
                assert len(response.read()) == 117
            elif end == "close":
                response.close()
                response.release_conn()
            elif end == "released":
                response.release_conn()
            elif end == "drained":
                response.drain_conn()
            del response
            gc.collect()
            assert client.request("GET", f"{server.url}/next", pool_timeout=1).data == b"/next" * 20


def test_refusals_are_errors_of_urllib3_and_pickle():
    with serving(script(503)) as server, manager(breaker=Breaker(consecutive=1)) as client:
        client.request("GET", server.url)
        with pytest.raises(urllib3.exceptions.HTTPError, match="billing: the breaker is open, nothing was called") as caught:
            client.request("GET", server.url)
    assert isinstance(caught.value, BreakerOpen)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (guarded.BreakerOpen, str(caught.value))


def test_policies_are_per_host_also_through_a_proxy():
    with serving(script(503)) as proxy:
        policies = {"billing.test": Policy("billing", retry=AGAIN), "*": Policy("other")}
        with guarded.ProxyManager(proxy.url, policy=policies) as client:
            client.request("GET", "http://billing.test/")
            client.request("GET", "http://elsewhere.test/")
        assert [request.path for request in proxy.requests] == ["http://billing.test/"] * 3 + ["http://elsewhere.test/"]


@pytest.mark.parametrize("options", [{"ca_certs": str(certificate())}, {"ssl_context": client_context()}], ids=["file", "context"])
def test_tls_works_with_every_context_and_leaves_it_alone(options):
    with serving(tls=True) as server, manager(options, deadline=5.0) as client:
        for preload in [True, False] * 2:
            assert client.request("GET", server.url, preload_content=preload).data == b"ok"
        assert {request.connection for request in server.requests} == {1}
    assert "sslsocket_class" not in vars(client_context())


def test_an_answer_that_is_preloaded_can_be_looked_at_as_ever():
    with serving(lambda _: Answer(body=b'{"a": 1}')) as server, manager() as client:
        response = client.request("GET", server.url)
        assert (response.data, response.data, response.json(), response.status) == (b'{"a": 1}', b'{"a": 1}', {"a": 1}, 200)
        assert client.request("HEAD", server.url).data == b""


@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("length", [b"-5", b"fffffffff", b"ffffffffffffffffffff", b"zz"])
def test_a_chunk_of_an_impossible_length_is_the_servers_failure(length, preload):
    answer = Answer(200, length + b"\r\nabc\r\n", {"Transfer-Encoding": "chunked", "Connection": "close"})
    with serving(lambda _: answer) as server, manager(breaker=Breaker(consecutive=1)) as http:
        with pytest.raises(urllib3.exceptions.ProtocolError):
            b"".join(http.request("GET", server.url, preload_content=preload).stream(3))
        with pytest.raises(BreakerOpen):
            http.request("GET", server.url)


def test_headers_go_out_as_urllib3_writes_them_and_none_can_be_put_into_another():
    sent = {"X-Plain": "a: b", "X-Latin": "gr\xfc\xdfe", "X-Number": 7, "X-Empty": "", "X-Spaces": "  a  "}
    sent["User-Agent"] = urllib3.util.SKIP_HEADER
    refused = [{"X-A": "a\r\nX-B: b"}, {"X-A": "a\nb"}, {"X\r\n-A": "a"}, {"": "a"}, {" X": "a"}, {"X-A": urllib3.util.SKIP_HEADER}]
    with serving() as server, manager() as http, urllib3.PoolManager() as bare:
        for client in (bare, http):
            assert client.request("GET", server.url, headers=sent).status == 200
            for headers in refused:
                with pytest.raises(ValueError):
                    client.request("GET", server.url, headers=headers)
        expected, got = (request.headers for request in server.requests)
    assert {name: value for name, value in got.items() if not name.startswith("x-request-")} == expected
