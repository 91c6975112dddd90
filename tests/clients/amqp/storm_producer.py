"""A program of the storm: publishes messages 0, 1, 2 ... and notes how far it got, so that it may be killed at any moment and begin again.

python storm_producer.py URL KIND COUNT PAUSE PROGRESS
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

from holdfast import Backoff, Policy, Retry
from holdfast.clients.amqp import AsyncPublisher, Publisher

logging.disable(logging.CRITICAL)
url, kind, count, pause, progress = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5])
policy = Policy("broker", deadline=5.0, attempt_timeout=2.0, retry=Retry(attempts=20, backoff=Backoff(base=0.05, cap=0.5)))


def first() -> int:
    return int(progress.read_text() or 0) if progress.exists() else 0


def note(number: int) -> None:
    half = progress.with_suffix(".half")
    half.write_text(str(number + 1))
    half.rename(progress)


def blocking() -> None:
    with Publisher(url, policy=policy, dead_after=2.0) as publisher:
        for number in range(first(), count):
            while True:
                try:
                    publisher.publish(b"%d" % number, "storm", message_id=f"m-{number}")
                    break
                except Exception as error:
                    sys.stdout.write(f"{type(error).__name__}\n")
            note(number)
            time.sleep(pause)


async def asynchronous() -> None:
    async with AsyncPublisher(url, policy=policy, dead_after=2.0) as publisher:
        for number in range(first(), count):
            while True:
                try:
                    await publisher.publish(b"%d" % number, "storm", message_id=f"m-{number}")
                    break
                except Exception as error:
                    sys.stdout.write(f"{type(error).__name__}\n")
            note(number)
            await asyncio.sleep(pause)


if kind == "sync":
    blocking()
else:
    asyncio.run(asynchronous())
