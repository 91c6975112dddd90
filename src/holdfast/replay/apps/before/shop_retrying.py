"""The shop with retries as one writes them in an afternoon: on every failure, without a request id, without a budget."""

import asyncio
import os

import aiohttp

PROVIDER = os.environ["PROVIDER_URL"]
SCALE = float(os.environ["SCALE"])
ATTEMPTS, TIMEOUT, PAUSE = 4, 1.0 / SCALE, 0.05 / SCALE


def connect():
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers={"Authorization": "Bearer shop"})


async def again_and_again(request):
    attempt = 1
    while True:
        try:
            async with asyncio.timeout(TIMEOUT), request() as response:
                response.raise_for_status()
                return await response.json()
        except (aiohttp.ClientError, TimeoutError):
            if attempt == ATTEMPTS:
                raise
        attempt += 1
        await asyncio.sleep(PAUSE)


async def authorize(http, customer):
    return await again_and_again(lambda: http.get(f"{PROVIDER}/authorize", params={"customer": customer}))


async def order(http, cart):
    return await again_and_again(lambda: http.post(f"{PROVIDER}/orders", json={"cart": cart}))
