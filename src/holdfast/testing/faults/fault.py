"""What a fault is, and what it sees and says.

A fault is a frozen description. For each connection that it befalls it makes a stage per direction, which decides and never waits:
asked about the bytes at the head of the queue it says how many of them may pass, not before when, and what becomes of the
connection. `Stream` and `Connection` do it. Several faults combine: the fewest bytes, the latest time, the first end.
"""

from __future__ import annotations

import enum
import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple, TypeAlias

from holdfast.validation import choice, share

# down is from the server to the client, up from the client to the server.
Direction: TypeAlias = Literal["down", "up"]
DIRECTIONS: tuple[Direction, Direction] = ("down", "up")


class End(enum.Enum):
    """What may become of a connection."""

    RESET = "both sides get a RST"
    CUT = "both sides get a FIN, and nothing is passed on any more"
    HALF = "this direction ends with a FIN, the other one goes on"


class Decision(NamedTuple):
    """What a stage wants: at most `size` bytes, not before `at`; or that something is said first; or an end.

    `at` is in seconds of the loop's clock; with a size of 0 it is math.inf, unless there is something to `say` then.
    """

    size: int = sys.maxsize
    at: float = 0.0
    end: End | None = None
    say: bytes = b""


FREE = Decision()
HOLD = Decision(size=0, at=math.inf)


@dataclass(slots=True, eq=False)
class Chunk:
    """Bytes that wait to be passed on, and since when; no bytes are the end of the stream. `own` ones were said by a fault."""

    data: bytes
    arrived: float
    own: bool = False


@dataclass(slots=True)
class Talk:
    """What faults know of a connection as a whole: the client's first byte, and since when it waits for an answer, if it does."""

    opening: bytes = b""
    asking: float | None = None


class Stage:
    """A fault at work on one direction of one connection. It lets everything pass unless it says otherwise."""

    __slots__ = ()

    def decide(self, head: Chunk | None, /) -> Decision:
        """What may become of the bytes that wait; None where none do. Asked again whenever something changes."""
        del head
        return FREE

    def passed(self, data: bytes, now: float, /) -> None:
        """These bytes were passed on."""

    def said(self, now: float, /) -> None:
        """What this stage wanted to say is on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong between a client and a server.

    Raises:
        ValueError: a field is out of its range.
    """

    def __post_init__(self) -> None:
        self._check(type(self).__name__)

    def _check(self, name: str) -> None:
        """Raise ValueError for fields that are out of range; `name` begins the message."""

    def befalls(self, rng: Random, /) -> bool:
        """Whether it happens to a connection. Drawn once for each."""
        del rng
        return True

    def stage(self, direction: Direction, talk: Talk, rng: Random, /) -> Stage | None:
        """Its work on one direction of a connection; None where it has nothing to do there."""
        del direction, talk, rng
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFault(Fault):
    """A fault of connections, or of a share of them.

    Args:
        probability: share of the connections that it befalls, in (0, 1].
    """

    probability: float = 1.0

    def __post_init__(self) -> None:
        Fault.__post_init__(self)  # super() does not survive slots: dataclass makes the class anew
        share(f"{type(self).__name__}.probability", self.probability)

    def befalls(self, rng: Random, /) -> bool:
        """See `Fault.befalls`."""
        return rng.random() < self.probability


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectedFault(ConnectionFault, ABC):
    """A fault of the bytes that go one way.

    Args:
        probability: see `ConnectionFault`.
        direction: "down" for what the server sends, "up" for what the client sends.
    """

    direction: Direction = "down"

    def __post_init__(self) -> None:
        ConnectionFault.__post_init__(self)
        choice(f"{type(self).__name__}.direction", self.direction, DIRECTIONS)

    def stage(self, direction: Direction, talk: Talk, rng: Random, /) -> Stage | None:
        """See `Fault.stage`."""
        del talk
        return self._work(rng) if direction == self.direction else None

    @abstractmethod
    def _work(self, rng: Random, /) -> Stage:
        """Its work on one connection."""
