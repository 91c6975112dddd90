"""A program of the storm: writes a row for each message, in the transaction that remembers the message.

python storm_consumer.py URL KIND DATABASE
"""

from __future__ import annotations

import asyncio
import logging
import sys

import sqlalchemy

from holdfast import Backoff
from holdfast.clients.amqp import AsyncConsumer, Consumer, Delivered
from holdfast.servers.idempotency.inbox import Inbox
from holdfast.servers.idempotency.sql import SQLStore

logging.disable(logging.CRITICAL)
url, kind, database = sys.argv[1:4]
engine = sqlalchemy.create_engine(database, pool_size=20)
inbox = Inbox(SQLStore(engine), name="storm")
row = sqlalchemy.text("INSERT INTO effects (message) VALUES (:message)")


def write(message: Delivered) -> None:
    message.connection(sqlalchemy.Connection).execute(row, {"message": message.body.decode()})


async def awrite(message: Delivered) -> None:
    await asyncio.to_thread(write, message)


options = {"inbox": inbox, "backoff": Backoff(base=0.05, cap=0.5), "dead_after": 2.0, "drain": 2.0, "losses": 1000}
if kind == "sync":
    Consumer(url, "storm", write, **options).run()
else:
    asyncio.run(AsyncConsumer(url, "storm", awrite, **options).run())
