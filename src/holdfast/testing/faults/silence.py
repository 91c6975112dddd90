"""Silence: the connection is open, and nothing comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.testing.faults.fault import HOLD, Decision
from holdfast.testing.faults.point import PointFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence(PointFault):
    """The connection stays open and nothing flows any more, in one direction. When the fault is cleared, what was held flows on.

    It lasts until the client closes its side: the proxy closes then, so that given up connections do not pile up in it.

    Args:
        after, where: the point, see `PointFault`.
        direction, probability: see `DirectedFault`.
    """

    _THERE: ClassVar[Decision] = HOLD
