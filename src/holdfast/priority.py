"""How important a request is, for servers that must shed some: it travels with the request and with all calls made for it.

Under overload somebody is turned away. Who, should be decided by what the user wanted, and every service on the way should decide the
same: a checkout that passes the gateway as critical is not to be shed by the price service behind it.
"""

from __future__ import annotations

from contextvars import ContextVar

HEADER = "X-Request-Priority"

# Most important first.
LEVELS = ("critical", "normal", "sheddable")
CRITICAL, NORMAL, SHEDDABLE = range(3)

# How many words of a header are looked at, from its end, where proxies add theirs.
_MOST = 8

# The level of the request that is worked on; None for the usual one.
ambient: ContextVar[int | None] = ContextVar("holdfast.priority", default=None)


def parse(text: str) -> int | None:
    """The level that a header names; None where it names none. Of several, as when the header came more than once, the least important:
    nobody becomes more important by saying so once more.
    """
    words = [word.strip(" \t").lower() for word in text.rsplit(",", _MOST)[-_MOST:]]
    return max((LEVELS.index(word) for word in words if word in LEVELS), default=None)
