"""Cut: the stream ends in the middle, in an orderly way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from holdfast.testing.faults.fault import Decision, End
from holdfast.testing.faults.point import PointFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut(PointFault):
    """Both sides get a FIN, so the client must notice by itself that its answer is not whole.

    Args:
        after, where: the point, see `PointFault`; `Cut(where="headers")` ends after the status line, `Cut(where="body", after=10)` after
            ten bytes of the body.
        direction, probability: see `DirectedFault`.
    """

    _THERE: ClassVar[Decision] = Decision(size=0, end=End.CUT)
