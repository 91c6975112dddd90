"""An order processor: for each order it sends a receipt through RabbitMQ, under a mutex in Redis. It runs for weeks on one connection."""

import os
import secrets
import time

import pika
import redis

from holdfast.replay.apps import desk

LOCK_TTL = float(os.environ["LOCK_TTL"])

store = redis.Redis.from_url(os.environ["REDIS_URL"])
release = store.register_script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end")
parameters = pika.URLParameters(os.environ["AMQP_URL"])
parameters.heartbeat = 0  # as the daemon's library had it
channel = None


def publish(order):
    global channel
    while True:
        try:
            if channel is None:
                channel = pika.BlockingConnection(parameters).channel()
                channel.confirm_delivery()
            properties = pika.BasicProperties(delivery_mode=2, message_id=f"receipt-{order}")
            return channel.basic_publish("", "receipts", order.encode(), properties, mandatory=True)
        except (pika.exceptions.AMQPError, OSError) as error:
            desk.tell("reconnect", order, error=type(error).__name__)
            channel = None
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
