"""The order of a shield's parts, the same for ASGI and WSGI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from holdfast.servers.deadline import Deadline
from holdfast.servers.queue_age import QueueAge
from holdfast.servers.requires import Requires

if TYPE_CHECKING:
    from holdfast.policy import Policy
    from holdfast.servers.interfaces import Part
    from holdfast.validation import Seconds


def behind(
    deadline: Seconds | Mapping[str, Seconds] | None,
    max_deadline: Seconds | None,
    requires: Mapping[str, Policy | Iterable[Policy]] | None,
    admission: Part | None,
    idempotency: Part | None,
    readiness: Part | None,
) -> list[Part]:
    """The parts in the order in which they go around the app, innermost first."""
    for field, part in (("admission", admission), ("idempotency", idempotency), ("readiness", readiness)):
        if part is not None and not (hasattr(part, "asgi") and hasattr(part, "wsgi")):
            raise TypeError(f"Shield.{field} must be a part of holdfast.servers or None, got {part!r}")
    limits: list[Part] = []
    if deadline is not None:
        limits = [Deadline(deadline, max_deadline=max_deadline), QueueAge(deadline, max_deadline=max_deadline)]
    elif max_deadline is not None:
        limits = [Deadline({}, max_deadline=max_deadline), QueueAge({}, max_deadline=max_deadline)]
    parts = [idempotency, admission, None if requires is None else Requires(requires), *limits, readiness]
    return [part for part in parts if part is not None]
