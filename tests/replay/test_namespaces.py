"""The pair of network namespaces, and the kernel's ways of losing packets between them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from holdfast.replay.parts import namespaces
from holdfast.replay.parts.namespaces import Flow, Namespaces, read_flows
from holdfast.replay.parts.process import Unavailable

# Answers whatever it is sent, on the far side.
_ECHO = """
import socket, sys, threading
def serve(s):
    while data := s.recv(100):
        s.send(data)
listener = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""

# Sends what it is told on its standard input, and says what came back.
_ASK = """
import socket, sys
c = socket.create_connection((sys.argv[1], 5000), timeout=5)
for line in sys.stdin:
    word, seconds = line.split()
    c.settimeout(float(seconds))
    try:
        c.send(word.encode())
        print(c.recv(100).decode(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    with Namespaces() as made:
        command = made.command(made.far, [sys.executable, "-c", _ECHO, made.far.address])
        echo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert echo.stdout is not None
        assert echo.stdout.readline() == "ready\n"
        yield made
        echo.kill()
        echo.wait()
        echo.stdout.close()


class Asker:
    """A connection from the near side."""

    def __init__(self, net: Namespaces) -> None:
        command = net.command(net.near, [sys.executable, "-c", _ASK, net.far.address])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, word: str, seconds: float = 5.0) -> str:
        self.say(word, seconds)
        return self.hear()

    def say(self, word: str, seconds: float = 5.0) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word} {seconds}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def asker(net: Namespaces) -> Iterator[Asker]:
    net.mend()
    net.retries(15)
    asker = Asker(net)
    yield asker
    net.mend()
    asker.process.kill()
    asker.process.communicate()


def test_the_two_sides_reach_each_other(asker: Asker) -> None:
    assert asker.ask("hello") == "hello"


@pytest.mark.realtime
def test_the_firewall_lets_a_busy_flow_pass_and_forgets_an_idle_one_without_a_word(net: Namespaces, asker: Asker) -> None:
    net.firewall(idle=1.0)
    fresh = Asker(net)
    try:
        for word in ("one", "two", "three"):
            assert fresh.ask(word) == word
            time.sleep(0.4)
        net.forget(5000)
        assert fresh.ask("now", 0.3) == "TimeoutError"
        time.sleep(1.5)
        assert fresh.ask("four", 1.0) == "TimeoutError"
        new = Asker(net)
        assert new.ask("five") == "five"
        new.process.kill()
        new.process.communicate()
    finally:
        fresh.process.kill()
        fresh.process.communicate()


@pytest.mark.realtime
@pytest.mark.parametrize("fault", ["drop", "blackhole", "unplug"])
def test_a_fault_is_silent_and_mended(net: Namespaces, asker: Asker, fault: str) -> None:
    assert asker.ask("before") == "before"
    getattr(net, fault)()
    assert asker.ask("during", 0.5) == "TimeoutError"
    net.mend()
    asker.say("after")
    heard = asker.hear()
    while not heard.endswith("after"):  # what was lost arrives first, once it is sent again
        assert heard == "during"
        asker.say("after")
        heard = asker.hear()
    assert heard.removeprefix("during").replace("after", "") == ""  # the answers of two questions may come as one


@pytest.mark.realtime
def test_the_retransmissions_are_seen_and_end_sooner_with_fewer_retries(net: Namespaces, asker: Asker) -> None:
    net.retries(2)
    assert asker.ask("before") == "before"
    net.drop()
    began = time.monotonic()
    asker.say("lost", 30)
    seen = set()
    while time.monotonic() - began < 1.0:
        seen.update(flow.retransmitted for flow in net.flows(net.near) if flow.unacked)
        time.sleep(0.05)
    assert {1, 2} & seen
    assert asker.hear() == "TimeoutError"
    assert time.monotonic() - began < 10


def test_what_ss_prints_is_read() -> None:
    line = (
        "ESTAB 0      1          10.77.0.1:40668    10.77.0.2:5000 timer:(on,296ms,3) ts sack bbr wscale:10,10 rto:1632 backoff:3 "
        "rtt:0.086/0.055 bytes_retrans:4 lastsnd:1336 unacked:1 retrans:1/4 lost:1 minrtt:0.012\n\n"
    )
    assert read_flows(line) == [
        Flow(local="10.77.0.1:40668", peer="10.77.0.2:5000", state="ESTAB", unacked=1, retransmitted=3, rto=1.632, silent=1.336)
    ]


def test_a_machine_that_lacks_a_program_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "_PATH", "/nowhere")
    with pytest.raises(Unavailable, match=r"apt-get install .* iproute2 nftables util-linux"):
        Namespaces().__enter__()
