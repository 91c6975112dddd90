"""The store in Redis, on a real one: shared, leased, and honest about what it cannot promise."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from idempotency_apps import Handler, ask_asgi, ask_wsgi

from holdfast.errors import StoreUnavailable
from holdfast.replay.parts.redis import RedisServer, redis_server
from holdfast.servers import Idempotency, RedisStore
from holdfast.servers.idempotency.store import Interrupted, Record, Running
from stopwatch import Stopwatch


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def raw(server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


class Blocking:
    """A store as the tests ask it."""

    def __init__(self, url: str, **options: Any) -> None:
        self.store = RedisStore(url, **options)

    def claim(self, key: str = "k", fingerprint: str = "f", *, lease: float = 10.0, ttl: float = 100.0) -> Any:
        return self.store.claim(key, fingerprint, lease=lease, ttl=ttl)

    def end(self, claim: Any, how: str, *args: Any) -> Any:
        return getattr(claim, how)(*args)

    def close(self) -> None:
        self.store.close()


class Awaited(Blocking):
    """The same through its async half."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self.runner = asyncio.Runner()

    def claim(self, key: str = "k", fingerprint: str = "f", *, lease: float = 10.0, ttl: float = 100.0) -> Any:
        return self.runner.run(self.store.aclaim(key, fingerprint, lease=lease, ttl=ttl))

    def end(self, claim: Any, how: str, *args: Any) -> Any:
        return self.runner.run(getattr(claim, "a" + how)(*args))

    def close(self) -> None:
        self.runner.run(self.store.aclose())
        self.runner.close()


@pytest.fixture(params=[Blocking, Awaited])
def make(request: pytest.FixtureRequest, server: RedisServer, raw: Any) -> Iterator[Any]:
    made: list[Blocking] = []

    def make(**options: Any) -> Blocking:
        made.append(request.param(server.url, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_key_is_claimed_once_and_its_answer_shared(make: Any) -> None:
    one, other = make(), make()
    claim = one.claim()
    running = other.claim()
    assert isinstance(running, Running)
    assert running.fingerprint == "f"
    assert 9.0 < running.left <= 10.0
    assert one.end(claim, "keep", b"answer \x00\n\xff") is True
    assert other.claim() == Record("f", b"answer \x00\n\xff")


@pytest.mark.realtime
def test_a_claim_that_was_given_up_is_not_made_later(make: Any, server: RedisServer) -> None:
    """A server that was stopped does what it was asked when it goes on."""
    one = make(timeout=0.5)
    one.end(one.claim("other"), "free")  # connected
    server.suspend()
    try:
        with pytest.raises(StoreUnavailable):
            one.claim()
    finally:
        server.resume()
    deadline, claim = time.monotonic() + 5.0, None
    while not hasattr(claim, "keep"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        with contextlib.suppress(StoreUnavailable):  # a server that was just stopped may be late
            claim = one.claim()
    assert one.end(claim, "keep", b"answer") is True


def test_a_freed_key_can_be_claimed_again(make: Any) -> None:
    one = make()
    one.end(one.claim(), "free")
    assert hasattr(one.claim(), "keep")


def test_after_its_lease_a_key_is_somebody_elses_and_the_late_one_changes_nothing(make: Any) -> None:
    one, other = make(), make()
    late = one.claim(lease=0.05)
    time.sleep(0.1)
    new = other.claim()
    assert one.end(late, "keep", b"late") is False
    assert other.end(new, "keep", b"new") is True
    one.end(late, "free")
    assert one.claim() == Record("f", b"new")


def test_told_to_refuse_it_never_runs_again_what_was_interrupted(make: Any) -> None:
    one = make(interrupted="refuse")
    one.claim(lease=0.5)
    assert isinstance(one.claim(), Running)
    time.sleep(0.55)
    assert one.claim() == Interrupted("f")
    one.end(one.claim("other"), "abandon")
    assert one.claim("other") == Interrupted("f")


def test_told_to_repeat_it_runs_again_what_was_stopped(make: Any) -> None:
    one = make()
    one.end(one.claim(), "abandon")
    assert hasattr(one.claim(), "keep")


def test_nothing_stays_for_ever(make: Any, raw: Any) -> None:
    """Every key has a time to live from the command that makes it: a crash leaves none without."""
    for interrupted in ("repeat", "refuse"):
        one = make(interrupted=interrupted)
        one.claim(f"runs {interrupted}", ttl=50)
        one.end(one.claim(f"done {interrupted}", ttl=50), "keep", b"x")
        one.end(one.claim(f"stopped {interrupted}", ttl=50), "abandon")
    names = raw.keys("*")
    assert len(names) == 5
    assert all(0 < raw.pttl(name) <= 50_000 for name in names)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x80\x04]",
        b"{}",
        b"[]\n",
        b"null",
        b'{"state":"running","fingerprint":"f"}',
        b'{"state":"running","fingerprint":"f","held_for":"x","lease":1}',
    ],
)
def test_what_somebody_else_wrote_is_neither_run_nor_given(server: RedisServer, raw: Any, value: bytes) -> None:
    handler = Handler()
    store = RedisStore(server.url)
    app = Idempotency(store).wsgi(handler.wsgi)
    ask_wsgi(app, "POST", "/", {"Idempotency-Key": "k"}, b"")
    (name,) = raw.keys("*")
    raw.set(name, value)
    response = ask_wsgi(app, "POST", "/", {"Idempotency-Key": "k"}, b"")
    assert (response.status, response.code) == (500, "idempotency-record-unreadable")
    assert len(handler.asked) == 1
    store.close()


def test_nothing_secret_is_in_the_store(server: RedisServer, raw: Any) -> None:
    handler = Handler(lambda path, body: (200, [("Set-Cookie", "session=s3cret")], b"ok"))
    store = RedisStore(server.url)
    ask_wsgi(Idempotency(store).wsgi(handler.wsgi), "POST", "/", {"Idempotency-Key": "my-key", "Authorization": "Bearer s3cret"}, b"s3cret")
    (name,) = raw.keys("*")
    kept = name + raw.get(name)
    assert b"s3cret" not in kept
    assert b"my-key" not in kept
    assert json.loads(kept[len(name) :].split(b"\n")[0])["state"] == "done"
    store.close()


def test_a_redis_that_hangs_is_503_in_time_and_nothing_runs(server: RedisServer) -> None:
    handler = Handler()
    store = RedisStore(server.url.replace("redis://", "redis://user:hunter2@"), timeout=0.2)
    app = Idempotency(store).wsgi(handler.wsgi)
    server.suspend()
    try:
        watch = Stopwatch()
        response = ask_wsgi(app, "POST", "/", {"Idempotency-Key": "k"}, b"")
        assert watch.took < 1.0
        assert (response.status, response.code) == (503, "idempotency-store-unavailable")
        assert handler.asked == []
        with pytest.raises(StoreUnavailable) as raised:
            store.claim("k", "f", lease=1, ttl=1)
        assert "hunter2" not in str(raised.value)
    finally:
        server.resume()
    store.close()


def test_a_claim_that_was_cancelled_on_its_way_leaves_no_key_taken(server: RedisServer) -> None:
    async def scenario() -> object:
        store = RedisStore(server.url, timeout=5.0)
        await store.aclaim("b" * 64, "f", lease=1, ttl=1)  # it is connected
        server.suspend()
        try:
            claim = asyncio.create_task(store.aclaim("c" * 64, "f", lease=60, ttl=60))
            await asyncio.sleep(0.1)
            claim.cancel()
        finally:
            server.resume()
        with pytest.raises(asyncio.CancelledError):
            await claim
        again = await store.aclaim("c" * 64, "f", lease=60, ttl=60)
        await store.aclose()
        return again

    assert not isinstance(asyncio.run(scenario()), Running)


def test_a_redis_that_dies_while_the_work_runs_takes_no_answer_from_its_caller(server: RedisServer) -> None:
    def reply(path: str, body: bytes) -> Any:
        server.suspend()
        return (201, [], b"done")

    store = RedisStore(server.url, timeout=0.2)
    try:
        response = ask_wsgi(Idempotency(store).wsgi(Handler(reply).wsgi), "POST", "/", {"Idempotency-Key": "k"}, b"")
    finally:
        server.resume()
    assert (response.status, response.body) == (201, b"done")
    store.close()


@pytest.mark.realtime
def test_the_lease_is_the_deadline_of_the_work(server: RedisServer, raw: Any) -> None:
    """Async work is really cut off when its lease is over, so that two never run at once."""
    ran: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ran.append("began")
        await asyncio.sleep(30)
        ran.append("ended")

    async def run() -> int:
        store = RedisStore(server.url)
        part = Idempotency(store, lease=0.2).asgi(app)
        response = await ask_asgi(part, "POST", "/", {"Idempotency-Key": "k"}, b"")
        await store.aclose()
        assert response.code == "deadline-exceeded"
        return response.status

    began = time.monotonic()
    assert asyncio.run(run()) == 504
    assert time.monotonic() - began < 5
    assert ran == ["began"]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"RedisStore\.interrupted must be one of repeat, refuse"):
        RedisStore("redis://h", interrupted="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"RedisStore\.timeout must be > 0 seconds"):
        RedisStore("redis://h", timeout=0)
    for wrong in ("http://user:hunter2@h", None):
        with pytest.raises(ValueError, match=r"RedisStore\.url must begin with redis://, rediss:// or unix://$"):
            RedisStore(wrong)  # type: ignore[arg-type]
