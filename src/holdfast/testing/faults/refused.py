"""Refused: nobody is there."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.testing.faults.fault import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Fault):
    """Connects are refused (`ConnectionRefusedError`): the proxy closes its listening socket, and opens it on the same port when cleared.

    Connections that exist go on; `proxy.set(Refused(), Reset())` ends them too.
    """
