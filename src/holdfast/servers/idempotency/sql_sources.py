"""Which library a database is of, and where its transactions are begun."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

from holdfast.servers.calling import call_theirs
from holdfast.servers.idempotency.sql_sessions import AsyncSource, Source


def sources(database: Any) -> tuple[str, Source | None, AsyncSource | None]:
    """The kind of a database, and where its transactions are begun: by blocking code, by async code.

    Raises:
        TypeError: it is nothing that is known here.
    """
    kind = type(database).__module__.partition(".")[0]
    if kind == "sqlalchemy" and hasattr(database, "sync_engine"):
        from holdfast.servers.idempotency.over_sqlalchemy import AsyncEngineSource

        return database.dialect.name, None, AsyncEngineSource(database)
    if kind == "sqlalchemy" and hasattr(database, "begin"):
        from holdfast.servers.idempotency.over_sqlalchemy import EngineSource

        return database.dialect.name, EngineSource(database), None
    return "postgresql", *_of_psycopg(database)


def _of_psycopg(database: Any) -> tuple[Source | None, AsyncSource | None]:
    is_pool = hasattr(database, "getconn") and hasattr(database, "putconn")
    if not any((isinstance(database, str), callable(database), is_pool)):
        kind = type(database).__qualname__
        raise TypeError(f"SQLStore.database must be an engine, a pool, a URL or a function that connects, got {kind}")
    try:
        from holdfast.servers.idempotency.over_psycopg import AsyncConnectionSource, ConnectionSource, aclose, close, taking_from
    except ImportError as error:
        raise ImportError("SQLStore over psycopg needs the extra: pip install 'holdfast[postgres]'") from error
    if isinstance(database, str):
        scheme, is_url, _ = database.partition("://")
        if is_url and scheme not in {"postgresql", "postgres"}:
            raise TypeError("SQLStore.database: a URL must begin with postgresql://; of any other give sqlalchemy.create_engine(url)")
        from holdfast.clients.postgres import aconnect, connect

        return ConnectionSource(lambda: connect(database), close), AsyncConnectionSource(lambda: aconnect(database), aclose)
    if is_pool:
        if inspect.iscoroutinefunction(database.getconn):
            return None, AsyncConnectionSource(taking_from(database), database.putconn, database)
        return ConnectionSource(taking_from(database), database.putconn, database), None
    if inspect.iscoroutinefunction(database):
        return None, AsyncConnectionSource(database, aclose)
    return ConnectionSource(partial(call_theirs, database), close), None
