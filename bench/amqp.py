"""Healthy publishing with confirms: holdfast's publishers beside bare pika and aio-pika, interleaved on one broker. The bar is 0.9.

.venv/bin/python bench/amqp.py
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable

import aio_pika
import pika

from holdfast.clients.amqp import AsyncPublisher, Publisher
from holdfast.replay.parts.rabbitmq import rabbitmq_server

ROUNDS, MESSAGES, BODY = 30, 100, b"x" * 200


def bare_pika(url: str) -> Callable[[int], object]:
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.confirm_delivery()

    def publish(number: int) -> None:
        properties = pika.BasicProperties(delivery_mode=2, message_id=f"m-{number}")
        channel.basic_publish("", "bench", BODY, properties, mandatory=True)

    return publish


def ours(url: str) -> Callable[[int], object]:
    publisher = Publisher(url)
    return lambda number: publisher.publish(BODY, "bench", message_id=f"m-{number}")


def timed(publish: Callable[[int], object]) -> float:
    began = time.perf_counter()
    for number in range(MESSAGES):
        publish(number)
    return time.perf_counter() - began


async def atimed(publish: Callable[[int], Awaitable[object]]) -> float:
    began = time.perf_counter()
    for number in range(MESSAGES):
        await publish(number)
    return time.perf_counter() - began


def report(name: str, theirs: list[float], own: list[float]) -> None:
    ratio = statistics.median(bare / guarded for bare, guarded in zip(theirs, own, strict=True))
    per = [statistics.median(times) / MESSAGES * 1e6 for times in (theirs, own)]
    print(f"{name}: {ratio:.2f} x its rate ({per[0]:.0f} us bare, {per[1]:.0f} us with holdfast, median of {len(own)} interleaved rounds)")


def blocking(url: str) -> None:
    theirs, own = bare_pika(url), ours(url)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for publish, found in zip((theirs, own), times, strict=True):
            found.append(timed(publish))
    report("pika", *times)


async def asynchronous(url: str) -> None:
    connection = await aio_pika.connect(url)
    exchange = (await connection.channel()).default_exchange
    publisher = AsyncPublisher(url)

    async def theirs(number: int) -> None:
        await exchange.publish(aio_pika.Message(BODY, delivery_mode=2, message_id=f"m-{number}"), "bench", mandatory=True)

    async def own(number: int) -> None:
        await publisher.publish(BODY, "bench", message_id=f"m-{number}")

    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for publish, found in zip((theirs, own), times, strict=True):
            found.append(await atimed(publish))
    report("aio-pika", *times)
    await publisher.close()
    await connection.close()


def main() -> None:
    logging.disable(logging.CRITICAL)
    with rabbitmq_server() as server:
        pika.BlockingConnection(pika.URLParameters(server.url)).channel().queue_declare(
            "bench", durable=True, arguments={"x-max-length": 1000}
        )
        blocking(server.url)
        asyncio.run(asynchronous(server.url))


if __name__ == "__main__":
    main()
