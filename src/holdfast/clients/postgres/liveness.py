"""Whether a silent server is working or gone.

A query may take minutes, and all that time PostgreSQL says nothing; a server that was stopped says nothing either, while its kernel goes
on to acknowledge. So when a connection has been silent for half of `dead_after`, the server is asked on a second connection: an
SSLRequest, which its postmaster answers with one byte before any login. No answer until `dead_after` is over means that nobody is there.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TypeAlias

# A family of `socket`, and the address as it has it.
Place: TypeAlias = "tuple[int, tuple[str, int] | tuple[str, int, int, int] | str]"

# Chapter "Message Formats" of PostgreSQL's documentation: length 8, and the number that stands for the request.
_SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"

# Of `dead_after`, until the server is asked.
_ASK_AFTER = 0.5


class Probe:
    """One question to the server, on a socket that never blocks."""

    __slots__ = ("_asked", "sock")

    def __init__(self, place: Place) -> None:
        family, address = place
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self._asked = False
        with suppress(BlockingIOError):
            self.sock.connect(address)

    @property
    def writes(self) -> bool:
        """Whether it waits for its socket to be writable; otherwise, for an answer."""
        return not self._asked

    def step(self) -> bool | None:
        """Go on when the socket is ready.

        Returns:
            True when the server has answered, False when nobody listens there any more, None while neither is known.
        """
        try:
            if self._asked:
                return self.sock.recv(1) != b""
            self.sock.send(_SSL_REQUEST)
            self._asked = True
        except BlockingIOError:
            pass
        except OSError:  # also of connecting
            return False
        return None

    def close(self) -> None:
        """Give the socket back."""
        self.sock.close()


class Liveness:
    """How long a connection has been silent, and what its server said when it was asked.

    Args:
        place: where the server is; None where that is not known, and then silence means nothing.
        dead_after: seconds.
        now: monotonic seconds.
    """

    __slots__ = ("_dead_after", "_place", "_since", "probe")

    def __init__(self, place: Place | None, dead_after: float, now: float) -> None:
        self._place = place
        self._dead_after = dead_after
        self._since = now
        self.probe: Probe | None = None

    @property
    def next_look(self) -> float:
        """When there is something to do, in monotonic seconds, if everybody stays silent."""
        if self._place is None:
            return float("inf")
        return self._since + self._dead_after * (1.0 if self.probe is not None else _ASK_AFTER)

    def heard(self, now: float) -> None:
        """The server has said something."""
        self._since = now
        self.close()

    def look(self, now: float) -> bool:
        """Ask the server when it is time to.

        Returns:
            False when it is dead.
        """
        if self._place is None or now < self.next_look:
            return True
        if self.probe is not None:
            return False
        try:
            self.probe = Probe(self._place)
        except OSError:
            return False
        return True

    def ready(self, now: float) -> bool:
        """The probe's socket is ready.

        Returns:
            False when the server is dead.
        """
        answer = None if self.probe is None else self.probe.step()
        if answer:
            self.heard(now)
        return answer is not False

    def close(self) -> None:
        """End the question."""
        if self.probe is not None:
            self.probe.close()
            self.probe = None
