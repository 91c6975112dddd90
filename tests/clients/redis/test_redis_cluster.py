"""A cluster's clients, blocking and in asyncio: a master that is stopped, answers that are lost, and nodes that send elsewhere."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis as redis_py
from redis.crc import key_slot

import holdfast
from holdfast import Backoff, DeadlineExceeded, Policy, Retry
from holdfast.clients.redis import async_cluster_from_url, cluster_from_url
from holdfast.replay.parts.redis import RedisServer
from holdfast.testing.faults import Cut, FaultProxy
from stopwatch import Stopwatch

pytestmark = pytest.mark.realtime

Ask = Callable[..., Any]


@contextmanager
def _sync(url: str, **options: Any) -> Iterator[tuple[Ask, Ask]]:
    client = cluster_from_url(url, **options)

    def pipeline(*commands: tuple[Any, ...]) -> Any:
        with client.pipeline() as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return pipe.execute()

    try:
        yield client.execute_command, pipeline
    finally:
        client.close()


@contextmanager
def _async(url: str, **options: Any) -> Iterator[tuple[Ask, Ask]]:
    with asyncio.Runner() as runner:
        client = async_cluster_from_url(url, **options)

        async def ask(*args: Any) -> Any:
            return await client.execute_command(*args)

        async def send(*commands: tuple[Any, ...]) -> Any:
            async with client.pipeline() as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return await pipe.execute()

        def run(fn: Ask) -> Ask:
            return lambda *args: runner.run(fn(*args), context=contextvars.copy_context())

        try:
            yield run(ask), run(send)
        finally:
            runner.run(client.aclose())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def client(request: pytest.FixtureRequest) -> Any:
    return request.param


def _key(name: str, slots: range) -> str:
    """A key of one of these slots: a third of them, in order, belongs to each master."""
    return next(f"{name}{n}" for n in range(1000) if key_slot(f"{name}{n}".encode()) in slots)


def _nodes(nodes: list[RedisServer]) -> list[tuple[str, int]]:
    return [("127.0.0.1", node.port) for node in nodes]


def test_a_pipeline_whose_answers_are_lost_is_not_sent_again(client, cluster):
    policy = Policy("carts", deadline=3.0, retry=Retry(attempts=20, backoff=Backoff(base=0.05, cap=0.1)))
    with FaultProxy(to=("127.0.0.1", cluster[1].port)) as proxy:
        behind = {("127.0.0.1", cluster[1].port): ("127.0.0.1", proxy.port)}
        options = {"policy": policy, "address_remap": lambda address: behind.get(address, address)}
        with client(cluster[0].url, startup_nodes=_nodes(cluster), **options) as (_, send):
            name = _key(client.__name__, range(5500, 10900))
            assert send(("INCR", name), ("GET", name)) == [1, b"1"]
            proxy.set(Cut(where="data"))
            with pytest.raises(redis_py.RedisError):
                send(("INCR", name), ("GET", name))
            proxy.clear()
            assert send(("GET", name), ("GET", name)) == [b"2", b"2"]


def test_a_deadline_shorter_than_everything_still_leads_to_the_new_master(cluster):
    url, nodes = cluster[1].url, _nodes(cluster)
    with _sync(url, startup_nodes=nodes) as (ask, _), _async(url, startup_nodes=nodes) as (aask, _):
        name = _key("first", range(5400))
        for each in (ask, aask):
            assert each("SET", name, "1")
        cluster[0].suspend()
        try:
            found: set[Ask] = set()
            give_up = time.monotonic() + 15.0
            while len(found) < 2 and time.monotonic() < give_up:
                for each in (ask, aask):
                    watch = Stopwatch()
                    try:
                        with holdfast.deadline(0.3):
                            if each("GET", name) == b"1":
                                found.add(each)
                    except (DeadlineExceeded, redis_py.RedisError):
                        pass
                    assert watch.took < 0.4
            assert found == {ask, aask}
            # A client that is made now meets the stopped one too, which has its share of the time alone.
            for make in (_sync, _async):
                watch = Stopwatch()
                with holdfast.deadline(2.0), make(cluster[0].url, startup_nodes=nodes) as (fresh, _):
                    assert fresh("GET", name) == b"1"
                assert watch.took < 1.5
        finally:
            cluster[0].resume()


class _Node(socketserver.StreamRequestHandler):
    """A node that says all slots are its own, and sends every command elsewhere."""

    def handle(self) -> None:
        own = self.server.server_address[1]
        answers = {
            b"CLUSTER": b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:%d\r\n$1\r\nx\r\n" % own,
            b"COMMAND": b"*1\r\n*6\r\n$3\r\nget\r\n:2\r\n*1\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n",
            b"GET": b"-MOVED 7 127.0.0.1:%d\r\n" % (self.server.elsewhere or own),
        }
        while count := self.rfile.readline():
            words = [self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2] for _ in range(int(count[1:]))]
            self.wfile.write(answers.get(words[0].split()[0], b"+OK\r\n") if words[0] != b"HELLO" else b"-ERR unknown command\r\n")


@contextmanager
def _hostile(elsewhere: int | None) -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Node) as server:
        server.daemon_threads = True
        server.elsewhere = elsewhere
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_nodes_that_send_a_command_in_a_circle_are_left_at_once(client):
    with _hostile(None) as port, client(f"redis://127.0.0.1:{port}", protocol=2) as (ask, _):
        watch = Stopwatch()
        with pytest.raises(redis_py.exceptions.ClusterError, match="circle"):
            ask("GET", "a")
        assert watch.took < 1.0


def test_a_command_that_is_sent_to_a_silent_node_ends_at_the_deadline(client):
    with socket.create_server(("127.0.0.1", 0)) as silent, _hostile(silent.getsockname()[1]) as port:
        with client(f"redis://127.0.0.1:{port}", protocol=2) as (ask, _):
            watch = Stopwatch()
            with pytest.raises((DeadlineExceeded, redis_py.exceptions.ClusterDownError)), holdfast.deadline(0.5):
                ask("GET", "a")
            assert watch.took < 0.6
