"""One broker for all tests of AMQP."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from holdfast.replay.parts.rabbitmq import RabbitServer, rabbitmq_server


@pytest.fixture(scope="session")
def broker_of_session() -> Iterator[RabbitServer]:
    with rabbitmq_server(settings={"max_message_size": "4000000"}) as server:
        yield server


@pytest.fixture
def broker(broker_of_session: RabbitServer) -> Iterator[RabbitServer]:
    """It runs, whatever the test before has done to it."""
    if not broker_of_session.process.running:
        broker_of_session.restart()
    yield broker_of_session
    if broker_of_session.process.running:
        broker_of_session.resume()


@pytest.fixture(autouse=True)
def _quiet_libraries() -> None:
    # pika writes every lost connection at length, and losing them is the subject here.
    for name in ("pika", "aiormq", "aio_pika"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
