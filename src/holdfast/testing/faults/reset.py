"""Reset: the other side is gone without a good-bye."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.testing.faults.fault import Decision, End
from holdfast.testing.faults.point import PointFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(PointFault):
    """Both sides get a RST (`ConnectionResetError`). A RST may overtake bytes that were sent just before it, and one
    that comes at once may fail the connect itself.

    Args:
        after, where: the point, see `PointFault`. With 0 bytes from "start", connections die as they are made, and idle ones at once.
        direction, probability: see `DirectedFault`.
    """

    _THERE: ClassVar[Decision] = Decision(size=0, end=End.RESET)
