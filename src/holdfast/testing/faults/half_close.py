"""Half-close: one direction ends, the other goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.testing.faults.fault import Decision, End
from holdfast.testing.faults.point import PointFault


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfClose(PointFault):
    """One direction gets a FIN and the rest of it is lost; the other direction goes on.

    Args:
        after, where: the point, see `PointFault`.
        direction: the one that ends: "down", the client reads the end of the stream; "up", the server does.
        probability: see `DirectedFault`.
    """

    _THERE: ClassVar[Decision] = Decision(size=0, end=End.HALF)
