"""An order processor: for each order it sends a receipt through RabbitMQ, under a mutex in Redis. It runs for weeks on one connection."""

import os
import time

import holdfast
from holdfast import Backoff, Policy, Retry
from holdfast.clients import redis
from holdfast.clients.amqp import Publisher
from holdfast.replay.apps import desk

LOCK_TTL = float(os.environ["LOCK_TTL"])

store = redis.from_url(os.environ["REDIS_URL"], dead_after=2.0)
broker = Policy("broker", deadline=5.0, attempt_timeout=1.0, retry=Retry(attempts=20, backoff=Backoff(base=0.05, cap=0.5)))
publisher = Publisher(os.environ["AMQP_URL"], policy=broker, dead_after=2.0)


def process(order):
    with holdfast.lock(f"order:{order}", ttl=LOCK_TTL, store=os.environ["REDIS_URL"], wait=1.0):
        began = time.monotonic()
        try:
            publisher.publish(order.encode(), "receipts", message_id=f"receipt-{order}")
        finally:
            desk.tell("worked", order, ran=time.monotonic() - began, allowed=LOCK_TTL)


for order in desk.orders(pulse=lambda: store.set("processor:alive", "1", ex=10)):
    try:
        process(order)
    except Exception as error:
        desk.put_back(order, error)
