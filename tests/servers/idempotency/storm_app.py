"""The application of the storm: it writes one order per request, slowly enough to be killed in the middle. Loaded by gunicorn."""

from __future__ import annotations

import functools
import os
import random
import time
from typing import Any

import redis
import sqlalchemy

from holdfast.servers import Idempotency, MemoryStore, RedisStore, SQLStore
from holdfast.servers.idempotency import connection

STORE = os.environ["STORM_STORE"]
DATABASE = os.environ.get("STORM_DATABASE", "")
REDIS = os.environ.get("STORM_REDIS", "")

_engine = sqlalchemy.create_engine(DATABASE, pool_size=20) if DATABASE else None
if _engine is not None:
    os.register_at_fork(after_in_child=functools.partial(_engine.dispose, close=False))
_redis = redis.Redis.from_url(REDIS) if REDIS else None
_counted: dict[str, int] = {}


def _effect(order: str) -> int:
    """Write an order; how often it was written, as far as this store lets us see."""
    if STORE == "sql":
        connection(sqlalchemy.Connection).execute(sqlalchemy.text("INSERT INTO orders (what) VALUES (:what)"), {"what": order})
        return 1
    if _redis is not None:
        return int(_redis.incr(f"effect:{order}"))  # type: ignore[arg-type]  # its types say both
    _counted[order] = _counted.get(order, 0) + 1
    return _counted[order]


def _orders(environ: dict[str, Any], start_response: Any) -> Any:
    order = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])).decode()
    if environ["REQUEST_METHOD"] == "PUT":  # asks how often, from outside of what is tested
        body = str(_counted.get(order, 0)).encode()
    else:
        time.sleep(random.uniform(0.0, 0.01))
        _effect(order)
        time.sleep(random.uniform(0.0, 0.01))
        body = f"order {order} by {os.getpid()}".encode()
    start_response("201 Created", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _store() -> Any:
    if STORE == "sql":
        assert _engine is not None
        return SQLStore(_engine)
    if STORE == "memory":
        return MemoryStore()
    return RedisStore(REDIS, interrupted="refuse" if STORE == "redis-refuse" else "repeat")


app = Idempotency(_store(), lease=1.0).wsgi(_orders)
