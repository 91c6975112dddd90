"""Transactions: each request in a database transaction of its own, committed before its answer is sent, rolled back wherever it is stopped.

    app = Shield(Transactions(engine).wsgi(app), deadline=1.0)

    def order(request):
        connection(sqlalchemy.Connection).execute(...)       # holdfast.servers.idempotency.connection

1. The transaction begins before the handler runs and ends when its answer is whole; the client hears of nothing that was not committed.
2. It is rolled back when the handler raises, when the request is stopped (its deadline, its client's leaving, the end of the worker),
   and when the answer says 400 or more: frameworks make answers of exceptions.
3. What was stopped in the middle of a statement is cancelled at the server, and its connection closed, not given back to the pool.
4. A worker that is killed takes its connection along, and the server rolls back as soon as it sees that: at once between statements, in
   the middle of one when that ends. So no statement is without a bound: `statement_timeout` is what was left of the deadline when the
   transaction began, and with the engines and connections of `holdfast.clients.postgres` it follows it.

`Idempotency(SQLStore(...))` does the same and keeps the answers; nobody needs both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from holdfast.servers.idempotency.part import Idempotency
from holdfast.servers.idempotency.sql import SQLStore

if TYPE_CHECKING:
    from holdfast.servers.idempotency.answers import Answer
    from holdfast.servers.idempotency.sql import Database
    from holdfast.servers.interfaces import ASGIApp, WSGIApp
    from holdfast.servers.request import Request


class _Unkeyed(Idempotency):
    def key_of(self, request: Request) -> str | Answer | None:  # noqa: ARG002  (no request has one)
        return None


class Transactions:
    """A transaction for each request.

    Args:
        database: see `SQLStore`.
        methods: of requests that have one.
        commits: a function of the status that says whether to commit; without it, below 400.
        max_body: bytes of an answer that are held back until the transaction is committed; one that is larger is committed when it
            grows beyond that, and its rest is made without a transaction.

    Raises:
        TypeError, ValueError: an argument is of another kind or out of its range.
    """

    def __init__(
        self,
        database: Database,
        *,
        methods: Sequence[str] = ("POST", "PUT", "PATCH", "DELETE"),
        commits: Callable[[int], bool] | None = None,
        max_body: int = 1024 * 1024,
    ) -> None:
        self._part = _Unkeyed(SQLStore(database, create=False), methods=methods, commits=commits, max_body=max_body)

    def wsgi(self, app: WSGIApp, /) -> WSGIApp:
        """The app behind it."""
        return self._part.wsgi(app)

    def asgi(self, app: ASGIApp, /) -> ASGIApp:
        """The app behind it."""
        return self._part.asgi(app)
