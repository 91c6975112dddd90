"""The order processor of `receipts`, where there is no RabbitMQ: its receipts go through a Redis stream, on a server of its own."""

import os
import time

import holdfast
from holdfast import Backoff, Policy, Retry
from holdfast.clients import redis
from holdfast.replay.apps import desk

LOCK_TTL = float(os.environ["LOCK_TTL"])

store = redis.from_url(os.environ["REDIS_URL"], dead_after=2.0)
broker = Policy("broker", deadline=5.0, attempt_timeout=1.0, retry=Retry(attempts=20, backoff=Backoff(base=0.05, cap=0.5)))
stream = redis.from_url(os.environ["STREAM_URL"], policy=broker, dead_after=2.0, repeatable={"XADD"})  # the mailer knows ids


def process(order):
    with holdfast.lock(f"order:{order}", ttl=LOCK_TTL, store=os.environ["REDIS_URL"], wait=1.0):
        began = time.monotonic()
        try:
            stream.xadd("receipts", {"order": order, "id": f"receipt-{order}"})
        finally:
            desk.tell("worked", order, ran=time.monotonic() - began, allowed=LOCK_TTL)


for order in desk.orders(pulse=lambda: store.set("processor:alive", "1", ex=10)):
    try:
        process(order)
    except Exception as error:
        desk.put_back(order, error)
