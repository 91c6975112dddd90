"""The timeouts of an aiohttp session: where the caller gives none, there are some all the same."""

from __future__ import annotations

from typing import Any

import aiohttp
from aiohttp.helpers import sentinel

from holdfast.clients.exchange import CONNECT_TIMEOUT, READ_TIMEOUT
from holdfast.plan import Plan

# aiohttp's own default.
TOTAL_TIMEOUT = 300.0


class Times:
    """The timeouts of a session.

    Args:
        shown: what aiohttp made of the caller's.
        given: the caller's; None where there is none.
    """

    __slots__ = ("_sent", "_short", "_total", "_unsaid", "shown")

    def __init__(self, shown: aiohttp.ClientTimeout, given: aiohttp.ClientTimeout | None) -> None:
        self._unsaid = given is None
        if given is None:
            given = aiohttp.ClientTimeout(TOTAL_TIMEOUT, CONNECT_TIMEOUT, READ_TIMEOUT, CONNECT_TIMEOUT, shown.ceil_threshold)
        self.shown = _filled(given, CONNECT_TIMEOUT, READ_TIMEOUT)
        self._total = self.shown.total
        self._sent = _without_total(self.shown)
        # A timer for each read is no use where the deadline rings before it, and not for nothing.
        self._short = aiohttp.ClientTimeout(None, self._sent.connect, None, self._sent.sock_connect, shown.ceil_threshold)

    def of(self, given: Any, plan: Plan) -> tuple[float | None, aiohttp.ClientTimeout]:
        """The total of a request, and the rest of its timeouts."""
        if given is sentinel:
            if self._unsaid and plan.deadline is not None:
                return None, self._short if plan.deadline <= READ_TIMEOUT else self._sent
            return self._total, self._sent
        if not isinstance(given, aiohttp.ClientTimeout):
            given = aiohttp.ClientTimeout(total=given)
        own = self._sent
        return given.total, _without_total(_filled(given, own.connect, own.sock_read, own.sock_connect))


def _filled(given: aiohttp.ClientTimeout, connect: float | None, read: float | None, dial: float | None = None) -> aiohttp.ClientTimeout:
    if given.connect is not None:
        connect = given.connect
    elif given.sock_connect:
        connect = CONNECT_TIMEOUT + given.sock_connect  # it is a part of the way to a connection; the rest gets what it always gets
    return aiohttp.ClientTimeout(
        given.total,
        connect,
        read if given.sock_read is None else given.sock_read,
        dial if given.sock_connect is None else given.sock_connect,
        given.ceil_threshold,
    )


def _without_total(times: aiohttp.ClientTimeout) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(None, times.connect, times.sock_read, times.sock_connect, times.ceil_threshold)
