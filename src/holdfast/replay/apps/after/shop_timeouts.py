"""The shop's first step: timeouts, and no retries yet."""

import os

import aiohttp

from holdfast import Policy
from holdfast.clients.aiohttp import ClientSession
from holdfast.replay.apps.before.shop import authorize, order

__all__ = ["authorize", "connect", "order"]

SCALE = float(os.environ["SCALE"])

provider = Policy("provider", attempt_timeout=1.0 / SCALE)


def connect():
    return ClientSession(policy=provider, connector=aiohttp.TCPConnector(limit=0), headers={"Authorization": "Bearer shop"})
