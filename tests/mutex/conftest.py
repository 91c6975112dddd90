"""Servers of our own for a module's tests."""

import os

import pytest

from holdfast.replay.parts.postgres import postgres_server
from holdfast.replay.parts.process import Unavailable
from holdfast.replay.parts.redis import redis_server


def _served(server):
    try:
        running = server()
        made = running.__enter__()
    except Unavailable as missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(missing))
    try:
        yield made
    finally:
        running.__exit__(None, None, None)


@pytest.fixture(scope="module")
def redis():
    yield from _served(redis_server)


@pytest.fixture(scope="module")
def postgres():
    yield from _served(postgres_server)
