"""A shop on FastAPI behind the shield.

uvicorn fastapi_shop:app --workers 4
gunicorn -c python:holdfast.servers.gunicorn -k uvicorn_worker.UvicornWorker -w 4 fastapi_shop:app
"""

import asyncio
import time

from fastapi import FastAPI, Request

import holdfast
from holdfast import Breaker, Policy
from holdfast.servers import Admission, Idempotency, MemoryStore, Readiness, Workers
from holdfast.servers.asgi import Shield

billing = Policy("billing", deadline=0.5, breaker=Breaker(min_calls=20))
shop = FastAPI()


@shop.get("/")
async def hello() -> dict[str, str]:
    return {"hello": "world"}


@shop.get("/slow")
async def slow() -> dict[str, str]:
    await asyncio.sleep(30)  # cancelled at the deadline
    return {"never": "sent"}


@shop.get("/thread")
def thread() -> dict[str, str]:
    while True:  # a plain function runs in a thread, which cannot be cancelled: it asks
        holdfast.check()
        time.sleep(0.01)


@shop.post("/orders")
async def order(request: Request) -> dict[str, object]:
    item = await request.json()
    return {"ordered": item["item"], "left": holdfast.remaining()}


app = Workers("shop").asgi(
    Shield(
        shop,
        deadline={"/": 1.0, "/reports": 20.0},
        requires={"/orders": [billing]},
        admission=Admission(limit=50, priority={"/": "normal", "/orders": "critical"}),
        idempotency=Idempotency(MemoryStore()),  # of one process; for several workers RedisStore or SQLStore
        readiness=Readiness(drain=0.5),
    )
)
