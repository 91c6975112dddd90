"""The store goes away in every way there is: no call notices, the process goes on alone, and one event says so, and one that it is back."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import fleet_hosts as do
import pytest
import redis as library
from fleet_hosts import Host, hosts, until

from holdfast.replay.parts.redis import redis_server

pytestmark = pytest.mark.realtime

RULE = {"min_calls": 10, "failure_rate": 0.5, "window": 30, "open_for": 0.5, "probe_share": 1.0, "probes_to_close": 2}

SOON = 1.0  # seconds without an answer after which the store is lost


class Relay:
    """A way to the server that can be made slow, or cut."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self._target))
                self._open += [ours, theirs]
                for here, there, slow in ((ours, theirs, False), (theirs, ours, True)):
                    threading.Thread(target=self._copy, args=(here, there, slow), daemon=True).start()

    def _copy(self, here: socket.socket, there: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while data := here.recv(65536):
                if slow and self.delay:
                    time.sleep(self.delay)
                there.sendall(data)
        for end in (here, there):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        for end in self._open:
            end.close()


def kinds(host: Host) -> list[str]:
    return [type(event).__name__ for event in host.do(do.told) if type(event).__name__.startswith("Fleet")]


@contextlib.contextmanager
def quiet_calls(fleet: list[Host]) -> Iterator[None]:
    """Calls all the time; none of them raises or waits because of what happens meanwhile."""
    for host in fleet:
        host.do(do.pump)
    yield
    for host in fleet:
        assert set(host.do(do.stop)) == {"ok"}
        assert host.do(do.slowest) < 0.2, "a call waited for the store"


def goes_and_comes(
    redis: Any, go: Callable[[], object], come: Callable[[], object], reasons: set[str], url: str = "", **connect: Any
) -> None:
    with hosts(2, url or redis.url, breaker=RULE, **connect) as fleet:
        with quiet_calls(fleet):
            time.sleep(0.2)
            assert kinds(fleet[0]) == kinds(fleet[1]) == [], "lost before anything went away"
            go()
            until(lambda: all(kinds(host) == ["FleetLost"] for host in fleet), what="lost")
            time.sleep(1.0)
            assert all(kinds(host) == ["FleetLost"] for host in fleet), "it is told once"
            assert fleet[0].do(do.told, "FleetLost")[0].reason in reasons
            come()
            until(lambda: all(kinds(host) == ["FleetLost", "FleetBack"] for host in fleet), what="back")
            assert fleet[0].do(do.told, "FleetBack")[0].away > 0.5
        fleet[0].do(do.force, "force_open")
        until(lambda: fleet[1].do(do.state) == "forced-open", what="one fleet again")


def test_refused() -> None:
    with redis_server() as redis:
        goes_and_comes(redis, redis.kill, redis.restart, {"no connection"})


def test_silent() -> None:
    with redis_server() as redis:
        goes_and_comes(redis, redis.suspend, redis.resume, {"no answer in time"}, timeout=SOON)


def test_slow() -> None:
    with redis_server() as redis:
        relay = Relay(redis.port)
        try:
            slow, quick = (lambda: setattr(relay, "delay", 2 * SOON)), (lambda: setattr(relay, "delay", 0.0))
            goes_and_comes(redis, slow, quick, {"no answer in time"}, relay.url, timeout=SOON)
        finally:
            relay.close()


def test_read_only() -> None:
    with redis_server() as master, redis_server() as redis:
        client = library.Redis.from_url(redis.url)
        go = lambda: client.replicaof("127.0.0.1", master.port)  # noqa: E731
        goes_and_comes(redis, go, lambda: client.replicaof("NO", "ONE"), {"the server is read-only", "the server is loading its data"})


def test_out_of_memory() -> None:
    with redis_server() as redis:
        client = library.Redis.from_url(redis.url)
        go = lambda: client.config_set("maxmemory", "1")  # noqa: E731
        goes_and_comes(redis, go, lambda: client.config_set("maxmemory", "0"), {"the server has no memory left"})


def test_slow_but_in_time_is_no_loss() -> None:
    with redis_server() as redis:
        relay = Relay(redis.port)
        relay.delay = 0.05
        try:
            with hosts(2, relay.url, breaker=RULE) as fleet:
                with quiet_calls(fleet):
                    time.sleep(1.0)
                fleet[0].do(do.force, "force_open")
                until(lambda: fleet[1].do(do.state) == "forced-open")
                assert kinds(fleet[0]) == kinds(fleet[1]) == []
        finally:
            relay.close()


def test_flushed_the_fleet_puts_back_what_it_knows() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker={**RULE, "open_for": 20}) as fleet:
        for host in fleet:
            host.do(do.set_failing, True)
            host.do(do.calls, 8, 0.01)
        until(lambda: all(host.do(do.state) == "open" for host in fleet))
        library.Redis.from_url(redis.url).flushall()
        # Whoever comes first puts it back, and tells; for who comes after, nothing has happened.
        until(lambda: any(kinds(host) == ["FleetLost", "FleetBack"] for host in fleet), what="told")
        assert all(host.do(do.state) == "open" for host in fleet)
        with hosts(1, redis.url, breaker=RULE) as (newcomer,):
            until(lambda: newcomer.do(do.state) == "open", what="the newcomer hears of it")


def test_flushed_counts_come_back_as_well() -> None:
    rule = {**RULE, "min_calls": 40}
    with redis_server() as redis, hosts(3, redis.url, breaker=rule) as fleet:
        for host in fleet:
            host.do(do.set_failing, True)
            host.do(do.calls, 12)
        time.sleep(0.3)
        library.Redis.from_url(redis.url).flushall()
        for host in fleet:
            host.do(do.calls, 2)
        until(lambda: all(host.do(do.state) == "open" for host in fleet))


def test_flushed_the_first_that_comes_back_does_not_speak_for_all() -> None:
    with redis_server() as redis, hosts(3, redis.url, breaker=RULE) as fleet:
        for host in fleet:
            host.do(do.calls, 5)
        until(lambda: fleet[0].do(do.snapshot)["policies"]["billing"]["processes"] == 3)
        time.sleep(1.0)  # the others have nothing to say, and say it ever more rarely
        fleet[0].do(do.set_failing, True)
        library.Redis.from_url(redis.url).flushall()
        fleet[0].do(do.calls, 20)
        time.sleep(0.5)
        assert [host.do(do.state) for host in fleet[1:]] == ["closed", "closed"], "it is one bad host"


def test_cut_off_each_opens_and_closes_by_itself_and_on_return_it_is_one_state() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker=RULE) as fleet:
        one, other = fleet
        for host in fleet:
            host.do(do.calls, 1)
        redis.kill()
        for host in fleet:
            host.do(do.calls, 1)
        until(lambda: all(kinds(host) == ["FleetLost"] for host in fleet))
        for host in fleet:
            host.do(do.set_failing, True)
            host.do(do.calls, 15)
        assert one.do(do.state) == other.do(do.state) == "open"
        redis.restart()
        until(lambda: all(kinds(host) == ["FleetLost", "FleetBack"] for host in fleet))
        for host in fleet:
            host.do(do.set_failing, False)
            host.do(do.pump)
        until(lambda: one.do(do.state) == other.do(do.state) == "closed", what="closed for both")


def test_a_breaker_that_was_open_for_the_fleet_closes_while_the_store_is_away() -> None:
    with redis_server() as redis, hosts(2, redis.url, breaker=RULE, timeout=SOON) as fleet:
        for host in fleet:
            host.do(do.set_failing, True)
            host.do(do.calls, 8, 0.01)
        until(lambda: all(host.do(do.state) in {"open", "half-open"} for host in fleet))
        redis.suspend()
        for host in fleet:
            host.do(do.set_failing, False)
            host.do(do.pump)
        until(lambda: all(host.do(do.state) == "closed" for host in fleet), what="closed alone")
        redis.resume()
        until(lambda: all(kinds(host)[-1:] == ["FleetBack"] for host in fleet))
        time.sleep(0.5)
        assert all(host.do(do.state) == "closed" for host in fleet), "what each found out is not written over"


def test_an_order_given_while_cut_off_is_delivered_unless_somebody_said_otherwise_since() -> None:
    with redis_server() as redis:
        relay = Relay(redis.port)
        try:
            with hosts(1, relay.url, breaker=RULE, timeout=SOON) as (cut,), hosts(1, redis.url, breaker=RULE) as (other,):
                relay.delay = 5.0
                until(lambda: kinds(cut) == ["FleetLost"])
                cut.do(do.force, "force_open")
                time.sleep(1.0)
                other.do(do.force, "force_closed")
                time.sleep(0.3)
                relay.delay = 0.0
                until(lambda: cut.do(do.state) == "forced-closed", 30, "the later order wins")
                assert other.do(do.state) == "forced-closed"
                until(lambda: kinds(cut)[-1] == "FleetBack")
                relay.delay = 5.0
                until(lambda: kinds(cut)[-1] == "FleetLost")
                cut.do(do.force, "force_open")
                relay.delay = 0.0
                until(lambda: other.do(do.state) == "forced-open", 30, "the order arrives")
        finally:
            relay.close()


def test_without_a_server_from_the_start_everything_works_alone() -> None:
    with contextlib.nullcontext(multiprocessing.get_context("forkserver").Value("i", 0)) as running:
        host = Host("redis://127.0.0.1:1/0", breaker=RULE, running=running)
        try:
            host.ready()
            until(lambda: kinds(host) == ["FleetLost"])
            assert host.do(do.calls, 5) == {"ok": 5}
            host.do(do.set_failing, True)
            host.do(do.calls, 20)
            assert host.do(do.state) == "open"
        finally:
            host.end()
