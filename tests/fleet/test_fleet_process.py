"""A process joins and leaves: arguments, forks, exits, async programs, TLS, credentials."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fleet_hosts as do
import pytest
import redis as library
from fleet_hosts import PATIENT, hosts, until

from certificates import certificate, server_context
from holdfast import Breaker, Budget, Policy, Retry, events, fleet
from holdfast.cli import main
from holdfast.fleet.connections import read_url
from holdfast.replay.parts.redis import redis_server
from stopwatch import Stopwatch

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def connected(url: str, **options: Any) -> Iterator[None]:
    fleet.connect(url, **{"interval": 0.02, "timeout": PATIENT, **options})
    try:
        until(lambda: fleet.snapshot()["connected"])
        yield
    finally:
        fleet.disconnect()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"interval": 0}, "fleet.interval must be > 0 seconds and finite, got 0"),
        ({"interval": "soon"}, "fleet.interval must be seconds"),
        ({"prefix": ""}, "fleet.prefix must be a printable text"),
        ({"prefix": "a{b}"}, "fleet.prefix must be a printable text"),
        ({"prefix": None}, "fleet.prefix must be a printable text"),
        ({"timeout": -1}, "fleet.timeout must be > 0"),
        ({"quorum": 0}, r"fleet.quorum must be in \(0, 1\], got 0"),
        ({"quorum": 1.5}, "fleet.quorum must be in"),
        ({"lease": 0}, "fleet.lease must be > 0"),
        ({"lease": 0.3}, r"fleet.lease must be at least 4 intervals \(0.4 s\), got 0.3"),
    ],
)
def test_wrong_arguments_name_field_and_range_and_nothing_is_connected(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fleet.connect("redis://127.0.0.1:1", **options)
    assert fleet.snapshot() == {"connected": False, "away": None, "policies": {}}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://u:secret@h",
        "redis://u:secret@h:port",
        "redis://u:secret@h:99999",
        "redis://u:secret@h?socket_timeout=1000",
        "redis://u:secret@h?ssl_cert_reqs=required&db=x",
        "redis+sentinel://u:secret@h:1",
        "redis://u:secret@h/main",
        "redis+sentinel://u:secret@h/main/one",
    ],
)
def test_a_wrong_url_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="fleet's URL") as raised:
        fleet.connect(url)
    assert "secret" not in f"{raised.value!r} {raised.value.__cause__!r} {raised.value.__context__ and ''}"


def test_a_url_that_is_no_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="takes a URL, got int"):
        fleet.connect(6379)  # type: ignore[arg-type]


def test_urls_say_where_who_and_how() -> None:
    plain = read_url("redis://app:s%40cret@cache:6380/2")
    assert (plain.kind, plain.hosts) == ("single", (("cache", 6380),))
    assert plain.options == {"username": "app", "password": "s@cret", "db": 2}
    assert "cret" not in repr(plain)
    guarded = read_url("redis+sentinel://app:pw@one,two:26380/main/1?sentinel_password=guard")
    assert (guarded.kind, guarded.hosts, guarded.service) == ("sentinel", (("one", 26379), ("two", 26380)), "main")
    assert (guarded.sentinel, guarded.options["db"]) == ({"password": "guard"}, 1)
    many = read_url("rediss+cluster://one:7000,[::1]:7001?ssl_ca_certs=/ca.pem")
    assert (many.kind, many.hosts) == ("cluster", (("one", 7000), ("::1", 7001)))
    assert many.options["ssl_ca_certs"] == "/ca.pem"
    assert read_url("unix:///run/redis.sock?db=3").options["path"] == "/run/redis.sock"


@pytest.mark.realtime
def test_connecting_does_not_wait_and_again_replaces_and_disconnecting_twice_does_nothing() -> None:
    with redis_server() as redis:
        redis.suspend()
        watch = Stopwatch()
        fleet.connect(redis.url)
        assert watch.took < 0.2
        redis.resume()
        with connected(redis.url):
            names = [thread.name for thread in threading.enumerate()]
            assert names.count("holdfast-fleet") == 1
        fleet.disconnect()
        assert "holdfast-fleet" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.realtime
def test_policies_made_before_and_after_connecting_share_and_those_that_are_gone_are_let_go() -> None:
    with redis_server() as redis:
        early = Policy("early", breaker=Breaker())
        with connected(redis.url):
            late = Policy("late", breaker=Breaker())
            until(lambda: set(fleet.snapshot()["policies"]) >= {"early", "late"})
            assert early.call(int) == late.call(int) == 0
            del late
            until(lambda: "late" not in fleet.snapshot()["policies"])


@pytest.mark.realtime
def test_each_call_counts_once_whatever_becomes_of_policies_and_connections() -> None:
    """Two policies of one name, policies that are made anew all the time, and a process that leaves and joins again."""
    with redis_server() as redis:
        twins = [Policy("billing", breaker=Breaker()).call, Policy("billing", breaker=Breaker()).call]
        made = 0
        for _ in range(2):
            with connected(redis.url):
                for _ in range(5):
                    short = Policy("billing", breaker=Breaker())
                    made += sum(1 + call(int) for call in (*twins, short.call, short.call))
                    until(lambda wanted=made: fleet.snapshot()["policies"].get("billing", {}).get("calls") == wanted)
                    del short
        assert library.Redis.from_url(redis.url).zcard("{holdfast:billing}:seen") == 0, "who has left is not of the quorum"


@pytest.mark.realtime
def test_who_leaves_gives_back_what_it_was_lent() -> None:
    with redis_server() as redis:
        policy, client = Policy("billing", retry=Retry(budget=Budget())), library.Redis.from_url(redis.url)
        with connected(redis.url):
            assert policy.call(int) == 0
            until(lambda: int(client.hget("{holdfast:billing}:budget", "retries") or 0) > 0)
        assert client.hget("{holdfast:billing}:budget", "retries") == b"0"


@pytest.mark.realtime
def test_an_order_that_was_taken_back_meanwhile_does_not_come_again_with_who_joins_again() -> None:
    with redis_server() as redis:
        policy = Policy("billing", breaker=Breaker())
        with connected(redis.url):
            policy.breaker.force_open()
            client = library.Redis.from_url(redis.url)
            until(lambda: client.hget("{holdfast:billing}:breaker", "force") == b"forced-open")
        assert policy.breaker.state == "forced-open"
        assert main(["fleet", "reset", "billing", "--url", redis.url]) == 0
        with connected(redis.url):
            until(lambda: policy.breaker.state == "closed")


@pytest.mark.realtime
def test_an_async_program_shares_by_the_same_thread() -> None:
    async def main(url: str) -> str:
        policy = Policy("billing", breaker=Breaker())
        with connected(url):
            assert await policy.acall(asyncio.sleep, 0, "ok") == "ok"
            await asyncio.to_thread(subprocess.run, force_open(url), check=True, capture_output=True, cwd=ROOT)
            await asyncio.to_thread(until, lambda: policy.breaker.state != "closed")
            return policy.breaker.state

    with redis_server() as redis:
        assert asyncio.run(asyncio.wait_for(main(redis.url), 20)) == "forced-open"


def force_open(url: str) -> list[str]:
    return [sys.executable, "-m", "holdfast", "fleet", "force-open", "billing", "--url", url]


@pytest.mark.realtime
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_is_a_process_of_its_own_in_the_fleet() -> None:
    with redis_server() as redis, connected(redis.url):
        policy = Policy("billing", breaker=Breaker())
        for _ in range(50):
            policy.call(int)
        until(lambda: fleet.snapshot()["policies"].get("billing", {}).get("processes") == 1)
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if not child:
            said = b"the child died"
            try:
                policy.call(int)
                until(lambda: fleet.snapshot()["policies"].get("billing", {}).get("processes") == 2)
                until(lambda: fleet.snapshot()["policies"]["billing"]["calls"] == 51, what="the parent's calls count once")
                policy.breaker.force_open()
                time.sleep(0.5)
                said = policy.breaker.state.encode()
            finally:
                os.write(writer, said)
                os._exit(0)
        os.close(writer)
        until(lambda: policy.breaker.state == "forced-open", what="the child's order reaches its parent")
        assert select.select([reader], [], [], 20)[0], "the child hangs"
        assert os.read(reader, 100) == b"forced-open"
        os.close(reader)
        os.waitpid(child, 0)
        policy.breaker.reset()
        assert policy.call(int) == 0


@pytest.mark.realtime
@pytest.mark.parametrize("away", [False, True], ids=["answers", "is silent"])
def test_a_program_that_forgets_to_disconnect_ends_at_once_and_its_last_order_arrives(away: bool) -> None:
    program = (
        "import sys, time; from holdfast import Policy, Breaker, fleet; fleet.connect(sys.argv[1]);"
        "p = Policy('billing', breaker=Breaker())\n"
        "while not fleet.snapshot()['policies']: time.sleep(0.01)\n"
        "print('ready', flush=True); sys.stdin.readline(); p.breaker.force_open(); print(time.monotonic(), flush=True)"
    )
    with redis_server() as redis:
        running = subprocess.Popen(
            [sys.executable, "-c", program, redis.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        if away:
            redis.suspend()
        out, err = running.communicate("\n", timeout=30)
        ended = time.monotonic()
        if away:
            redis.resume()
        assert (running.returncode, err) == (0, "")
        assert ended - float(out) < 2.5
        if not away:
            assert library.Redis.from_url(redis.url).hget("{holdfast:billing}:breaker", "force") == b"forced-open"


@pytest.mark.realtime
def test_a_user_of_the_access_list_needs_no_more_than_the_docs_say_and_no_error_has_the_password() -> None:
    rights = "~{shop:*}* &shop:changes +@read +@write +eval +evalsha +publish +subscribe +time +ping +client|setinfo"
    told: list[Any] = []
    stop = events.subscribe(lambda event: told.append(event) if not event.policy else None)
    try:
        with redis_server(config=[f"user app on >s3cret {rights}"]) as redis:
            with connected(redis.url_of("app", "s3cret"), prefix="shop"):
                policy = Policy("billing", breaker=Breaker())
                policy.breaker.force_open()
                client = library.Redis.from_url(redis.url)
                until(lambda: client.hget("{shop:billing}:breaker", "force") == b"forced-open")
                until(lambda: client.pubsub_numsub("shop:changes")[0][1] == 1)
                assert told == [], "nothing was lost and nothing ignored"
            fleet.connect(redis.url_of("app", "s3cret-wrong"), prefix="shop")
            until(lambda: [event for event in told if isinstance(event, events.FleetLost)])
            fleet.disconnect()
    finally:
        stop()
    assert "s3cret" not in repr(told)
    assert told[-1].reason == "the server does not know the user or the password"


@pytest.mark.realtime
def test_tls_is_checked_and_obeys_the_deadline() -> None:
    with redis_server() as redis, tls_in_front(redis.port) as port:
        with connected(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate()}"):
            policy = Policy("billing", breaker=Breaker())
            policy.breaker.force_open()
            until(lambda: library.Redis.from_url(redis.url).hget("{holdfast:billing}:breaker", "force") == b"forced-open")
        told: list[Any] = []
        stop = events.subscribe(told.append)
        fleet.connect(f"rediss://localhost:{port}/0")  # nobody vouches for that certificate
        until(lambda: [event for event in told if isinstance(event, events.FleetLost)])
        fleet.disconnect()
        stop()


@contextlib.contextmanager
def tls_in_front(port: int) -> Iterator[int]:
    """The server's wheel speaks no TLS: somebody in front of it does."""
    loop = asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            theirs, ours = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(copy(reader, ours), copy(theirs, writer))

    started = threading.Event()
    listening: list[int] = []
    over = asyncio.Event()

    async def main() -> None:
        async with await asyncio.start_server(serve, "localhost", 0, ssl=server_context(), family=2) as listener:
            listening.append(listener.sockets[0].getsockname()[1])
            started.set()
            await over.wait()
            listener.close()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop), return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield listening[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)


@pytest.mark.realtime
def test_calls_go_on_in_a_process_whose_policy_has_only_a_retry() -> None:
    with redis_server() as redis, connected(redis.url):
        assert Policy("light", retry=Retry()).call(int) == 0
        time.sleep(0.1)
        assert "light" not in fleet.snapshot()["policies"]


@pytest.mark.realtime
def test_processes_with_nothing_to_say_slow_down_and_wake_when_there_is_something() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker={"min_calls": 10}) as fleet_:
        client = library.Redis.from_url(redis.url)
        time.sleep(2.0)
        client.config_resetstat()
        time.sleep(2.0)
        calls = client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
        assert calls <= 6, "busy ones would have made eighty"
        for host in fleet_:
            host.do(do.set_failing, True)
            host.do(do.calls, 8)
        watch = Stopwatch(*(host.process.pid for host in fleet_))
        until(lambda: all(host.do(do.state) == "open" for host in fleet_))
        assert watch.took < 1.0, "within a few intervals"
