"""The parts of a shield and their order, the same for ASGI and WSGI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import signature
from typing import TYPE_CHECKING, cast

from holdfast.servers.deadline import Deadline
from holdfast.servers.interfaces import Gatekeeper
from holdfast.servers.queue_age import QueueAge
from holdfast.servers.requires import Requires

if TYPE_CHECKING:
    from holdfast.policy import Policy
    from holdfast.servers.interfaces import Part
    from holdfast.validation import Seconds


def check_app(app: object, takes: str, kind: str, other: str) -> None:
    """Raise where an application is of the other kind, or none: it would answer nobody, and say why to nobody.

    Args:
        app: of the user.
        takes: the names of its arguments.
        kind: ASGI or WSGI.
        other: where the shield of the other kind is.
    """
    try:
        signature(cast("Callable[..., object]", app)).bind(*takes.split(", "))
    except ValueError:  # it is written in C
        pass
    except TypeError:
        raise TypeError(f"Shield.app must be an application of {kind}, which takes ({takes}), got {app!r}; see also {other}") from None


def behind(
    deadline: Seconds | Mapping[str, Seconds] | None,
    max_deadline: Seconds | None,
    requires: Mapping[str, Policy | Iterable[Policy]] | None,
    admission: Part | None,
    idempotency: Part | None,
    readiness: Part | None,
) -> tuple[list[Gatekeeper], list[Part]]:
    """The gatekeepers, outermost first, and the parts that go around the app behind them, innermost first."""
    for field, part in (("admission", admission), ("idempotency", idempotency), ("readiness", readiness)):
        if part is not None and not (hasattr(part, "asgi") and hasattr(part, "wsgi")):
            raise TypeError(f"Shield.{field} must be a part of holdfast.servers or None, got {part!r}")
    gatekeepers: list[Gatekeeper] = []
    around = [part for part in (idempotency, admission) if part is not None]
    if deadline is not None or max_deadline is not None:
        limit = {} if deadline is None else deadline
        gatekeepers.append(QueueAge(limit, max_deadline=max_deadline))
        around.append(Deadline(limit, max_deadline=max_deadline))
    if requires is not None:
        gatekeepers.append(Requires(requires))
    if isinstance(readiness, Gatekeeper):
        gatekeepers.insert(0, readiness)
    elif readiness is not None:  # a part of the user's own
        around.append(readiness)
    return gatekeepers, around
