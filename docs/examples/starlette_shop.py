"""A shop on Starlette behind the shield.

uvicorn starlette_shop:app --workers 4
gunicorn -c python:holdfast.servers.gunicorn -k uvicorn_worker.UvicornWorker -w 4 starlette_shop:app
"""

import asyncio
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import holdfast
from holdfast import Breaker, Policy
from holdfast.servers import Admission, Idempotency, MemoryStore, Readiness, Workers
from holdfast.servers.asgi import Shield

billing = Policy("billing", deadline=0.5, breaker=Breaker(min_calls=20))


async def hello(request: Request) -> JSONResponse:
    return JSONResponse({"hello": "world"})


async def slow(request: Request) -> JSONResponse:
    await asyncio.sleep(30)  # cancelled at the deadline
    return JSONResponse({"never": "sent"})


def thread(request: Request) -> JSONResponse:
    while True:  # a plain function runs in a thread, which cannot be cancelled: it asks
        holdfast.check()
        time.sleep(0.01)


async def order(request: Request) -> JSONResponse:
    item = await request.json()
    return JSONResponse({"ordered": item["item"], "left": holdfast.remaining()})


shop = Starlette(
    routes=[Route("/", hello), Route("/slow", slow), Route("/thread", thread), Route("/orders", order, methods=["POST"])],
)
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
