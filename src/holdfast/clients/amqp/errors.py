"""What can become of a message beside an answer.

PublishError
 |- Unroutable      mandatory, and no queue is bound where it was sent; the broker has dropped it
 |- TooLarge        larger than the broker allows
 |- Nacked          the broker refused it: an error of its own, or a queue that is full
 '- Blocked         the broker takes no messages now (connection.blocked): memory or disk; also Rejected where nothing was sent

Disconnected        a ConnectionError: the connection broke or was given up; whether the message arrived is not known
 '- ChannelLost     the broker closed the channel
"""

from __future__ import annotations


class PublishError(Exception):
    """A message was not taken.

    Args:
        message_id: of the message, to publish it again under.
        reason: in words.
    """

    def __init__(self, message_id: str, reason: str) -> None:
        self.message_id = message_id
        self.reason = reason
        super().__init__(message_id, reason)

    def __str__(self) -> str:
        return f"message {self.message_id}: {self.reason}"


class Unroutable(PublishError):
    """There is no queue that the message would go to."""


class TooLarge(PublishError):
    """The message is larger than the broker allows."""


class Nacked(PublishError):
    """The broker has not taken the message."""


class Blocked(PublishError):
    """The broker takes no messages for now; back-pressure, and no sign of a broken connection.

    Args:
        message_id: of the message.
        reason: the broker's, in words.
        sent: whether the message has been written all the same. The broker may take it when it goes on, so it is to be published
            again under the same id.
    """

    def __init__(self, message_id: str, reason: str, sent: bool) -> None:
        super().__init__(message_id, reason)
        self.sent = sent
        self.args = (message_id, reason, sent)


class Disconnected(ConnectionError):
    """The connection broke, or was given up because the broker said nothing."""


class ChannelLost(Disconnected):
    """The broker closed the channel, and the connection lives."""
