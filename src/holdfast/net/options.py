"""TCP options of long-lived connections, in one place.

A connection whose peer went away without a word is noticed by two different options, and both are needed:

- **Keepalive** asks an *idle* peer. It does nothing while sent data is not acknowledged.
- **TCP_USER_TIMEOUT** ends a connection with *unacknowledged data*; without it Linux retransmits 15 times, about 924 s.

Linux has both. macOS has keepalive (TCP_KEEPALIVE is its idle time), and TCP_RXT_CONNDROPTIME for the other. Where a
system lacks one, `apply` says so in what it returns.
"""

from __future__ import annotations

import math
import socket
import sys
from dataclasses import dataclass
from typing import cast

from holdfast.validation import Seconds, positive_seconds

# macOS <netinet/tcp.h>; Python does not name it.
_TCP_RXT_CONNDROPTIME = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpOptions:
    """How soon a connection whose peer has vanished is noticed.

    Args:
        dead_after: seconds, > 0, whole where the system counts in seconds: idle or with data in flight.

    Raises:
        ValueError: it is out of its range.
    """

    dead_after: Seconds = 5.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dead_after", positive_seconds("TcpOptions.dead_after", self.dead_after))

    def as_list(self) -> list[tuple[int, int, int]]:
        """Triples for `setsockopt`, as HTTP clients take them (`socket_options`). Only what this system has."""
        dead_after = cast(float, self.dead_after)
        # Asked after half of the time, then three times in the rest: idle + 3 probes are the whole.
        probes = 3
        interval = max(1, int(dead_after / (2 * probes)))
        idle = max(1, math.floor(dead_after) - probes * interval)
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
        if hasattr(socket, "TCP_KEEPIDLE"):
            options.append((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle))
        elif sys.platform == "darwin":
            options.append((socket.IPPROTO_TCP, getattr(socket, "TCP_KEEPALIVE", 0x10), idle))
        if hasattr(socket, "TCP_KEEPINTVL"):
            options.append((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval))
            options.append((socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes))
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after * 1000)))
        elif sys.platform == "darwin":
            options.append((socket.IPPROTO_TCP, _TCP_RXT_CONNDROPTIME, max(1, math.ceil(dead_after))))
        return options

    def apply(self, sock: socket.socket) -> list[str]:
        """Set them on a TCP socket.

        Returns:
            What this system does not have, in words; empty where both ways of noticing are set.
        """
        for level, name, value in self.as_list():
            sock.setsockopt(level, name, value)
        missing = []
        if not hasattr(socket, "TCP_USER_TIMEOUT") and sys.platform != "darwin":
            missing.append("no TCP_USER_TIMEOUT: unacknowledged data is retransmitted for as long as the system likes")
        if not hasattr(socket, "TCP_KEEPINTVL"):
            missing.append("no TCP_KEEPINTVL: the system's own keepalive times apply")
        return missing
