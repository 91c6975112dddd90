"""Two network namespaces with a wire between them, made without root, and a kernel that loses packets on it as it is told to.

    with Namespaces() as net:
        Process(net.command(net.far, ["rabbitmq-server"]), ...)
        Process(net.command(net.near, ["python", "processor.py"]), ...)
        net.firewall(idle=2.0)      # forgets a flow after 2 s without a packet, and then drops its packets without a word
        net.drop(); net.blackhole(); net.unplug(); net.mend()

`near` and `far` have an address each (10.77.0.1 and 10.77.0.2) and reach nothing else, and nobody reaches them. They live in a user
namespace of their own, so an ordinary user may make them, and they are gone with the two processes that hold them.

The firewall stands at the far side's door. It is a set of flows with a time to live, in the kernel's nftables: a SYN enters its flow, each
packet of a flow that is known renews it, and whatever is left is dropped. Connection tracking works like that; the set shows the rule.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from holdfast.replay.parts.process import Folder, Process, StartFailed, Unavailable

if TYPE_CHECKING:
    from typing import Self

_PROGRAMS = {
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "ss": "iproute2",
    "nft": "nftables",
}

# Made for each pair anew, so the same names and addresses serve all.
_NEAR, _FAR = "near0", "far0"

_RULES = """
table inet wall {{
  set flows {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout {idle}ms; }}
  chain arriving {{ type filter hook input priority 0; policy accept;
    iif lo accept;
    tcp flags & (syn | ack) == syn update @flows {{ ip saddr . tcp sport }} accept;
    meta l4proto tcp ip saddr . tcp sport @flows update @flows {{ ip saddr . tcp sport }} accept;
    meta l4proto tcp counter drop;
  }}
  chain leaving {{ type filter hook output priority 0; policy accept;
    oif lo accept;
    meta l4proto tcp ip daddr . tcp dport @flows update @flows {{ ip daddr . tcp dport }} accept;
    meta l4proto tcp counter drop;
  }}
}}
"""

_SILENCE = """
table inet silence {
  chain arriving { type filter hook input priority 0; policy accept; iif lo accept; drop; }
  chain leaving { type filter hook output priority 0; policy accept; oif lo accept; drop; }
}
"""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two namespaces: its address, its end of the wire, and the process that holds it."""

    name: str
    address: str
    device: str
    pid: int


@dataclass(frozen=True, slots=True)
class Flow:
    """One TCP connection as `ss -ti` shows it.

    Args:
        local: address and port of this end.
        peer: address and port of the other end.
        state: "ESTAB" and its like.
        unacked: segments that were sent and not acknowledged.
        retransmitted: how often in a row the first of them was sent again (`retrans:1/4` has had 4 in all; `backoff` counts this row).
        rto: seconds until the next time, as the kernel counts now.
        silent: seconds since something was last sent.
    """

    local: str
    peer: str
    state: str
    unacked: int
    retransmitted: int
    rto: float
    silent: float


class Namespaces:
    """The pair, for the length of a block.

    Raises (on entering):
        Unavailable: no Linux, no user namespaces, or a program is missing; with what to do about it.
    """

    near: Side
    far: Side

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        check()
        try:
            folder = self._stack.enter_context(Folder("namespaces"))
            # A user namespace with a network of its own, and a second network in the same user namespace.
            unshare = _found("unshare")
            first = self._stack.enter_context(_holder(folder, "near", [unshare, "--user", "--map-root-user", "--net", "--"]))
            self.near = Side("near", "10.77.0.1", _NEAR, first.pid)
            second = self._stack.enter_context(_holder(folder, "far", self.command(self.near, [unshare, "--net", "--"])))
            self.far = Side("far", "10.77.0.2", _FAR, second.pid)
            self._connect()
        except (StartFailed, subprocess.CalledProcessError) as error:
            self._stack.close()
            told = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise Unavailable(f"network namespaces cannot be made here: {told}") from error
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.close()

    # Processes.

    def command(self, side: Side, command: Sequence[str]) -> list[str]:
        """The command that runs `command` inside; it becomes it, so its pid and its signals are its own."""
        enter = [_found("nsenter"), "--target", str(side.pid), "--user", "--net", "--preserve-credentials", "--"]
        return [*enter, *_DYING, *command]

    def run(self, side: Side, *command: str, text: str | None = None) -> str:
        """Run a short command inside; `text` is its input. What it printed.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        inside = self.command(side, command)
        return subprocess.run(inside, input=text, capture_output=True, text=True, check=True).stdout  # noqa: S603  (our own command)

    # The kernel.

    def retries(self, count: int) -> None:
        """How often both kernels send a segment again before they give a connection up: `net.ipv4.tcp_retries2`."""
        for side in (self.near, self.far):
            self.run(side, "sh", "-c", f"echo {int(count)} > /proc/sys/net/ipv4/tcp_retries2")

    def flows(self, side: Side) -> list[Flow]:
        """The TCP connections of a side, as `ss -ti` shows them."""
        return read_flows(self.run(side, _found("ss"), "-tinHO"))

    # What goes wrong.

    def firewall(self, idle: float) -> None:
        """From now on only flows that began since then pass, and only until they were idle for this many seconds."""
        self._open()
        self.run(self.far, _found("nft"), "-f", "-", text=_RULES.format(idle=int(idle * 1000)))

    def forget(self, port: int) -> None:
        """Let the firewall forget the near side's flows to a port of the far side, however busy they are, as when it is replaced."""
        for flow in self.flows(self.near):
            if flow.peer == f"{self.far.address}:{port}":
                element = flow.local.replace(":", " . ")
                with contextlib.suppress(subprocess.CalledProcessError):  # it was forgotten by itself
                    self.run(self.far, _found("nft"), "delete", "element", "inet", "wall", "flows", "{", element, "}")

    def drop(self) -> None:
        """Drop every packet, both ways, without a word."""
        self.run(self.far, _found("nft"), "-f", "-", text=_SILENCE)

    def blackhole(self) -> None:
        """Take the far side's way back: what it is asked arrives, and its answers go nowhere."""
        self.run(self.far, _found("ip"), "route", "add", "blackhole", f"{self.near.address}/32")

    def unplug(self) -> None:
        """Take the far side's end of the wire down."""
        self.run(self.far, _found("ip"), "link", "set", _FAR, "down")

    def mend(self) -> None:
        """Undo `firewall`, `drop`, `blackhole` and `unplug`, whichever was done."""
        self._open()
        with contextlib.suppress(subprocess.CalledProcessError):
            self.run(self.far, _found("ip"), "route", "del", "blackhole", f"{self.near.address}/32")
        self.run(self.far, _found("ip"), "link", "set", _FAR, "up")

    def _open(self) -> None:
        self.run(self.far, _found("nft"), "flush", "ruleset")

    def _connect(self) -> None:
        ip = _found("ip")
        self.run(self.near, ip, "link", "add", _NEAR, "type", "veth", "peer", "name", _FAR, "netns", str(self.far.pid))
        for side in (self.near, self.far):
            self.run(side, ip, "address", "add", f"{side.address}/24", "dev", side.device)
            self.run(side, ip, "link", "set", side.device, "up")
            self.run(side, ip, "link", "set", "lo", "up")


def check() -> None:
    """Raise Unavailable where this machine cannot make a pair, as far as can be told without making one."""
    if sys.platform != "linux":
        raise Unavailable("network namespaces are Linux's; the fault proxy serves elsewhere")
    missing = sorted({package for program, package in _PROGRAMS.items() if _where(program) is None})
    if missing:
        raise Unavailable(f"programs are missing for network namespaces: apt-get install -y --no-install-recommends {' '.join(missing)}")


def _holder(folder: Path, name: str, enter: Sequence[str]) -> Process:
    """A process that does nothing in a namespace, which lives as long as it does."""
    here = folder / f"{name}.here"
    command = [*enter, *_DYING, "sh", "-c", 'touch "$0"; exec sleep infinity', str(here)]
    return Process(command, name=name, folder=folder, ready=here.exists, within=10.0)


def read_flows(text: str) -> list[Flow]:
    """What `ss -tinHO` printed, a line for each connection."""
    flows = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 5:
            continue
        flows.append(
            Flow(
                local=words[3],
                peer=words[4],
                state=words[0],
                unacked=_number(line, r"\bunacked:(\d+)"),
                retransmitted=_number(line, r"\bbackoff:(\d+)"),
                rto=_number(line, r"\brto:(\d+)") / 1000,
                silent=_number(line, r"\blastsnd:(\d+)") / 1000,
            )
        )
    return flows


def _number(line: str, pattern: str) -> int:
    found = re.search(pattern, line)
    return int(found[1]) if found else 0


# /usr/sbin is not on an ordinary user's path in Debian, and has what they may run all the same.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _where(program: str) -> str | None:
    return shutil.which(program, path=_PATH)


def _found(program: str) -> str:
    return _where(program) or program


# The kernel forgets the death signal of a process that changes its user namespace, so it is set again inside.
_DYING = [_found("setpriv"), "--pdeathsig", "KILL", "--"]
