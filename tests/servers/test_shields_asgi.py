"""What an ASGI application may do by its specification does not change behind a shield."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.servers.asgi import Shield


async def ask(app: Any, scope: dict[str, Any]) -> list[str]:
    """The kinds of the messages that the server gets."""
    sent: list[str] = []
    messages: asyncio.Queue[Any] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await app({"type": "http", "method": "GET", "path": "/", "headers": [], **scope}, messages.get, send)
    return sent


@pytest.mark.realtime
@pytest.mark.parametrize("last", ["http.response.body", "http.response.pathsend", "http.response.zerocopysend"])
def test_what_comes_after_the_whole_response_is_bound_no_more_however_it_was_sent(last: str) -> None:
    done: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": last, "path": "/a/file"})
        await asyncio.sleep(0.5)
        done.append("background")

    assert asyncio.run(ask(Shield(app, deadline=0.3), {})) == ["http.response.start", last]
    assert done == ["background"]
