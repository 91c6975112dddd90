"""Messages through a storm: the broker stopped, killed and cut off, producers and consumers killed. Each effect once, none lost.

Small here; `HOLDFAST_STORM=10000:20` is the full size (messages:faults), about three minutes for each kind.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.process import Process
from holdfast.replay.parts.rabbitmq import RabbitServer
from holdfast.testing.faults import Cut, FaultProxy, Reset, Silence

_HERE = Path(__file__).parent
_MESSAGES, _FAULTS = (int(part) for part in os.environ.get("HOLDFAST_STORM", "60:3").split(":"))
_BETWEEN = 1.0  # seconds from the end of a fault to the next


class Storm:
    """What goes wrong, one fault after the other."""

    def __init__(self, broker: RabbitServer, proxy: FaultProxy, producer: Process, consumers: list[Process], rng: random.Random) -> None:
        self.broker, self.proxy, self.producer, self.consumers, self.rng = broker, proxy, producer, consumers, rng
        self.seen: list[str] = []

    def faults(self) -> list[Callable[[], None]]:
        kinds = [self.stop_broker, self.silence, self.kill_producer, self.kill_consumer, self.cut, self.reset, self.kill_broker]
        chosen = [kinds[n % len(kinds)] for n in range(_FAULTS)]
        self.rng.shuffle(chosen)
        return chosen

    def stop_broker(self) -> None:
        self.broker.suspend()
        time.sleep(self.rng.uniform(0.5, 4.0))
        self.broker.resume()

    def kill_broker(self) -> None:
        self.broker.kill()
        self.broker.restart()

    def silence(self) -> None:
        self.proxy.set(Silence())
        time.sleep(self.rng.uniform(0.5, 4.0))
        self.proxy.clear()

    def cut(self) -> None:
        self._briefly(Cut())

    def reset(self) -> None:
        self._briefly(Reset())

    def _briefly(self, fault: Cut | Reset) -> None:
        self.proxy.set(fault)
        time.sleep(0.3)
        self.proxy.clear()

    def kill_producer(self) -> None:
        self.producer.kill()
        self.producer.start()

    def kill_consumer(self) -> None:
        one = self.rng.choice(self.consumers)
        one.kill()
        one.start()


@pytest.mark.realtime
@pytest.mark.timeout(500)
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_message_has_its_effect_once_whatever_is_killed_stopped_or_cut_off(broker: RabbitServer, tmp_path: Path, kind: str) -> None:
    rng = random.Random(f"storm {kind}")
    with postgres_server() as database, FaultProxy(to=(broker.host, broker.port)) as proxy:
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE effects (message text NOT NULL)")
            url = broker.url_at("127.0.0.1", proxy.port)
            sqlalchemy_url = database.url.replace("postgresql://", "postgresql+psycopg://")
            pause = _FAULTS * (2.5 + _BETWEEN) / _MESSAGES
            progress = tmp_path / "progress"
            produce = [sys.executable, str(_HERE / "storm_producer.py"), url, kind, str(_MESSAGES), str(pause), str(progress)]
            consume = [sys.executable, str(_HERE / "storm_consumer.py"), url, kind, sqlalchemy_url]
            _declare(broker)
            producer = Process(produce, name="producer", folder=tmp_path)
            consumers = [Process(consume, name=f"consumer-{n}", folder=tmp_path) for n in range(2)]
            try:
                for process in (*consumers, producer):
                    process.start()
                storm = Storm(broker, proxy, producer, consumers, rng)
                for fault in storm.faults():
                    time.sleep(_BETWEEN)
                    fault()
                _wait(lambda: progress.exists() and progress.read_text() == str(_MESSAGES), 200, producer)
                _wait(lambda: _count(connection)[1] == _MESSAGES, 60, consumers[0])
                time.sleep(1.0)  # what is still there twice would show
                assert _count(connection) == (_MESSAGES, _MESSAGES)
            finally:
                for process in (producer, *consumers):
                    process.stop()
        left = dict(line.split("\t") for line in broker.control("list_queues", "name", "messages", "--no-table-headers").splitlines())
        assert int(left.get("storm.dead", 0)) == 0


def _declare(broker: RabbitServer) -> None:
    from holdfast.clients.amqp.pika import connect

    connection = connect(broker.url)
    connection.channel().queue_declare("storm", durable=True)
    connection.close()


def _count(connection: psycopg.Connection[tuple[int, int]]) -> tuple[int, int]:
    found = connection.execute("SELECT count(*), count(DISTINCT message) FROM effects").fetchone()
    assert found is not None
    return found


def _wait(done: Callable[[], bool], seconds: float, process: Process) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, process.tail()
        time.sleep(0.1)
