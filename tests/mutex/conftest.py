"""Servers of our own for a module's tests."""

import pytest

from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.redis import redis_server


@pytest.fixture(scope="module")
def redis():
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def postgres():
    with postgres_server() as running:
        yield running
