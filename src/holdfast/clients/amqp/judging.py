"""How the end of an operation on a broker is read: what it says about the broker, and whether doing it again is worth it.

The libraries' errors are known by their names and modules: importing one library to understand the other's would ask for both.
"""

from __future__ import annotations

import re

from holdfast.clients.amqp.errors import Blocked, ChannelLost, Disconnected, Nacked, TooLarge, Unroutable
from holdfast.clients.amqp.message import Message
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
# RabbitMQ's words for a message that is larger than its `max_message_size`.
_SIZE = re.compile(r"message size (\d+) .*larger than")

_LOST = "StreamLostError"
_LIBRARIES = ("pika", "aiormq", "aio_pika", "pamqp")


def judge(error: Exception) -> tuple[Verdict, bool]:
    """How `error` counts for the broker, and whether the same thing may work another time."""
    if isinstance(error, (Unroutable, TooLarge)):
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


def why_closed(message: Message, code: int, text: str) -> Exception:
    """What it means for a message on its way that the broker closed the channel; one message closes it for all.

    Args:
        message: which may be the one.
        code: AMQP's reply code.
        text: the broker's words. They name what was wrong, and so tell whose fault it was.
    """
    told = f"{code} {text}"
    size = _SIZE.search(text)
    if code in {403, 404} and f"'{message.exchange}'" in text:
        return Unroutable(message.message_id, told)
    if size is not None and int(size[1]) == len(message.body):
        return TooLarge(message.message_id, told)
    return ChannelLost(told)


def _is_final(error: BaseException | None) -> bool:
    # pika guesses why a connection was lost before it was open; that it was lost is all that is known.
    if is_untrusted(error):
        return True
    ours = type(error).__module__.partition(".")[0] in _LIBRARIES
    return ours and _LOST not in str(error) and any(kind.__name__ in _FINAL for kind in type(error).__mro__)
