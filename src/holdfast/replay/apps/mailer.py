"""Sends the receipts of incident 2: a line of JSON for each that a customer would get."""

from __future__ import annotations

import os

from holdfast.clients.amqp import Consumer, Delivered
from holdfast.replay.apps.desk import tell
from holdfast.servers.idempotency.inbox import Inbox
from holdfast.servers.idempotency.memory import MemoryStore


def send(message: Delivered) -> None:
    """Send one."""
    tell("receipt", message.body.decode())


if __name__ == "__main__":
    Consumer(os.environ["AMQP_URL"], "receipts", send, inbox=Inbox(MemoryStore(), name="mailer"), dead_after=2.0).run()
