"""A publisher for blocking code: one connection for many messages, from any thread.

    publisher = Publisher("amqps://broker.internal/", policy=broker)
    publisher.publish(b"...", "receipts", message_id="receipt-4711")

1. Every message is persistent, and `publish` returns when the broker has confirmed it: it is on disk, in all queues it belongs to.
2. The connection is made when it is needed, and kept. One that broke or fell silent is given up, and the message is published again on a
   new one in the next attempt of the policy, under the same id: consumers that know ids do the work once.
3. Mandatory (the default) and without a queue is `Unroutable`; refused is `Nacked`; a broker that takes nothing is waited for a second in
   all, then messages are refused as `Blocked` until it goes on.
4. A child of a fork makes a connection of its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING

import pika.exceptions

from holdfast import errors
from holdfast.clients.amqp.errors import Disconnected
from holdfast.clients.amqp.link import Link
from holdfast.clients.amqp.message import Message, Properties, make
from holdfast.clients.amqp.pika import Connection, parameters_of
from holdfast.clients.amqp.settings import Settings
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.policy import Policy
from holdfast.validation import Seconds

if TYPE_CHECKING:
    from typing import Self, Unpack

    from pika.connection import Parameters


class Publisher:
    """Publishes messages; any thread may use it.

    Args:
        url: `amqp://` or `amqps://`, or pika's parameters.
        policy: deadline, retries, breaker and the rest of a message, connecting included; None for 10 s with retries.
        dead_after: seconds after which a broker that has gone silent is noticed, >= 1.
        confirm_timeout: seconds that one attempt waits for its confirm, where neither the policy nor a block ends it sooner.
        blocked_after: seconds that a broker which takes no messages is waited for, >= 0.

    Raises:
        ValueError, TypeError: an argument is out of its range.
    """

    def __init__(
        self,
        url: str | Parameters,
        *,
        policy: Policy | None = None,
        dead_after: Seconds = 5.0,
        confirm_timeout: Seconds = 10.0,
        blocked_after: Seconds = 1.0,
    ) -> None:
        self._parameters = parameters_of(url)
        self._settings = Settings(policy, dead_after, confirm_timeout, blocked_after)
        self.policy = self._settings.policy
        self._link: Link | None = None
        self._opening = threading.Lock()
        self._closed = False
        _publishers.add(self)

    def publish(
        self,
        body: bytes,
        routing_key: str,
        exchange: str = "",
        message_id: str | None = None,
        *,
        mandatory: bool = True,
        **properties: Unpack[Properties],
    ) -> str:
        """Publish a message and wait until the broker has it.

        Args:
            body: the message.
            routing_key: on the default exchange the queue's name.
            exchange: where it goes; "" is the default exchange.
            message_id: what consumers know it by; None for a random one.
            mandatory: whether having no queue for it is an error.
            properties: headers, content_type, content_encoding, correlation_id, reply_to, kind, priority, expires; see `Properties`.

        Returns:
            The message's id.

        Raises:
            Unroutable, Nacked, Blocked: what the broker said of it.
            Disconnected: no attempt got through. The message may have arrived; publish it again under the same id.
            DeadlineExceeded, Rejected: the policy's.
            ValueError, TypeError: an argument is not what AMQP can carry.
            RuntimeError: the publisher is closed.
        """
        message = make(body, routing_key, exchange, message_id, mandatory=mandatory, **properties)
        self.send(message)
        return message.message_id

    def send(self, message: Message) -> None:
        """Publish a message that is made already. Raises as `publish` does."""
        self._settings.guarding.repeatedly(self._attempt, message)

    def close(self) -> None:
        """Close the connection. Messages that are on their way are `Disconnected`; closing again does nothing."""
        self._closed = True
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        link = getattr(self, "_link", None)
        if link is not None:
            link.give_up("the publisher was forgotten")

    def _attempt(self, message: Message) -> None:
        link = self._link
        if link is None or not link.usable:
            link = self._open()
        link.publish(message, self._settings.confirm_timeout)

    def _open(self) -> Link:
        """The link of all threads; the first that needs one opens it, and the others wait, each until its own deadline."""
        limit = ambient.get()
        if not self._opening.acquire(timeout=-1 if limit is None else min(limit.remaining(clock.now()), threading.TIMEOUT_MAX)):
            raise errors.DeadlineExceeded() if limit is None else limit.exceeded(clock.now())
        try:
            if self._closed:
                raise RuntimeError("the publisher is closed")
            link = self._link
            if link is None or not link.usable:
                link = self._link = self._connect()
            return link
        finally:
            self._opening.release()

    def _connect(self) -> Link:
        try:
            connection = Connection(self._parameters, self._settings.liveness)
        except (pika.exceptions.AMQPError, OSError) as error:
            if isinstance(error, errors.DeadlineExceeded):
                raise
            raise Disconnected(f"no connection to the broker: {str(error) or repr(error)}") from error
        try:
            return Link(connection, self._settings.blocked_after)
        except BaseException:
            connection.discard(Disconnected("there is no channel"))
            raise

    def _in_child(self) -> None:
        # The connection is the parent's: nothing may be written, nor may its loop be told anything, which both would hear.
        self._link = None
        self._opening = threading.Lock()


_publishers: weakref.WeakSet[Publisher] = weakref.WeakSet()


def _after_fork() -> None:
    for publisher in list(_publishers):
        publisher._in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
