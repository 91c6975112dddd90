"""The mailer, where there is no RabbitMQ: it reads the receipts from a Redis stream."""

from __future__ import annotations

import os
import time
from typing import Any

import redis

from holdfast import HoldfastError
from holdfast.clients.redis import from_url
from holdfast.replay.apps.desk import tell
from holdfast.servers.idempotency.inbox import Inbox
from holdfast.servers.idempotency.memory import MemoryStore


def main() -> None:
    """Send every receipt once, for as long as the process lives."""
    client: Any = from_url(os.environ["STREAM_URL"], dead_after=2.0, decode_responses=True)
    inbox = Inbox(MemoryStore(), name="mailer")
    last = "0"
    while True:
        try:
            for _, entries in client.xread({"receipts": last}, block=500):
                for last, fields in entries:  # noqa: B007  (where to go on is what is kept)
                    with inbox.once(fields["id"]) as delivery:
                        if delivery.first:
                            tell("receipt", fields["order"])
        except (redis.RedisError, HoldfastError, OSError):
            time.sleep(0.1)


if __name__ == "__main__":
    main()
