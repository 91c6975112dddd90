"""What the kernel knows of a server's sockets: who waits to be accepted, and for how long. Linux; elsewhere nobody can tell."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

# linux/tcp.h, struct tcp_info: 8 bytes of flags, then numbers of 32 bits. Of a listening socket two have another meaning.
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_WAITING = 8 + 4 * 4  # tcpi_unacked: connections that wait to be accepted
_ROOM = 8 + 4 * 5  # tcpi_sacked: how many may
_SINCE_DATA = 8 + 4 * 11  # tcpi_last_data_recv: milliseconds since the peer last sent something, or since it connected

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

_LISTEN = "0A"  # include/net/tcp_states.h
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")

# linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h: a header, and of each answer the queue at byte 56 and the inode at byte 68.
_NLMSGHDR = struct.Struct("=IHHII")
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP = 4, 20, 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_QUEUE_AND_INODE = struct.Struct("=56xI8xI")


def since_data(sock: object) -> float | None:
    """Seconds since the peer last sent something: for a request that is only now looked at, the time it has waited.

    It counts through the accept queue, where no server has a clock. None where the system does not tell. The kernel's own clock has
    a grain of up to 10 ms.
    """
    return _number(sock, _SINCE_DATA, 1e-3)


def room(sock: object) -> int | None:
    """How many connections may wait to be accepted on a listening socket."""
    found = _number(sock, _ROOM, 1.0)
    return None if found is None else int(found)


def waiting(sock: object) -> int | None:
    """How many connections wait to be accepted on a listening socket."""
    found = _number(sock, _WAITING, 1.0)
    return None if found is None else int(found)


def _number(sock: object, offset: int, scale: float) -> float | None:
    if _TCP_INFO is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, offset + 4)  # type: ignore[attr-defined]
        return int(struct.unpack_from("=I", info, offset)[0]) * scale
    except (OSError, AttributeError, struct.error):  # no TCP, closed, or no socket at all
        return None


def signal_at_parents_end(number: int) -> None:
    """Have this signal sent to this process when the thread that forked it ends. Linux; elsewhere nothing happens."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))


def inode(sock: object) -> int | None:
    """The number by which every process knows this socket."""
    try:
        return os.fstat(sock.fileno()).st_ino  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        return None


def accept_queue(inodes: Collection[int]) -> int | None:
    """How many connections wait to be accepted on these listening sockets, whoever holds them; None where none of them is to be seen."""
    found = [queue for number, queue in _listening() if number in inodes]
    return sum(found) if found else None


def own_listeners() -> list[int]:
    """The inodes of the TCP sockets that this process listens on."""
    mine = set()
    for entry in _entries("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")  # noqa: PTH115  (hundreds of them)
        except OSError:  # closed meanwhile, like the one that lists them
            continue
        if target.startswith("socket:["):
            mine.add(int(target[8:-1]))
    return [number for number, _ in _listening() if number in mine]


def _entries(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names, and no objects for them)
    except OSError:
        return []


def _listening() -> Iterable[tuple[int, int]]:
    """Inode and length of the accept queue of every listening TCP socket of this network namespace."""
    try:
        return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _diagnosed(family)]
    except (OSError, AttributeError):  # a sandbox without netlink, or no Linux
        return list(_from_tables())


def _diagnosed(family: int) -> Iterable[tuple[int, int]]:
    """From netlink's socket diagnosis: 0.1 ms, where the tables of /proc cost 12 ms, for they walk through all places for connections."""
    request = struct.pack("=BBBxI48x", family, socket.IPPROTO_TCP, 0, 1 << int(_LISTEN, 16))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request)
        while True:
            answer = kernel.recv(65536)
            at = 0
            while at < len(answer):
                length, kind, *_ = _NLMSGHDR.unpack_from(answer, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR or length < _NLMSGHDR.size:
                    raise OSError("the kernel does not diagnose sockets")
                queue, number = _QUEUE_AND_INODE.unpack_from(answer, at + _NLMSGHDR.size)
                yield number, queue
                at += (length + 3) & ~3


def _from_tables() -> Iterable[tuple[int, int]]:
    for table in _TABLES:
        try:
            with Path(table).open(encoding="ascii") as lines:
                next(lines, None)
                for line in lines:
                    fields = line.split()
                    if fields[3] != _LISTEN:
                        break  # the kernel lists them first, and what follows may be a hundred thousand connections
                    yield int(fields[9]), int(fields[4].partition(":")[2], 16)
        except OSError:
            continue
