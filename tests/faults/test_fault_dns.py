"""Name look-ups that hang, and are let go."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading

import pytest
from fault_servers import echo, serving, soon

from holdfast.testing.faults import StalledResolver, stalled_dns
from stopwatch import Stopwatch
from watching import open_fds

pytestmark = pytest.mark.realtime


def look_up(name, outcome):
    try:
        outcome.append(socket.getaddrinfo(name, 80))
    except socket.gaierror as error:
        outcome.append(error.errno)


def test_a_look_up_hangs_and_is_let_go_at_the_end():
    real, threads, outcome = socket.getaddrinfo, threading.active_count(), []
    with stalled_dns(60) as stall:
        asking = [threading.Thread(target=look_up, args=(name, outcome)) for name in ("a.test", b"b.test")]
        for thread in asking:
            thread.start()
        assert soon(lambda: stall.hung == 2)
        assert outcome == []
    assert socket.getaddrinfo is real
    assert stall.hung == 0
    for thread in asking:
        thread.join(10)
    assert outcome == [socket.EAI_AGAIN] * 2
    assert sorted(stall.names) == ["a.test", "b.test"]
    assert threading.active_count() == threads


def test_after_its_time_a_look_up_goes_on():
    watch = Stopwatch()
    with stalled_dns("100ms", host="LOCAL*"):
        assert socket.getaddrinfo("localhost", 80)
    assert 0.095 <= watch.elapsed
    assert watch.took < 1.0


def test_other_names_and_addresses_pass():
    with serving(echo) as to, stalled_dns(60) as stall:
        socket.create_connection(to, 1).close()
        assert socket.getaddrinfo("::1", 80)
        assert socket.getaddrinfo(None, 80)
    with stalled_dns(60, host="*.test"):
        assert socket.getaddrinfo("localhost", 80)
    assert stall.names == ()


def test_asyncio_hangs_too_and_its_executor_is_free_afterwards():
    async def main():
        with stalled_dns(60) as stall:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.open_connection("a.test", 80), 0.1)
            assert stall.hung == 1

    watch = Stopwatch()
    asyncio.run(main())
    assert watch.took < 1.0


def test_nested_and_left_in_another_order():
    real = socket.getaddrinfo
    outer, inner = stalled_dns(60, host="a.test"), stalled_dns(60, host="b.test")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert socket.getaddrinfo is not real  # the inner one still stalls
    inner.__exit__(None, None, None)
    assert socket.getaddrinfo("127.0.0.1", 80) == real("127.0.0.1", 80)
    socket.getaddrinfo = real


def query(name):
    labels = b"".join(struct.pack("B", len(label)) + label for label in name.encode().split(b"."))
    return b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"


def test_a_stalled_resolver_hears_and_never_answers():
    threads, fds = threading.active_count(), open_fds()
    with StalledResolver() as resolver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(resolver.address)
        client.settimeout(0.1)
        for packet in (query("www.a.test"), query("b.test"), b"", b"junk", query("c.test")[:15], b"\0" * 12 + b"\xff" * 9):
            client.send(packet)
        with pytest.raises(TimeoutError):
            client.recv(100)
        assert soon(lambda: resolver.names == ("www.a.test", "b.test", "?", "?", "?", "?"))
        assert threading.active_count() == threads
    assert open_fds() == fds
    assert resolver.names[0] == "www.a.test"
    with pytest.raises(RuntimeError, match="does not run"):
        _ = resolver.address
