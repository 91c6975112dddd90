"""requests behind policies: what holds for calls through `Session` and `Adapter`, against real servers and a proxy that breaks things."""

from __future__ import annotations

import gc
import gzip
import io
import pickle
import re
import threading
from contextlib import contextmanager

import pytest
import requests
import requests.adapters

import holdfast
from certificates import certificate
from holdfast import Backoff, Breaker, BreakerOpen, Bulkhead, BulkheadFull, DeadlineExceeded, Policy, RateLimit, RateLimited, Retry
from holdfast.clients import exchange
from holdfast.clients import requests as guarded
from holdfast.clients import urllib3 as pools
from holdfast.testing.faults import Cut, Drip, EndlessHeaders, FaultProxy, Reset, Silence, TlsStall, Trickle1xx, stalled_dns
from servers import Answer, script, serving, soon
from stopwatch import Stopwatch, patiently
from watching import open_fds

QUICK = Backoff(base=0.001, cap=0.001)
AGAIN = Retry(attempts=3, backoff=QUICK)
CHUNKED = {"Content-Length": "", "Transfer-Encoding": "chunked"}
LATE = 0.1  # a deadline of a second may be a tenth late
NOWHERE = "http://127.0.0.1:1/"


@contextmanager
def within(seconds: float):
    """It takes no less than these seconds, and no more than a tenth longer."""
    watch = Stopwatch()
    yield
    assert seconds - 0.01 <= watch.elapsed
    assert watch.took <= seconds + LATE


def session(**parts):
    return guarded.Session(policy=Policy("billing", **parts))


def whole(response):
    return response.content


def pieces(response):
    return b"".join(response.iter_content(7))


def as_they_come(response):
    return b"".join(response.iter_content(None))


def lines(response):
    return b"".join(response.iter_lines())


def raw(response):
    return response.raw.read()


def bytewise(response):
    return b"".join(iter(lambda: response.raw.read(1), b""))


WAYS_TO_READ = [whole, pieces, as_they_come, lines, raw, bytewise]


def chunked(body: bytes, size: int = 5) -> Answer:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return Answer(body=b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""]), headers=CHUNKED)


class TestDeadline:
    @pytest.mark.realtime
    @pytest.mark.parametrize(
        "fault", [Drip(interval=0.05), Silence(), Silence(where="body", after=3), EndlessHeaders(), Trickle1xx(interval=0.05)], ids=repr
    )
    @pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
    def test_it_holds_whatever_the_peer_does(self, fault, stream):
        with serving(lambda _: Answer(body=b"x" * 100)) as server, FaultProxy(to=("127.0.0.1", server.port), faults=[fault]) as proxy:
            with session(deadline=0.2) as client, within(0.2), pytest.raises(requests.ReadTimeout) as caught:
                whole(client.get(f"http://127.0.0.1:{proxy.port}/", stream=stream))
        assert isinstance(caught.value, DeadlineExceeded)
        assert re.fullmatch(r"billing: deadline of 0\.2 s exceeded after 0\.2\d* s, in attempt 1", str(caught.value))

    @pytest.mark.realtime
    @pytest.mark.parametrize("read", WAYS_TO_READ)
    @pytest.mark.parametrize("encoding", ["length", "chunked"])
    def test_it_holds_while_the_caller_reads(self, read, encoding):
        body = b"0123456789" * 10
        answer = Answer(body=body) if encoding == "length" else chunked(body)
        with serving(lambda _: answer) as server, FaultProxy(to=("127.0.0.1", server.port)) as proxy:
            with session(deadline=0.2) as client, within(0.2):
                response = _open_and_slow_down(client, proxy)
                with pytest.raises(guarded.DeadlineExceeded):
                    read(response)

    @pytest.mark.realtime
    def test_a_tighter_deadline_of_the_reader_holds_too(self):
        with serving(lambda _: Answer(body=b"x" * 100)) as server, FaultProxy(to=("127.0.0.1", server.port)) as proxy:
            with session(deadline=5.0) as client:
                response = _open_and_slow_down(client, proxy)
                with within(0.1), pytest.raises(requests.Timeout, match=r"^deadline of 0\.1 s"), holdfast.deadline(0.1):
                    whole(response)

    @pytest.mark.realtime
    def test_it_holds_over_redirects(self):
        def answer(request):
            return Answer(302, headers={"Location": f"/{int(request.path[1:] or 0) + 1}"}, pause=0.1)

        with serving(answer) as server, session(deadline=0.35) as client:
            with within(0.35), pytest.raises(DeadlineExceeded):
                client.get(server.url)
            assert 1 < len(server.requests) <= 4

    @pytest.mark.realtime
    def test_it_holds_over_attempts_and_the_error_says_which(self):
        with serving(lambda _: Answer(503, pause=0.15)) as server, session(deadline=0.4, retry=Retry(attempts=9, backoff=QUICK)) as client:
            with within(0.4), pytest.raises(DeadlineExceeded, match=r"(?m)in attempt [23]$"):
                client.get(server.url)

    @pytest.mark.realtime
    def test_the_ambient_one_holds_without_a_policy(self):
        with serving(lambda _: Answer(pause=5)) as server, guarded.Session() as client:
            with within(0.2), pytest.raises(requests.Timeout), holdfast.deadline(0.2):
                client.get(server.url)

    @pytest.mark.realtime
    def test_it_holds_over_name_look_up(self):
        with stalled_dns(5.0, host="billing.test"), session(deadline=0.2) as client:
            with within(0.2), pytest.raises(requests.ConnectTimeout) as caught:
                client.get("http://billing.test/")
        assert isinstance(caught.value, DeadlineExceeded)

    @pytest.mark.realtime
    @pytest.mark.parametrize("fault", [TlsStall(), Drip(interval=0.01), Silence(where="data", after=3000)], ids=repr)
    def test_it_holds_over_tls(self, fault):
        with serving(lambda _: Answer(body=b"x" * 9000), tls=True) as server, FaultProxy(to=("127.0.0.1", server.port)) as proxy:
            with session(deadline=0.2) as client:
                proxy.set(fault)
                with within(0.2), pytest.raises(requests.Timeout) as caught:
                    client.get(f"https://127.0.0.1:{proxy.port}/", verify=str(certificate()))
        assert isinstance(caught.value, DeadlineExceeded)

    @pytest.mark.realtime
    def test_it_holds_while_sending(self):
        with serving() as server, FaultProxy(to=("127.0.0.1", server.port), faults=[Silence(direction="up")]) as proxy:
            with session(deadline=0.2) as client, within(0.2), pytest.raises(requests.ReadTimeout):
                client.put(f"http://127.0.0.1:{proxy.port}/", data=b"x" * 30_000_000)

    @pytest.mark.realtime
    @pytest.mark.parametrize("fault", [Silence(), Drip(interval=0.05)], ids=repr)
    def test_it_holds_in_a_tunnel(self, fault):
        with FaultProxy(faults=[fault]) as proxy, session(deadline=0.2) as client:
            with within(0.2), pytest.raises(requests.ConnectTimeout):
                client.get("https://127.0.0.1:1/", proxies={"https": f"http://127.0.0.1:{proxy.port}"})

    @pytest.mark.realtime
    def test_it_holds_while_waiting_for_a_free_connection(self):
        adapter = guarded.Adapter(Policy("billing", deadline=0.2), pool_block=True, pool_maxsize=1)
        with serving() as server, requests.Session() as client:
            client.mount("http://", adapter)
            held = patiently(lambda: client.get(server.url, stream=True))
            with within(0.2), pytest.raises(requests.ConnectTimeout) as caught:
                client.get(server.url)
            assert isinstance(caught.value, DeadlineExceeded)
            held.close()
            assert patiently(lambda: client.get(server.url)).content == b"ok"

    @pytest.mark.realtime
    def test_nothing_is_left_after_many_that_were_cut_off(self):
        with serving(lambda _: Answer(body=b"x" * 100)) as server, FaultProxy(to=("127.0.0.1", server.port)) as proxy:
            with session(deadline=0.01) as client:
                proxy.set(Silence(where="body", after=1))
                before, threads = open_fds(), threading.active_count()
                for stream in [False, True] * 30:
                    with pytest.raises(DeadlineExceeded):
                        whole(client.get(f"http://127.0.0.1:{proxy.port}/", stream=stream))
                assert soon(lambda: open_fds() <= before + 2)
                assert soon(lambda: threading.active_count() <= threads + 1)


def _open_and_slow_down(client, proxy):
    """A response whose headers have come and whose body drips."""
    proxy.set(Silence(where="body", after=0))
    response = client.get(f"http://127.0.0.1:{proxy.port}/", stream=True)
    proxy.set(Drip(interval=0.03))
    return response


class TestTimeouts:
    @pytest.mark.realtime
    @pytest.mark.parametrize("timeout", [None, (None, None)], ids=repr)
    @pytest.mark.parametrize("made", ["session", "adapter"])
    def test_there_is_one_where_the_caller_gives_none(self, monkeypatch, timeout, made):
        monkeypatch.setattr(pools, "TIMEOUTS", pools.urllib3.Timeout(connect=0.2, read=0.2))
        with serving(lambda _: Answer(pause=5)) as server, guarded.Session() if made == "session" else requests.Session() as client:
            if made == "adapter":
                client.mount("http://", guarded.Adapter())
            with FaultProxy(to=("127.0.0.1", server.port), faults=[Silence()]) as proxy:
                with within(0.2), pytest.raises(requests.ReadTimeout) as caught:
                    client.get(f"http://127.0.0.1:{proxy.port}/", timeout=timeout)
        assert not isinstance(caught.value, DeadlineExceeded)

    def test_they_are_five_seconds_to_connect_and_ten_to_read(self):
        pool = pools.HTTPConnectionPool("localhost")
        for given in [None, pools.urllib3.Timeout(), pools.urllib3.Timeout(None, None), pools.urllib3.Timeout.DEFAULT_TIMEOUT]:
            filled = pool._get_timeout(given)
            assert (filled.connect_timeout, filled.read_timeout) == (exchange.CONNECT_TIMEOUT, exchange.READ_TIMEOUT) == (5.0, 10.0)

    @pytest.mark.parametrize(("given", "connect", "read"), [(3, 3, 3), ((1, None), 1, 10.0), ((None, 2), 5.0, 2)])
    def test_what_the_caller_gives_stays(self, given, connect, read):
        timeout = pools.urllib3.Timeout(*given) if isinstance(given, tuple) else given
        if isinstance(given, tuple):
            timeout = pools.urllib3.Timeout(connect=given[0], read=given[1])
        filled = pools.HTTPConnectionPool("localhost")._get_timeout(timeout)
        assert (filled.connect_timeout, filled.read_timeout) == (connect, read)

    @pytest.mark.realtime
    def test_a_name_that_does_not_resolve_ends_with_the_connect_timeout(self):
        with stalled_dns(5.0, host="billing.test"), guarded.Session() as client:
            with within(0.2), pytest.raises(requests.ConnectTimeout) as caught:
                client.get("http://billing.test/", timeout=0.2)
        assert not isinstance(caught.value, DeadlineExceeded)

    @pytest.mark.realtime
    def test_the_attempt_timeout_ends_an_attempt_and_the_next_may_succeed(self):
        answers = script(Answer(pause=5), Answer(body=b"second"))
        with serving(answers) as server, session(deadline=5.0, attempt_timeout=0.2, retry=AGAIN) as client, within(0.2):
            assert client.get(server.url).content == b"second"

    @pytest.mark.realtime
    def test_the_last_attempt_timeout_says_so(self):
        with serving(lambda _: Answer(pause=5)) as server, session(attempt_timeout=0.1, retry=Retry(attempts=2, backoff=QUICK)) as client:
            with pytest.raises(
                requests.ReadTimeout, match=r"billing: attempt timeout of 0\.1 s exceeded after .* s, in attempt 2"
            ) as caught:
                client.get(server.url)
        assert any("2 attempts" in line for line in caught.value.__notes__)

    @pytest.mark.realtime
    def test_a_wait_for_a_free_connection_is_not_for_ever(self, monkeypatch):
        monkeypatch.setattr(pools, "READ_TIMEOUT", 0.2)
        with serving() as server, requests.Session() as client:
            client.mount("http://", guarded.Adapter(pool_block=True, pool_maxsize=1))
            held = client.get(server.url, stream=True)
            with within(0.2), pytest.raises(requests.ConnectTimeout):
                client.get(server.url)
            held.close()


class TestAttempts:
    def test_an_idempotent_request_is_done_again_under_one_id(self):
        with serving(script(503, 429, 200)) as server, session(retry=AGAIN, deadline=5.0) as client:
            assert client.get(server.url).status_code == 200
            assert server.sent("X-Request-Attempt") == ["1", "2", "3"]
            assert len(set(server.sent("X-Request-Id"))) == 1
            left = [int(value) for value in server.sent("X-Request-Timeout-Ms")]
            assert 5000 >= left[0] >= left[1] >= left[2] > 0
            assert {request.connection for request in server.requests} == {1}

    def test_each_call_has_an_id_of_its_own_even_with_one_prepared_request(self):
        with serving() as server, session() as client:
            prepared = client.prepare_request(requests.Request("GET", server.url))
            client.send(prepared)
            client.send(prepared)
            client.get(server.url)
            client.get(server.url, headers={"X-Request-Id": "mine"})
            assert len(set(server.sent("X-Request-Id"))) == 4
            assert server.sent("X-Request-Id")[3] == "mine"
            assert server.sent("X-Request-Timeout-Ms") == [None] * 4

    @pytest.mark.parametrize(
        ("method", "headers", "attempts"),
        [("GET", {}, 3), ("PUT", {}, 3), ("DELETE", {}, 3), ("POST", {}, 1), ("PATCH", {}, 1), ("POST", {"Idempotency-Key": "a"}, 3)],
    )
    @pytest.mark.parametrize("failure", [503, 429, 500, "cut"])
    def test_only_what_does_no_harm_twice_is_done_again(self, method, headers, attempts, failure):
        answer = Answer(body=b"0123456789", cut=True) if failure == "cut" else Answer(failure)
        with serving(lambda _: answer) as server, session(retry=AGAIN) as client:
            if failure == "cut":
                with pytest.raises(requests.exceptions.ChunkedEncodingError):
                    client.request(method, server.url, data=b"body", headers=headers)
            else:
                assert client.request(method, server.url, data=b"body", headers=headers).status_code == failure
            assert [request.body for request in server.requests] == [b"body"] * attempts

    @pytest.mark.parametrize("status", [200, 304, 400, 404, 418])
    def test_other_answers_are_answers(self, status):
        with serving(script(status)) as server, session(retry=AGAIN) as client:
            assert client.get(server.url).status_code == status
            assert len(server.requests) == 1

    def test_whatever_failed_before_the_first_byte_is_done_again(self):
        with session(retry=AGAIN) as client, pytest.raises(requests.ConnectionError) as caught:
            client.post(NOWHERE, data=(part for part in [b"once"]))
        assert any("3 attempts" in line for line in caught.value.__notes__)

    def test_a_tunnel_that_fails_is_before_the_first_byte(self):
        with serving(lambda _: Answer(502)) as proxy, session(retry=AGAIN) as client, pytest.raises(requests.exceptions.ProxyError):
            client.post("https://127.0.0.1:1/", data=b"x", proxies={"https": proxy.url})
        assert [request.method for request in proxy.requests] == ["CONNECT"] * 3

    def test_a_lost_answer_is_not_asked_for_again_with_post(self):
        with serving() as server, FaultProxy(to=("127.0.0.1", server.port), faults=[Reset(where="data")]) as proxy:
            with session(retry=AGAIN) as client:
                with pytest.raises(requests.ConnectionError):
                    client.post(f"http://127.0.0.1:{proxy.port}/", data=b"x")
                assert len(server.requests) == 1
                with pytest.raises(requests.ConnectionError):
                    client.get(f"http://127.0.0.1:{proxy.port}/")
                assert len(server.requests) == 4

    def test_a_file_is_sent_again_from_where_it_began(self):
        file = io.BytesIO(b"skipped|body")
        file.seek(8)
        with serving(script(503, 200)) as server, session(retry=AGAIN) as client:
            assert client.put(server.url, data=file).status_code == 200
            assert [request.body for request in server.requests] == [b"body", b"body"]

    def test_a_body_that_can_be_sent_once_is_sent_once(self):
        class Pipe(io.BytesIO):
            def seekable(self):
                return False

        with serving(script(503, 503, 200)) as server, session(retry=AGAIN) as client:
            assert client.put(server.url, data=(part for part in [b"a", b"b"])).status_code == 503
            assert client.put(server.url, data=Pipe(b"ab")).status_code == 503
            assert [request.body for request in server.requests] == [b"ab", b"ab"]

    @pytest.mark.realtime
    def test_retry_after_is_honoured(self):
        with serving(script(Answer(503, headers={"Retry-After": "1"}), Answer(200))) as server, session(retry=AGAIN) as client, within(1.0):
            assert client.get(server.url).status_code == 200

    @pytest.mark.realtime
    def test_retry_after_is_capped(self):
        answers = script(Answer(429, headers={"Retry-After": "3600"}), Answer(200))
        with serving(answers) as server, session(retry=Retry(attempts=2, delay_max=0.1)) as client, within(0.1):
            assert client.get(server.url).status_code == 200

    @pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
    def test_the_last_failure_is_the_answer_with_its_body(self, stream):
        with serving(lambda _: Answer(503, body=b"down for maintenance", headers={"Set-Cookie": "a=b"})) as server:
            with session(retry=AGAIN) as client:
                response = client.get(server.url, stream=stream)
                assert (response.status_code, response.content, len(server.requests)) == (503, b"down for maintenance", 3)
                assert client.cookies["a"] == "b"
                assert {request.connection for request in server.requests} == {1}

    @pytest.mark.parametrize("encoding", ["length", "chunked"])
    @pytest.mark.parametrize("read", [whole, pieces, raw])
    def test_a_failure_too_long_to_be_read_is_the_answer_and_whole(self, encoding, read):
        body = bytes(range(256)) * (exchange.FAILURE_BODY // 256 + 40)
        answer = Answer(503, body=body) if encoding == "length" else chunked(body, 60_000)
        answer.status = 503
        with serving(lambda _: answer) as server, session(retry=AGAIN) as client:
            for _ in range(2):
                response = client.get(server.url, stream=True)
                assert (response.status_code, read(response) == body) == (503, True)
            assert len(server.requests) == 2
            assert {request.connection for request in server.requests} == {1}

    def test_a_compressed_failure_is_read_once_and_decoded_once(self):
        answer = Answer(503, body=gzip.compress(b"down"), headers={"Content-Encoding": "gzip"})
        with serving(lambda _: answer) as server, session(retry=AGAIN) as client:
            assert client.get(server.url, stream=True).content == b"down"
            assert client.get(server.url).content == b"down"
            assert len(server.requests) == 6


class TestPermits:
    @pytest.mark.parametrize("end", ["read", "close", "with", "forgotten", "broken off", "error"])
    def test_a_streamed_response_holds_its_place_until_it_ends(self, end):
        answers = script(Answer(body=b"x" * 1000, cut=end == "error"), Answer())
        with serving(answers) as server, session(bulkhead=Bulkhead(1)) as client:
            response = client.get(server.url, stream=True)
            with pytest.raises(BulkheadFull):
                client.get(server.url)
            if end == "read":
                assert len(response.content) == 1000
            elif end == "close":
                response.close()
            elif end == "with":
                with response:
                    pass
            elif end == "broken off":
                next(response.iter_content(3))
                response.close()
            elif end == "error":
                with pytest.raises(requests.RequestException):
                    whole(response)
            else:
                del response
                gc.collect()
            assert client.get(server.url).content == b"ok"

    def test_a_call_that_is_not_streamed_gives_it_back(self):
        with serving(script(200, 503, 200)) as server, session(bulkhead=Bulkhead(1)) as client:
            for _ in range(3):
                client.get(server.url)

    def test_the_breaker_learns_from_streamed_failures_too(self):
        policy = Policy("billing", breaker=Breaker(consecutive=2))
        with serving(script(503, 503)) as server, guarded.Session(policy) as client:
            for stream in (False, True):
                client.get(server.url, stream=stream).close()
            with pytest.raises(BreakerOpen):
                client.get(server.url)
            assert len(server.requests) == 2

    def test_for_the_breaker_404_is_a_success(self):
        with serving(script(503, 404, 503, 404, 503)) as server, session(breaker=Breaker(consecutive=2)) as client:
            assert [client.get(server.url).status_code for _ in range(5)] == [503, 404, 503, 404, 503]

    def test_a_bad_request_of_the_caller_is_nobodys_failure(self):
        with serving() as server, session(breaker=Breaker(consecutive=1), retry=AGAIN) as client:
            for wrong in (lambda: client.get(server.url, timeout=(1, 2, 3)), lambda: client.get(server.url, timeout="long")):
                with pytest.raises(ValueError):
                    wrong()
            assert client.get(server.url).content == b"ok"

    def test_what_a_redirect_holds_is_given_back(self):
        answers = script(Answer(302, headers={"Location": "/next"}), Answer())
        with serving(answers) as server, session(bulkhead=Bulkhead(1)) as client:
            assert client.get(server.url, stream=True).content == b"ok"


class TestErrors:
    def test_refusals_are_connection_errors_and_pickle(self):
        with serving(script(503)) as server, session(breaker=Breaker(consecutive=1)) as client:
            client.get(server.url)
            with pytest.raises(requests.ConnectionError, match="billing: the breaker is open, nothing was called; try again in") as caught:
                client.get(server.url)
            assert isinstance(caught.value, BreakerOpen)
            assert caught.value.request.url == server.url + "/"
            again = pickle.loads(pickle.dumps(caught.value))
            assert (type(again), str(again), again.retry_after) == (guarded.BreakerOpen, str(caught.value), caught.value.retry_after)

    def test_the_rate_limit_refuses_with_one_too(self):
        with serving() as server, session(rate_limit=RateLimit(rate=0.01, burst=1)) as client, holdfast.deadline(1.0):
            client.get(server.url)
            with pytest.raises(guarded.RateLimited) as caught:
                client.get(server.url)
            assert isinstance(caught.value, (RateLimited, requests.ConnectionError))

    @pytest.mark.realtime
    @pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
    def test_a_deadline_pickles_also_with_a_body_that_does_not(self, stream):
        with serving(lambda _: Answer(pause=5)) as server, session(deadline=0.1) as client:
            with pytest.raises(requests.Timeout) as caught:
                whole(client.put(server.url, data=(part for part in [b"x"]), stream=stream))
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again), again.attempt, again.policy) == (type(caught.value), str(caught.value), 1, "billing")
        assert caught.value.request.method == "PUT"
        assert (again.request, again.response) == (None, None)

    @pytest.mark.realtime
    def test_a_failure_while_an_older_deadline_is_handled_stays_what_it_is(self):
        with serving(lambda _: Answer(pause=5)) as server, session(deadline=0.1) as client:
            try:
                client.get(server.url)
            except DeadlineExceeded:
                with pytest.raises(requests.ConnectionError) as caught:
                    client.get(NOWHERE)
        assert not isinstance(caught.value, DeadlineExceeded)

    def test_a_policy_that_is_none_is_refused(self):
        with pytest.raises(TypeError, match="policy must be a Policy"):
            guarded.Session(policy={"host": 3})


class TestMeaning:
    def test_policies_are_per_host(self):
        policies = {"127.0.0.1": Policy("one", bulkhead=Bulkhead(1)), "*": Policy("other", retry=AGAIN)}
        with serving(lambda request: Answer(200 if request.path == "/well" else 503)) as server, guarded.Session(policy=policies) as client:
            client.get(server.url)
            assert len(server.requests) == 1
            client.get(f"http://localhost:{server.port}/")
            assert len(server.requests) == 4
            held = client.get(f"{server.url}/well", stream=True)
            with pytest.raises(BulkheadFull, match="one"):
                client.get(server.url)
            client.get(f"http://localhost:{server.port}/")
            held.close()

    def test_redirects_keep_their_meaning_and_the_id(self):
        def answer(request):
            there = {"/": "/a", "/a": f"http://localhost:{server.port}/b"}.get(request.path)
            return Answer(302, headers={"Location": there, "Set-Cookie": "seen=1"}) if there else Answer(body=b"there")

        with serving(answer) as server, session(retry=AGAIN, deadline=5.0) as client:
            response = client.post(server.url, data=b"x", auth=("me", "secret"))
            assert (response.content, [hop.status_code for hop in response.history]) == (b"there", [302, 302])
            assert [request.method for request in server.requests] == ["POST", "GET", "GET"]
            assert [value is not None for value in server.sent("Authorization")] == [True, True, False]
            assert len(set(server.sent("X-Request-Id"))) == 1
            assert client.get(server.url, allow_redirects=False).next.url == server.url + "/a"

    @pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
    def test_digest_authentication_works(self, stream):
        challenge = Answer(401, headers={"WWW-Authenticate": 'Digest realm="r", nonce="n", qop="auth"'})
        with serving(script(challenge, Answer())) as server, session(bulkhead=Bulkhead(1)) as client:
            assert client.get(server.url, auth=requests.auth.HTTPDigestAuth("me", "secret"), stream=stream).content == b"ok"
            assert "response=" in server.sent("Authorization")[1]
            assert len(set(server.sent("X-Request-Id"))) == 1

    def test_a_redirect_with_a_broken_body_is_followed(self):
        answers = script(Answer(302, body=b"not gzip", headers={"Location": "/", "Content-Encoding": "gzip"}), Answer())
        with serving(answers) as server, session() as client:
            assert client.get(server.url).content == b"ok"

    def test_an_adapter_guards_a_plain_session(self):
        with serving(script(503, 200)) as server, requests.Session() as client:
            client.mount("http://", guarded.Adapter(Policy("billing", retry=AGAIN)))
            assert client.get(server.url).status_code == 200
            assert server.sent("X-Request-Attempt") == ["1", "2"]

    def test_a_session_may_be_pickled(self):
        with serving() as server:
            with guarded.Session() as client:
                again = pickle.loads(pickle.dumps(client))
            with again:
                assert again.get(server.url).content == b"ok"

    @pytest.mark.realtime
    def test_chunks_are_handed_on_as_they_come(self):
        with serving(lambda _: chunked(b"ab", 1)) as server:
            with FaultProxy(to=("127.0.0.1", server.port)) as proxy:
                with session(deadline=5.0) as client:
                    proxy.set(Silence(where="body", after=6))
                    chunks = client.get(f"http://127.0.0.1:{proxy.port}/", stream=True).iter_content(None)
                    assert next(chunks) == b"a"
                    proxy.clear()
                    assert list(chunks) == [b"b"]

    def test_head_and_empty_answers_give_their_connection_back(self):
        with serving(script(Answer(200, body=b""), Answer(204, body=b""), Answer())) as server, session(bulkhead=Bulkhead(1)) as client:
            for _ in range(3):
                client.head(server.url, stream=True).close()
                client.get(server.url)


class TestPools:
    @pytest.mark.realtime
    @pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streamed"])
    @pytest.mark.parametrize("encoding", ["length", "chunked"])
    def test_after_a_cut_off_in_a_body_the_next_request_gets_its_own_answer(self, stream, encoding):
        def answer(request):
            body = request.path.encode() * 20
            return Answer(body=body) if encoding == "length" else chunked(body)

        with serving(answer) as server, FaultProxy(to=("127.0.0.1", server.port)) as proxy, requests.Session() as client:
            client.mount("http://", guarded.Adapter(Policy("billing", deadline=0.1), pool_block=True, pool_maxsize=1))
            at = f"http://127.0.0.1:{proxy.port}"
            for number in range(3):
                proxy.set(Silence(where="body", after=12))
                with pytest.raises(DeadlineExceeded):
                    whole(client.get(f"{at}/cut{number}", stream=stream))
                proxy.clear()
                content = patiently(lambda path=f"/next{number}": client.get(at + path, stream=stream).content)
                assert content == f"/next{number}".encode() * 20

    @pytest.mark.parametrize("end", ["close", "forgotten", "released"])
    def test_after_a_response_that_was_not_read_too(self, end):
        with serving(lambda request: Answer(body=request.path.encode() * 20)) as server, requests.Session() as client:
            client.mount("http://", guarded.Adapter(pool_block=True, pool_maxsize=1))
            for number in range(3):
                response = client.get(f"{server.url}/cut{number}", stream=True)
                assert response.raw.read(4) == b"/cut"
                if end == "close":
                    response.close()
                elif end == "released":
                    response.raw.release_conn()
                del response
                gc.collect()
                assert client.get(f"{server.url}/next", timeout=1).content == b"/next" * 20

    def test_connections_are_kept(self):
        with serving() as server, session() as client:
            for stream in [False, True] * 3:
                assert client.get(server.url, stream=stream).content == b"ok"
            assert {request.connection for request in server.requests} == {1}

    def test_tls_connections_are_kept_and_a_bad_certificate_is_an_ssl_error(self):
        with serving(tls=True) as server, session(deadline=5.0) as client:
            for stream in [False, True] * 2:
                assert client.get(server.url, verify=str(certificate()), stream=stream).content == b"ok"
            assert {request.connection for request in server.requests} == {1}
            with pytest.raises(requests.exceptions.SSLError):
                client.get(f"https://localhost:{server.port}/")

    def test_a_body_that_is_cut_is_an_error_as_ever(self):
        with serving(lambda _: Answer(body=b"0123456789", cut=True)) as server, session() as client:
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                client.get(server.url)
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                whole(client.get(server.url, stream=True))

    @pytest.mark.realtime
    def test_interim_answers_are_not_the_answer(self):
        with serving(lambda _: Answer(body=b"the answer")) as server, FaultProxy(to=("127.0.0.1", server.port)) as proxy:
            proxy.set(Trickle1xx(interval=0.01, count=3))
            with session(deadline=5.0) as client:
                for _ in range(2):
                    assert client.get(f"http://127.0.0.1:{proxy.port}/").content == b"the answer"
                assert {request.connection for request in server.requests} == {1}

    def test_cut_headers_are_done_again(self):
        with serving() as server, FaultProxy(to=("127.0.0.1", server.port), faults=[Cut(where="headers", after=5)]) as proxy:
            with session(retry=AGAIN) as client, pytest.raises(requests.RequestException):
                client.get(f"http://127.0.0.1:{proxy.port}/")
            assert len(server.requests) == 3
