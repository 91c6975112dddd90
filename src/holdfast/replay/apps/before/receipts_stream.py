"""The order processor of `receipts`, where there is no RabbitMQ: its receipts go through a Redis stream, on a server of its own."""

import os
import secrets
import time

import redis

from holdfast.replay.apps import desk

LOCK_TTL = float(os.environ["LOCK_TTL"])

store = redis.Redis.from_url(os.environ["REDIS_URL"])
release = store.register_script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end")
stream = redis.Redis.from_url(os.environ["STREAM_URL"], socket_timeout=None)  # its default before redis-py 8


def publish(order):
    while True:
        try:
            return stream.xadd("receipts", {"order": order, "id": f"receipt-{order}"})
        except (redis.RedisError, OSError) as error:
            desk.tell("reconnect", order, error=type(error).__name__)
            time.sleep(0.1)


def process(order):
    token = secrets.token_hex(8)
    while not store.set(f"order:{order}", token, nx=True, px=int(LOCK_TTL * 1000)):
        time.sleep(0.05)
    began = time.monotonic()
    publish(order)
    ran = time.monotonic() - began
    desk.tell("worked", order, ran=ran, allowed=LOCK_TTL)
    release(keys=[f"order:{order}"], args=[token])


for order in desk.orders(pulse=lambda: store.set("processor:alive", "1", ex=10)):
    try:
        process(order)
    except Exception as error:
        desk.put_back(order, error)
