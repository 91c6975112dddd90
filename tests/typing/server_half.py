"""The server's half from a user's side: what type checkers must see."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import psycopg
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from holdfast.servers import Idempotency, MemoryStore, Readiness, RedisStore, SQLStore, Transactions, once
from holdfast.servers.idempotency import Inbox, connection
from holdfast.servers.interfaces import ASGIApp, WSGIApp
from holdfast.servers.request import Request


@once
def catalogue() -> dict[str, int]:
    return {"tea": 3}


@once(ttl="1h")
def rates() -> list[float]:
    return [0.19]


@once
async def customers() -> list[str]:
    return ["a"]


def read(path: Path) -> bytes:
    return path.read_bytes()


@once(file="catalogue.bin", load=read)
def blob(path: Path) -> None:
    path.write_bytes(b"x")


def who(request: Request) -> str | None:
    return request.headers.get("authorization")


def behind(wsgi: WSGIApp, asgi: ASGIApp) -> None:
    part = Idempotency(MemoryStore(), required=True, ttl="1h", caller=who, methods=("POST",))
    assert_type(part.wsgi(wsgi), WSGIApp)
    assert_type(part.asgi(asgi), ASGIApp)
    Idempotency(RedisStore("redis://localhost", interrupted="refuse"))
    Idempotency(SQLStore(sqlalchemy.create_engine("sqlite://")))
    Idempotency(SQLStore(create_async_engine("postgresql+asyncpg://localhost/shop")))
    Idempotency(SQLStore("postgresql://localhost/shop"))
    Transactions(lambda: psycopg.connect("")).wsgi(wsgi)
    Readiness(warm_up=[catalogue.forget, lambda: None], checks={"shop": lambda: True}, drain=5).asgi(asgi)


def values() -> None:
    assert_type(catalogue(), dict[str, int])
    assert_type(rates(), list[float])
    assert_type(blob(), bytes)
    catalogue.forget()


async def awaited() -> None:
    assert_type(await customers(), list[str])
    assert_type(connection(AsyncConnection), AsyncConnection)
    async with Inbox(SQLStore("postgresql://localhost/shop")).once("m") as delivery:
        assert_type(delivery.first, bool)
        assert_type(delivery.connection(sqlalchemy.Connection), sqlalchemy.Connection)
