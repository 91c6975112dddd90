"""A program for `test_vanished`: waits on a connection, idle or for a confirm, and says after how long it was lost.

python waiting.py URL pika|aio-pika idle|flight DEAD_AFTER
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import aio_pika

from holdfast.clients.amqp.aio_pika import connect as aconnect
from holdfast.clients.amqp.pika import connect

logging.disable(logging.CRITICAL)
url, kind, how = sys.argv[1:4]
dead_after = float(sys.argv[4])


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def blocking() -> None:
    connection = connect(url, dead_after=dead_after)
    channel = connection.channel()
    channel.confirm_delivery()
    connection.process_data_events(0.3)
    say("ready")
    sys.stdin.readline()
    began = time.monotonic()
    try:
        if how == "idle":
            connection.process_data_events(60)
        else:
            channel.basic_publish("", "nobody", b"x")
    except Exception:
        say(f"{time.monotonic() - began}")


async def asynchronous() -> None:
    connection = await aconnect(url, dead_after=dead_after)
    channel = await connection.channel()
    closed = asyncio.Event()
    connection.close_callbacks.add(lambda *_: closed.set())
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    try:
        if how == "idle":
            await closed.wait()
        else:
            await channel.default_exchange.publish(aio_pika.Message(b"x"), "nobody")
    except Exception:
        pass
    say(f"{time.monotonic() - began}")


if kind == "pika":
    blocking()
else:
    asyncio.run(asynchronous())
