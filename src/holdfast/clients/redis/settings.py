"""How clients of this package are made: from a URL and redis-py's own options, without the options that would undo what they are for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from holdfast.clients.operation import Guarding
from holdfast.clients.redis.errors import judge
from holdfast.policy import Policy
from holdfast.validation import Seconds, positive_seconds

# redis-py would retry beside the policy, and beyond the deadline.
_OURS = ("retry", "retry_on_timeout", "retry_on_error", "connection_class", "connection_pool")


class Settings:
    """What a client does beside redis-py's own.

    Args:
        policy: what guards every command; None for deadlines only.
        dead_after: seconds after which a vanished server is noticed.
        repeatable: names of commands that the user calls repeatable.
        in_doubt: is called when a server did not answer, or said that it cannot serve: where it is may not be where to ask any more.

    Raises:
        ValueError, TypeError: one of them is out of its range, or not of its kind.
    """

    __slots__ = ("dead_after", "guarding", "in_doubt", "repeatable")

    def __init__(
        self, policy: Policy | None, dead_after: Seconds, repeatable: Collection[str], in_doubt: Callable[[], object] = lambda: None
    ) -> None:
        if isinstance(repeatable, str) or not all(isinstance(name, str) for name in repeatable):
            raise TypeError(f"repeatable must be names of commands, like ('INCR',), got {repeatable!r}")
        self.guarding = Guarding(policy, "redis", judge)
        self.dead_after = positive_seconds("dead_after", dead_after)
        self.repeatable = frozenset(name.upper() for name in repeatable)
        self.in_doubt = in_doubt


DEFAULTS = Settings(None, 5.0, ())


def pool_options(parsed: Mapping[str, Any], options: Mapping[str, Any], dead_after: float, no_retry: object) -> dict[str, Any]:
    """The arguments of a connection pool.

    Args:
        parsed: what the URL says, as redis-py reads it.
        options: of redis-py, from the user.
        dead_after: seconds; the timeout of each operation of a socket, unless the user gave one.
        no_retry: redis-py's way to say that it does not retry.

    Raises:
        ValueError: an option that is this package's business.
    """
    for name in _OURS:
        if name in options or (name != "connection_class" and name in parsed):
            raise ValueError(f"{name} is not to be given: connections are ours, and retries are the policy's (Policy(retry=...))")
    given = {name: value for name, value in parsed.items() if name != "connection_class"}
    return {"socket_timeout": dead_after, "socket_connect_timeout": dead_after, **given, **options, "retry": no_retry}


# Of another client's pool: what belongs to that pool.
_OF_A_POOL = (
    *_OURS,
    "cache",
    "cache_config",
    "event_dispatcher",
    "himport_registry",
    "maint_notifications_config",
    "maint_notifications_pool_handler",
)


def alike_options(client: Any, dead_after: float, no_retry: object) -> dict[str, Any]:
    """The arguments of a connection pool to the same server as another client's."""
    theirs = {name: value for name, value in client.connection_pool.connection_kwargs.items() if name not in _OF_A_POOL}
    return {**theirs, "socket_timeout": dead_after, "socket_connect_timeout": dead_after, "decode_responses": False, "retry": no_retry}
