"""A store for blocking code, used by an async application."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from idempotency_apps import Handler, ask_asgi

from holdfast.errors import StoreUnavailable
from holdfast.servers import Idempotency


class FewConnections:
    """A store that waits for one of two connections, like a pool; a claim holds it until it ends."""

    transactional = False

    def __init__(self) -> None:
        self.connections = threading.Semaphore(2)

    def claim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> Any:
        if not self.connections.acquire(timeout=25.0):
            raise StoreUnavailable("no connection")
        return self

    connection = None
    lease = None

    def keep(self, answer: bytes, *, effects: bool = True) -> bool:
        self.connections.release()
        return True

    def free(self) -> None:
        self.connections.release()

    abandon = free


def crowd(handler: Handler) -> list[int]:
    part = Idempotency(FewConnections())

    async def one(number: int) -> int:
        return (await ask_asgi(part.asgi(handler.asgi), "POST", "/", {"Idempotency-Key": f"key-{number}"}, b"order")).status

    async def all_of_them() -> list[int]:
        return await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(64))), 20.0)

    return asyncio.run(all_of_them())


def test_claims_that_wait_for_a_connection_do_not_keep_others_from_giving_theirs_back() -> None:
    assert crowd(Handler()) == [201] * 64


def test_nor_do_they_keep_a_handler_from_its_threads() -> None:
    class InThread(Handler):
        async def asgi(self, scope: Any, receive: Any, send: Any) -> None:
            await asyncio.to_thread(time.sleep, 0.005)
            await super().asgi(scope, receive, send)

    assert crowd(InThread()) == [201] * 64
