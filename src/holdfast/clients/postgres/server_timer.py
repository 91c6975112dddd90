"""`statement_timeout`, kept near what is left of the deadline: the server stops by itself, also when nobody can tell it any more.

1. It is set to a little less than what is left, so the server's answer comes before the client gives up, and the connection stays usable.
2. Setting it is a round trip. A value that is less than a quarter too long is left as it is: the client stops at its deadline in any
   case, and then asks the server to cancel.
3. Outside of a transaction it is set for the session, inside for the transaction (SET LOCAL), since a rollback takes back either.
4. Without a deadline it is put back to what the session began with.
"""

from __future__ import annotations

import math

# Of what is left, at most: the time of the server's answer.
_MARGIN = 0.02
_MARGIN_SHARE = 0.1
# How much too long a value may be.
_SLACK = 1.25
_SLACK_SECONDS = 0.01


class ServerTimer:
    """What a connection's `statement_timeout` is, and what it should be.

    Args:
        most: the user's own statement timeout in seconds, math.inf for none.
    """

    __slots__ = ("_local", "_session", "most")

    def __init__(self, most: float = math.inf) -> None:
        self.most = most
        self._session = math.inf  # as far as we set it; math.inf is the session's own
        self._local: float | None = None  # in this transaction

    @property
    def current(self) -> float:
        """Seconds that the server gives a statement now; math.inf where it is not ours."""
        return self._session if self._local is None else self._local

    def ended(self) -> None:
        """The transaction has ended, and what was set in it with it."""
        self._local = None

    def unsure(self) -> None:
        """A savepoint was rolled back: what was set since is gone, and what that leaves is not known."""
        if self._local is not None:
            self._local = -1.0

    def wanted(self, left: float) -> float | None:
        """Seconds to set for a statement with this much left of its deadline (math.inf for none); None where it is well as it is."""
        current = self.current
        if left == math.inf:
            return None if current == math.inf else math.inf
        target = min(left - margin(left), self.most)
        well = target - margin(left) <= current <= target * _SLACK + _SLACK_SECONDS
        return None if well else target

    def command(self, seconds: float, in_transaction: bool) -> str:
        """The SQL that sets it."""
        scope = "LOCAL " if in_transaction else ""
        return f"SET {scope}statement_timeout = {'DEFAULT' if seconds == math.inf else max(1, math.floor(seconds * 1000))}"

    def done(self, seconds: float, in_transaction: bool) -> None:
        """It was set."""
        if in_transaction:
            self._local = seconds
        else:
            self._session = seconds


def margin(left: float) -> float:
    """Seconds before the deadline at which the server is to stop."""
    return min(_MARGIN, left * _MARGIN_SHARE)
