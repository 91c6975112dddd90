"""TLS stall: a handshake that does not come to its end."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from holdfast.testing.faults.fault import FREE, HOLD, Chunk, ConnectionFault, Decision, Direction, Stage, Talk

# The content type of a TLS record with handshake messages, which a ClientHello comes in (RFC 8446, section 5.1).
_HANDSHAKE = b"\x16"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsStall(ConnectionFault):
    """The TCP connection is made, the ClientHello read, and nothing answers it.

    Connections that do not begin with a ClientHello, or began before the fault was set, are left alone. When it is cleared, the
    handshake goes on.

    Args:
        probability: see `ConnectionFault`.
    """

    def stage(self, _direction: Direction, talk: Talk, _rng: Random, /) -> Stage | None:
        """See `Fault.stage`."""
        return None if talk.opening else _Stalled(talk)


class _Stalled(Stage):
    __slots__ = ("_talk",)

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def decide(self, _head: Chunk | None, /) -> Decision:
        return HOLD if self._talk.opening == _HANDSHAKE else FREE
