"""How the end of an operation on a broker is read: what it says about the broker, and whether doing it again is worth it.

The libraries' errors are known by their names and modules: importing one library to understand the other's would ask for both.
"""

from __future__ import annotations

from holdfast.clients.amqp.errors import Blocked, ChannelLost, Disconnected, Nacked, Unroutable
from holdfast.clients.operation import is_untrusted
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict

# The broker refused us for what we are, or we it; it will be so again.
_FINAL = frozenset(
    {
        "AuthenticationError",
        "ConnectionNotAllowed",
        "IncompatibleProtocolError",
        "ProbableAccessDeniedError",
        "ProbableAuthenticationError",
    }
)
_LOST = "StreamLostError"
_LIBRARIES = ("pika", "aiormq", "aio_pika", "pamqp")


def judge(error: Exception) -> tuple[Verdict, bool]:
    """How `error` counts for the broker, and whether the same thing may work another time."""
    if isinstance(error, Unroutable):
        return SUCCESS, False
    if isinstance(error, Blocked):
        return FAILURE, False
    if isinstance(error, (Nacked, ChannelLost)):
        return FAILURE, True
    if isinstance(error, Disconnected):
        return FAILURE, not _is_final(error.__cause__)
    ours = type(error).__module__.partition(".")[0] in _LIBRARIES
    if _is_final(error):
        return FAILURE, False
    if ours or isinstance(error, OSError):
        return FAILURE, True
    return IGNORED, False  # a mistake of the caller's: it says nothing about the broker


def _is_final(error: BaseException | None) -> bool:
    # pika guesses why a connection was lost before it was open; that it was lost is all that is known.
    if is_untrusted(error):
        return True
    ours = type(error).__module__.partition(".")[0] in _LIBRARIES
    return ours and _LOST not in str(error) and any(kind.__name__ in _FINAL for kind in type(error).__mro__)
