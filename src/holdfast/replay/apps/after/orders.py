"""A provider that knows the shop's customers and takes its orders."""

import contextlib
import os

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from holdfast.servers import Idempotency, SQLStore
from holdfast.servers.idempotency import connection

database = AsyncConnectionPool(os.environ["DATABASE_URL"], open=False, max_size=10)


@contextlib.asynccontextmanager
async def lifespan(app):
    async with database:
        yield


async def authorize(request):
    return JSONResponse({"customer": 7})


async def order(request):
    wanted = await request.json()
    # In the transaction in which the answer is kept: there are both, or neither.
    await connection(AsyncConnection).execute("INSERT INTO orders (cart) VALUES (%s)", (wanted["cart"],))
    return JSONResponse({"ordered": wanted["cart"]}, status_code=201)


app = Starlette(routes=[Route("/authorize", authorize), Route("/orders", order, methods=["POST"])], lifespan=lifespan)
app = Idempotency(SQLStore(database)).asgi(app)
