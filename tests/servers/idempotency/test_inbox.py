"""Messages that are delivered twice and handled once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from holdfast.errors import DeadlineExceeded
from holdfast.replay.parts.postgres import PostgresServer, postgres_server
from holdfast.servers import MemoryStore, SQLStore
from holdfast.servers.idempotency import Inbox, InProgress, OutcomeUnknown


def handle(inbox: Inbox, message: str, error: BaseException | None = None) -> bool:
    """Whether the message was handled now."""
    with inbox.once(message) as delivery:
        if error is not None:
            raise error
        return delivery.first


async def ahandle(inbox: Inbox, message: str, error: BaseException | None = None) -> bool:
    async with inbox.once(message) as delivery:
        if error is not None:
            raise error
        return delivery.first


@pytest.fixture(params=["blocking", "async"])
def once(request: pytest.FixtureRequest) -> Any:
    if request.param == "blocking":
        return handle
    return lambda *args: asyncio.run(ahandle(*args))


def test_a_message_that_was_handled_is_not_handled_again(once: Any) -> None:
    inbox = Inbox(MemoryStore())
    assert [once(inbox, "a"), once(inbox, "a"), once(inbox, "b")] == [True, False, True]


def test_two_consumers_with_names_of_their_own_handle_it_both(once: Any) -> None:
    store = MemoryStore()
    assert once(Inbox(store, name="mail"), "a")
    assert once(Inbox(store, name="stock"), "a")


def test_a_message_whose_handling_failed_is_handled_when_it_comes_again(once: Any) -> None:
    inbox = Inbox(MemoryStore())
    with pytest.raises(KeyError):
        once(inbox, "a", KeyError("half-way"))
    assert once(inbox, "a")


def test_a_message_that_another_consumer_handles_is_left_to_it() -> None:
    inbox = Inbox(MemoryStore(), name="mail")
    with inbox.once("a"):
        with pytest.raises(InProgress, match="mail: another consumer handles this message"):
            inbox.once("a").__enter__()


def test_a_message_whose_consumer_was_stopped_is_put_aside_where_that_was_asked_for(once: Any) -> None:
    inbox = Inbox(MemoryStore(interrupted="refuse"))
    with pytest.raises(DeadlineExceeded):
        once(inbox, "a", DeadlineExceeded())
    with pytest.raises(OutcomeUnknown):
        once(inbox, "a")


def test_a_message_without_an_id_is_an_error_and_not_a_duplicate() -> None:
    with pytest.raises(ValueError, match="once needs the message's id"):
        Inbox(MemoryStore()).once("")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        with psycopg.connect(running.url, autocommit=True) as setting_up:
            setting_up.execute("CREATE TABLE receipts (who text)")
        yield running


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_effect_and_memory_of_a_message_are_committed_together(server: PostgresServer, kind: str) -> None:
    inbox = Inbox(SQLStore(server.url), name=kind)

    def write(error: Exception | None) -> bool:
        with inbox.once("m") as delivery:
            if delivery.first:
                delivery.connection(psycopg.Connection).execute("INSERT INTO receipts VALUES (%s)", (kind,))
            if error is not None:
                raise error
            return delivery.first

    async def awrite(error: Exception | None) -> bool:
        async with inbox.once("m") as delivery:
            if delivery.first:
                await delivery.connection(psycopg.AsyncConnection).execute("INSERT INTO receipts VALUES (%s)", (kind,))
            if error is not None:
                raise error
            return delivery.first

    def run(error: Exception | None = None) -> bool:
        return write(error) if kind == "blocking" else asyncio.run(awrite(error))

    def receipts() -> int:
        with psycopg.connect(server.url) as looking:
            found = looking.execute("SELECT count(*) FROM receipts WHERE who = %s", (kind,)).fetchone()
            assert found is not None
            return int(found[0])

    with pytest.raises(KeyError):
        run(KeyError("half-way"))
    assert receipts() == 0
    assert [run(), run()] == [True, False]
    assert receipts() == 1
