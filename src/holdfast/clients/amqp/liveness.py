"""How soon a broker that has gone silent is noticed, in AMQP's own terms. Pure.

The kernel notices a peer that does not acknowledge (`TcpOptions`). A broker that is stopped still acknowledges: its kernel does. There the
heartbeats say it, which a broker sends whenever it has nothing else to say. They are agreed in whole seconds, and RabbitMQ sends one each
time that its half interval passed twice without a byte, so an idle connection is silent for as long as the interval. Libraries wait for
two or three of them, and more to be safe (pika: the interval and 5 s, looked at once in that time), which is why this is done here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

from holdfast.net.options import TcpOptions
from holdfast.validation import Seconds, positive_seconds

# Heartbeats are whole seconds, and one of them must fit in.
LEAST = 1.0

# Type, channel and length of a frame (AMQP 0-9-1, 2.3.5); one byte ends it.
_HEAD = 7

# A heartbeat that is as late as this is late and no sign of death.
_LATE = 0.25


@dataclass(frozen=True, slots=True)
class Liveness:
    """When a broker counts as dead.

    Args:
        dead_after: seconds without a sign of life, >= 1, idle or with something in flight.

    Raises:
        ValueError: it is out of its range.
    """

    dead_after: Seconds = 5.0
    heartbeat: int = field(init=False)
    silence: float = field(init=False)
    tcp: TcpOptions = field(init=False)

    def __post_init__(self) -> None:
        seconds = positive_seconds("dead_after", self.dead_after)
        if seconds < LEAST:
            raise ValueError(f"dead_after must be >= 1 second: heartbeats are whole seconds, got {self.dead_after!r}")
        heartbeat = max(1, math.floor(seconds / 2))
        object.__setattr__(self, "dead_after", seconds)
        object.__setattr__(self, "heartbeat", heartbeat)
        object.__setattr__(self, "silence", max(seconds, 1.5 * heartbeat + _LATE))
        object.__setattr__(self, "tcp", TcpOptions(dead_after=seconds))

    @property
    def seconds(self) -> float:
        """`dead_after` as a number."""
        return cast("float", self.dead_after)

    def says(self, heard: float, now: float) -> str | None:
        """What is wrong where nothing has been heard since `heard`; None where nothing is."""
        silent = now - heard
        return f"the broker said nothing for {silent:.1f} s, not even a heartbeat" if silent >= self.silence else None

    def due(self, heard: float, now: float) -> float:
        """Seconds until it is to be looked at again."""
        return max(0.0, heard + self.silence - now)


class Frames:
    """Tells where frames end in what arrives: bytes alone are no sign of life, if nothing whole ever comes of them."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0  # of the running frame, its end included

    def feed(self, data: bytes) -> bool:
        """Whether a frame ended in this piece."""
        ended = False
        rest = memoryview(data)
        while rest:
            if not self._left:
                missing = _HEAD - len(self._head)
                self._head += rest[:missing]
                rest = rest[missing:]
                if len(self._head) < _HEAD:
                    break
                self._left = int.from_bytes(self._head[3:], "big") + 1
                self._head = b""
            step = min(self._left, len(rest))
            self._left -= step
            rest = rest[step:]
            ended = ended or not self._left
        return ended
