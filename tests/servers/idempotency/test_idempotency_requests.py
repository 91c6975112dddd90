"""What a request gets, through WSGI and ASGI alike."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import Any

import pytest
import trio
from idempotency_apps import Ask, Handler, ask_asgi, ask_wsgi, asker

import holdfast
from holdfast.servers import Idempotency, MemoryStore
from holdfast.servers.asgi import Shield
from holdfast.servers.request import from_environ, from_scope
from holdfast.testing import FakeClock

KINDS = ("wsgi", "asgi")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(kind: str, handler: Handler | None = None, **options: Any) -> tuple[Handler, Ask]:
    handler = handler or Handler()
    store = options.pop("store", None) or MemoryStore()
    return handler, asker(kind, handler, Idempotency(store, **options))


def test_the_first_answer_is_given_again_and_the_work_runs_once(kind: str) -> None:
    handler, ask = made(kind, Handler(lambda path, body: (201, [("Location", "/orders/7"), ("Content-Type", "text/plain")], b"made")))
    first, second = ask(), ask()
    assert (first.status, first.body) == (second.status, second.body) == (201, b"made")
    assert second.header("location") == "/orders/7"
    assert first.header("idempotent-replayed") is None
    assert second.header("idempotent-replayed") == "true"
    assert second.header("content-length") == "4"
    assert handler.asked == [("/orders", b"order")]


def test_without_a_key_every_request_runs(kind: str) -> None:
    handler, ask = made(kind)
    ask(None), ask(None)
    assert len(handler.asked) == 2


def test_methods_that_are_idempotent_by_themselves_are_not_covered(kind: str) -> None:
    handler, ask = made(kind)
    for method in ("GET", "PUT", "DELETE"):
        ask(method=method), ask(method=method)
    assert len(handler.asked) == 6
    ask(method="PATCH"), ask(method="PATCH")
    assert len(handler.asked) == 7


def test_a_quoted_key_and_a_bare_one_are_the_same_key(kind: str) -> None:
    handler, ask = made(kind)
    ask('"8e03978e-40d5"'), ask("8e03978e-40d5"), ask(' "8e03978e-40d5" ;v=1')
    assert len(handler.asked) == 1


@pytest.mark.parametrize("key", ["", '"', '""', "a b", "a,b", '"a", "b"', '"tab\tin"', "x" * 256, '"ü"', "a;b", '"a\\x"'])
def test_what_is_no_key_is_refused_and_not_run_unprotected(kind: str, key: str) -> None:
    handler, ask = made(kind)
    response = ask(key)
    assert (response.status, response.code) == (400, "idempotency-key-invalid")
    assert handler.asked == []


def test_two_keys_in_one_request_are_refused() -> None:
    handler = Handler()
    app = Idempotency(MemoryStore()).asgi(handler.asgi)

    async def ask() -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        headers = [(b"idempotency-key", b"a"), (b"idempotency-key", b"b")]
        await app({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive, send)
        return int(sent[0]["status"])

    assert asyncio.run(ask()) == 400
    assert handler.asked == []


def test_where_a_key_is_required_a_request_without_one_is_refused(kind: str) -> None:
    handler, ask = made(kind, required=True)
    response = ask(None)
    assert (response.status, response.code) == (400, "idempotency-key-missing")
    assert ask(None, method="GET").status == 201
    assert ask("k").status == 201
    assert len(handler.asked) == 2


@pytest.mark.parametrize("other", [{"body": b"other"}, {"path": "/refunds"}, {"path": "/orders?dry=1"}, {"method": "PATCH"}])
def test_another_request_under_the_same_key_is_a_misuse(kind: str, other: dict[str, Any]) -> None:
    handler, ask = made(kind)
    ask()
    response = ask(**other)
    assert (response.status, response.code) == (422, "idempotency-key-reused")
    assert len(handler.asked) == 1


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "X_API_Key", "X_Auth_Token"])
def test_an_answer_is_never_given_to_other_credentials(kind: str, name: str) -> None:
    handler, ask = made(kind, Handler(lambda path, body: (200, [], str(len(handler.asked)).encode())))
    mine, theirs, nobody = ask(**{name: "mine"}), ask(**{name: "theirs"}), ask()
    assert [mine.body, theirs.body, nobody.body] == [b"1", b"2", b"3"]
    assert ask(**{name: "mine"}).body == b"1"
    # Nor does anybody learn that there is something: another body is no misuse of somebody else's key.
    assert ask(body=b"another", **{name: "stranger"}).status == 200


class Peer:
    """A connection whose client has shown a certificate."""

    def __init__(self, certificate: bytes | None) -> None:
        self.certificate = certificate

    def getpeercert(self, binary_form: bool) -> bytes | None:
        assert binary_form
        return self.certificate


def test_whom_the_server_has_authenticated_is_a_caller() -> None:
    environ = {"REQUEST_METHOD": "POST"}
    scope = {"method": "POST", "path": "/", "headers": []}
    requests = [
        *(from_environ(environ | more) for more in ({}, {"REMOTE_USER": "a"}, {"REMOTE_USER": "b"})),
        *(from_environ(environ | {"gunicorn.socket": Peer(certificate)}) for certificate in (b"c", b"d")),
        *(from_scope(scope | {"extensions": {"tls": {"client_cert_chain": [pem]}}}) for pem in ("e", "f")),
        from_scope(scope | {"extensions": {"tls": {"client_cert_name": "CN=g", "client_cert_chain": []}}}),
    ]
    part = Idempotency(MemoryStore())
    assert len({part.who(request) for request in requests}) == len(requests)
    nobody = [
        from_environ(environ | {"gunicorn.socket": Peer(None)}),
        from_scope(scope | {"extensions": {"tls": {"client_cert_chain": []}}}),
    ]
    assert [part.who(request) for request in nobody] == [None, None]


def test_the_caller_is_who_the_user_says(kind: str) -> None:
    def caller(request: Any) -> str | None:
        assert request.headers["x-tenant"] == request.headers["X-Tenant"]
        assert request.get("nothing of this name") is None
        return None if request.headers["x-tenant"] == "none" else str(request.headers["x-tenant"])

    handler, ask = made(kind, caller=caller)
    ask(X_Tenant="a", Authorization="1"), ask(X_Tenant="a", Authorization="2"), ask(X_Tenant="b")
    assert len(handler.asked) == 2
    ask(X_Tenant="none"), ask(X_Tenant="none")
    assert len(handler.asked) == 3


def test_a_caller_and_a_key_do_not_run_together(kind: str) -> None:
    handler, ask = made(kind, caller=lambda request: request.headers["x-tenant"])
    ask("bc", X_Tenant="a"), ask("c", X_Tenant="ab")
    assert len(handler.asked) == 2


def test_an_async_caller_is_awaited() -> None:
    async def caller(request: Any) -> str:
        await asyncio.sleep(0)
        return str(request.headers["x-tenant"])

    handler, ask = made("asgi", caller=caller)
    ask(X_Tenant="a"), ask(X_Tenant="a"), ask(X_Tenant="b")
    assert len(handler.asked) == 2


def test_a_caller_that_is_no_text_is_an_error_and_not_a_key_shared_by_all(kind: str) -> None:
    handler, ask = made(kind, caller=lambda request: 7)
    with pytest.raises(TypeError, match=r"Idempotency.caller must return text or None, got int"):
        ask()
    assert handler.asked == []


def test_server_errors_are_kept_as_stripe_does(kind: str) -> None:
    handler, ask = made(kind, Handler(lambda path, body: (500, [], b"oh")))
    assert ask().status == ask().status == 500
    assert len(handler.asked) == 1


@pytest.mark.parametrize(("status", "headers"), [(429, []), (401, []), (425, []), (409, []), (503, [("Retry-After", "1")])])
def test_a_refusal_is_not_kept_for_it_would_only_repeat_itself(kind: str, status: int, headers: list[tuple[str, str]]) -> None:
    replies = [(status, headers, b"no"), (200, [], b"yes")]
    _handler, ask = made(kind, Handler(lambda path, body: replies.pop(0)))
    assert ask().status == status
    assert [ask().body, ask().body] == [b"yes", b"yes"]


def test_which_answers_are_kept_is_the_users_to_say(kind: str) -> None:
    handler, ask = made(kind, Handler(lambda path, body: (500, [], b"oh")), keeps=lambda status, headers: status < 500)
    ask(), ask()
    assert len(handler.asked) == 2


def test_an_app_that_raises_is_not_run_again_where_nobody_knows_what_it_did(kind: str) -> None:
    handler, ask = made(kind, Handler(lambda path, body: KeyError("half-way")))
    with pytest.raises(KeyError):
        ask()
    second = ask()
    assert (second.status, second.code) == (500, "internal-error")
    assert second.header("idempotent-replayed") == "true"
    assert len(handler.asked) == 1


def test_an_app_whose_call_was_refused_may_run_again(kind: str) -> None:
    replies: list[Any] = [holdfast.BreakerOpen("billing", 3.0), (200, [], b"yes")]
    _handler, ask = made(kind, Handler(lambda path, body: replies.pop(0)))
    with pytest.raises(holdfast.BreakerOpen):
        ask()
    assert ask().body == b"yes"


@pytest.mark.parametrize(("interrupted", "status"), [("repeat", 200), ("refuse", 409)])
def test_a_request_that_was_cut_off_is_repeated_or_refused_as_the_store_was_told(kind: str, interrupted: Any, status: int) -> None:
    replies: list[Any] = [holdfast.DeadlineExceeded(None, 1.0, 1.0, True), (200, [], b"yes")]
    _handler, ask = made(kind, Handler(lambda path, body: replies.pop(0)), store=MemoryStore(interrupted=interrupted))
    with pytest.raises(holdfast.DeadlineExceeded):
        ask()
    again = ask()
    assert again.status == status
    if status == 409:
        assert again.code == "idempotency-outcome-unknown"
        assert again.header("retry-after") is None


def test_headers_of_the_connection_and_cookies_are_not_kept() -> None:
    headers = [
        ("Connection", "close, X-Hop"),
        ("X-Hop", "1"),
        ("Set-Cookie", "session=secret"),
        ("Date", "now"),
        ("Vary", "Accept"),
        ("Vary", "X"),
    ]
    _handler, ask = made("asgi", Handler(lambda path, body: (200, headers, b"x")))
    first, second = ask(), ask()
    assert first.header("set-cookie") == "session=secret"
    assert [name for name, _ in second.headers] == ["vary", "vary", "idempotent-replayed", "content-length"]


def test_a_body_that_is_too_large_is_said_clearly_and_runs_once(kind: str) -> None:
    big = b"x" * 100
    handler, ask = made(kind, Handler(lambda path, body: (201, [("Content-Type", "text/plain")], big), pieces=10), max_body=64)
    first = ask()
    assert (first.status, first.body, first.header("idempotency-stored")) == (201, big, "false")
    second = ask()
    assert (second.status, second.code) == (410, "idempotency-answer-not-stored")
    assert b"201" in second.body
    assert len(handler.asked) == 1
    if kind == "wsgi":
        assert handler.closed == 1


def test_a_body_of_exactly_the_limit_is_kept(kind: str) -> None:
    handler, ask = made(kind, Handler(lambda path, body: (201, [("Content-Type", "text/plain")], b"x" * 64), pieces=3), max_body=64)
    assert ask().body == ask().body == b"x" * 64
    assert len(handler.asked) == 1


def test_headers_that_are_too_large_are_not_kept_either(kind: str) -> None:
    handler, ask = made(kind, Handler(lambda path, body: (201, [("X-Big", "x" * 40_000)], b"y")))
    assert (ask().status, ask().status) == (201, 410)
    assert len(handler.asked) == 1


def test_a_stream_of_events_passes_by_and_is_not_held_back() -> None:
    """Its pieces reach the client as they come, since it has no end to wait for."""
    seen: list[bytes] = []
    begin = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        await asyncio.wait_for(begin.wait(), 5)
        await send({"type": "http.response.body", "body": b"data: 2\n\n"})

    async def run() -> None:
        part = Idempotency(MemoryStore()).asgi(app)

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                seen.append(message["body"])
                begin.set()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await part({"type": "http", "method": "POST", "path": "/", "headers": [(b"idempotency-key", b"k")]}, receive, send)

    asyncio.run(run())
    assert seen == [b"data: 1\n\n", b"data: 2\n\n"]


def test_a_request_that_is_too_large_to_compare_is_refused(kind: str) -> None:
    _handler, ask = made(kind, max_request=10)
    response = ask(body=b"x" * 11)
    assert (response.status, response.code) == (413, "request-too-large")
    assert ask(body=b"x" * 10).status == 201
    assert ask(None, body=b"x" * 11).status == 201


def test_nobody_waits_for_what_an_app_does_after_its_answer() -> None:
    async def scenario() -> tuple[list[str], list[int]]:
        events: list[str] = []
        statuses: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            events.append("work")
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
            await asyncio.sleep(0.2)
            events.append("background")

        shielded = Shield(app, deadline=0.1, idempotency=Idempotency(MemoryStore()))

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                events.append("answer")

        for _ in range(2):
            scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"idempotency-key", b"k")]}
            messages: asyncio.Queue[Any] = asyncio.Queue()
            messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
            await shielded(scope, messages.get, send)
        return events, statuses

    # Held back, it would be late, and the work that was done would be done again.
    assert asyncio.run(scenario()) == (["work", "answer", "background", "answer"], [200, 200])


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "9" * 30])
def test_a_length_that_is_none_is_refused(length: str) -> None:
    handler = Handler()
    app = Idempotency(MemoryStore()).wsgi(handler.wsgi)
    started: list[str] = []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "CONTENT_LENGTH": length, "HTTP_IDEMPOTENCY_KEY": "k", "wsgi.input": None}
    list(app(environ, lambda status, headers: started.append(status)))
    assert started[0][:3] in {"400", "413"}
    assert handler.asked == []


def test_a_body_that_breaks_off_is_not_run() -> None:
    handler = Handler()
    app = Idempotency(MemoryStore()).wsgi(handler.wsgi)

    started: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "CONTENT_LENGTH": "9",
        "HTTP_IDEMPOTENCY_KEY": "k",
        "wsgi.input": io.BytesIO(b"half"),
    }
    list(app(environ, lambda status, headers: started.append(status)))
    assert started[0].startswith("400")
    assert handler.asked == []


def test_a_client_that_leaves_before_its_body_is_whole_runs_nothing() -> None:
    handler = Handler()

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    response = asyncio.run(ask_asgi(Idempotency(MemoryStore()).asgi(handler.asgi), "POST", "/", {"Idempotency-Key": "k"}, b"", receive))
    assert response.status == 0
    assert handler.asked == []


def test_a_duplicate_of_what_runs_is_told_to_come_again() -> None:
    """WSGI: in threads; the one that runs is not disturbed."""
    inside, go_on = threading.Event(), threading.Event()

    def reply(path: str, body: bytes) -> Any:
        inside.set()
        assert go_on.wait(10)
        return (201, [], b"done")

    handler, ask = made("wsgi", Handler(reply))
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(ask()))
    first.start()
    assert inside.wait(10)
    duplicate = ask()
    other_body = ask(body=b"x")
    go_on.set()
    first.join(10)
    assert (duplicate.status, duplicate.code, duplicate.header("retry-after")) == (409, "idempotency-key-in-use", "1")
    assert other_body.status == 422
    assert answers[0].status == 201
    assert ask().header("idempotent-replayed") == "true"
    assert len(handler.asked) == 1


def test_sixty_four_duplicates_at_once_run_once() -> None:
    """ASGI: in tasks."""
    ran = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ran
        ran += 1
        await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def storm() -> list[int]:
        part = Idempotency(MemoryStore()).asgi(app)
        got = await asyncio.gather(*(ask_asgi(part, "POST", "/", {"Idempotency-Key": "k"}, b"") for _ in range(64)))
        got.append(await ask_asgi(part, "POST", "/", {"Idempotency-Key": "k"}, b""))
        return [one.status for one in got]

    statuses = asyncio.run(storm())
    assert sorted(set(statuses)) == [201, 409]
    assert statuses[-1] == 201
    assert ran == 1


def test_a_cancelled_request_frees_its_key() -> None:
    """The task is cancelled as a server does when the client goes away."""
    ran = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ran
        ran += 1
        if ran == 1:
            await asyncio.sleep(60)
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async def run() -> int:
        part = Idempotency(MemoryStore()).asgi(app)
        first = asyncio.ensure_future(ask_asgi(part, "POST", "/", {"Idempotency-Key": "k"}, b""))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return (await ask_asgi(part, "POST", "/", {"Idempotency-Key": "k"}, b"")).status

    assert asyncio.run(run()) == 201
    assert ran == 2


def test_a_framework_that_answers_an_error_and_raises_it_again_is_given_through() -> None:
    """Starlette sends its 500 and raises for the server's log; the client gets the 500 and so does the duplicate."""
    ran = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal ran
        ran += 1
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"Internal Server Error"})
        raise KeyError("for the log")

    async def run() -> list[tuple[int, bytes]]:
        part = Idempotency(MemoryStore()).asgi(app)
        got = [await ask_asgi(part, "POST", "/", {"Idempotency-Key": "k"}, b"") for _ in range(2)]
        return [(one.status, one.body) for one in got]

    assert asyncio.run(run()) == [(500, b"Internal Server Error")] * 2
    assert ran == 1


def test_answers_are_forgotten_after_their_time(kind: str) -> None:
    clock = FakeClock()
    handler, ask = made("wsgi", ttl="1h")
    with clock:
        ask()
        clock.advance(3599)
        ask()
        assert len(handler.asked) == 1
        clock.advance(2)
        ask()
    assert len(handler.asked) == 2


def test_wsgi_answers_that_were_begun_twice_count_as_the_second() -> None:
    """PEP 3333: an app may replace its answer by calling start_response again with an error, as long as nothing was sent."""

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            raise KeyError
        except KeyError:
            import sys

            start_response("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"no"]

    part = Idempotency(MemoryStore()).wsgi(app)
    assert [ask_wsgi(part, "POST", "/", {"Idempotency-Key": "k"}, b"").status for _ in range(2)] == [500, 500]


def test_what_the_user_configures_is_checked() -> None:
    for wrong, message in (
        ({"ttl": 0}, "Idempotency.ttl must be > 0 seconds and finite, got 0"),
        ({"lease": -1}, "Idempotency.lease must be > 0 seconds"),
        ({"max_body": 0}, "Idempotency.max_body must be a whole number >= 1, got 0"),
        ({"methods": ()}, "Idempotency.methods must be one or more names"),
        ({"headers": ()}, "Idempotency.headers must be one or more names"),
    ):
        with pytest.raises(ValueError, match=message):
            Idempotency(MemoryStore(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Idempotency.store must be a store"):
        Idempotency({})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Idempotency\.store must be a store"):
        Idempotency(MemoryStore)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Idempotency.caller must be a function"):
        Idempotency(MemoryStore(), caller="me")  # type: ignore[arg-type]


def test_the_articles_request_id_can_be_the_key(kind: str) -> None:
    """holdfast's clients send one X-Request-Id per logical call, the same in all its attempts."""
    handler, ask = made(kind, headers=("Idempotency-Key", "X-Request-Id"))
    ask(None, X_Request_Id="r1"), ask(None, X_Request_Id="r1"), ask("k", X_Request_Id="r1")
    assert len(handler.asked) == 2


def test_a_function_of_the_users_that_raises_leaves_no_key_taken(kind: str) -> None:
    """Nobody knows what to keep then, so it is as if the request had been stopped."""

    def keeps(status: int, headers: Any) -> bool:
        raise LookupError("a fault in keeps")

    handler, ask = made(kind, keeps=keeps)
    for _ in range(2):
        with pytest.raises(LookupError):
            ask()
    assert len(handler.asked) == 2
    handler.reply = lambda path, body: KeyError("the handler's own")
    with pytest.raises(KeyError):
        ask()


def test_an_app_that_sends_a_body_before_its_status_is_an_error() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.body", "body": b"x"})

    with pytest.raises(RuntimeError, match=r"before http\.response\.start"):
        asyncio.run(ask_asgi(Idempotency(MemoryStore()).asgi(app), "POST", "/", {"Idempotency-Key": "k"}, b""))


def test_it_works_on_trio() -> None:
    handler = Handler()
    app = Idempotency(MemoryStore()).asgi(handler.asgi)

    async def run() -> list[int]:
        return [(await ask_asgi(app, "POST", "/", {"Idempotency-Key": "k"}, body)).status for body in (b"a", b"a", b"b")]

    assert trio.run(run) == [201, 201, 422]
    assert len(handler.asked) == 1
