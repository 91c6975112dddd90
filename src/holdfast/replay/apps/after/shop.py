"""A shop that asks its provider who a customer is, and places orders there."""

import os
import uuid

import aiohttp

from holdfast import Backoff, Budget, Policy, Retry
from holdfast.clients.aiohttp import ClientSession
from holdfast.observe import prometheus

PROVIDER = os.environ["PROVIDER_URL"]
SCALE = float(os.environ["SCALE"])  # the replay's times are this much shorter than the incident's

provider = Policy(
    "provider",
    deadline=3.5 / SCALE,  # three stalls and a usual answer
    attempt_timeout=1.0 / SCALE,  # twice what 99.99 % of its answers take
    retry=Retry(
        attempts=4,
        backoff=Backoff(base=0.05 / SCALE, cap=0.2 / SCALE),
        budget=Budget(ratio=0.07, min_per_second=0.0, window=5.0 / SCALE),
    ),
)
prometheus.install()


def connect():
    return ClientSession(policy=provider, connector=aiohttp.TCPConnector(limit=0), headers={"Authorization": "Bearer shop"})


async def authorize(http, customer):
    async with http.get(f"{PROVIDER}/authorize", params={"customer": customer}) as response:
        response.raise_for_status()
        return await response.json()


async def order(http, cart):
    headers = {"Idempotency-Key": str(uuid.uuid4())}  # one for all attempts: by it the provider knows an order that it has seen
    async with http.post(f"{PROVIDER}/orders", json={"cart": cart}, headers=headers) as response:
        response.raise_for_status()
        return await response.json()
