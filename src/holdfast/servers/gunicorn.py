"""Hooks for gunicorn's configuration: the figures of its worker pool, for every worker class; warm-ups before it serves, and an orderly
end (see `readiness`).

    gunicorn -c python:holdfast.servers.gunicorn app:app

or in a configuration of your own:

    from holdfast.servers.gunicorn import child_exit, on_reload, on_starting, post_worker_init, when_ready

The pool is named after gunicorn's `proc_name` (`--name`), and without one after the application: `app:app` is `app.app`.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Any

from holdfast.servers import gunicorn_readiness, kernel
from holdfast.servers.workers import Workers

__all__ = ["child_exit", "on_reload", "on_starting", "post_worker_init", "when_ready"]

_pools: dict[str, Workers] = {}


def pool_name(proc_name: str) -> str:
    """The pool's name for gunicorn's `proc_name`."""
    return re.sub(r"[^A-Za-z0-9._-]", ".", proc_name).lstrip("._-")[:64] or "gunicorn"


def _pool(cfg: Any) -> Workers:
    name = pool_name(str(cfg.proc_name))
    if name not in _pools:
        _pools[name] = Workers(name)
    return _pools[name]


def on_starting(server: Any) -> None:
    """In the master, before its socket: run the warm-ups of a preloaded application."""
    gunicorn_readiness.warm_in_master(server)


def on_reload(server: Any) -> None:
    """In the master, which has loaded the application anew."""
    gunicorn_readiness.warm_in_master(server)


def when_ready(server: Any) -> None:
    """In the master: make the pool's file, so that it is there before the first worker; be ready for SIGTERM."""
    _pool(server.cfg).left(0)
    gunicorn_readiness.drain_first(server)


def child_exit(server: Any, worker: Any) -> None:
    """In the master: a worker is gone, however it ended."""
    _pool(server.cfg).left(worker.pid)


def post_worker_init(worker: Any) -> None:
    """In the worker, before it serves: end with the master, warm up what is cold, join the pool, and count from now on."""
    # Orphans of a master that was killed would keep the port from the next one: under load gunicorn's sync worker does not look whether
    # it is one, and uvicorn's never does.
    kernel.signal_at_parents_end(signal.SIGTERM)
    if os.getppid() != worker.ppid:
        os.kill(os.getpid(), signal.SIGTERM)
    gunicorn_readiness.warm_in_worker(worker)
    pool = _pool(worker.cfg)
    kind = _kind(worker)
    pool.join(worker.sockets, places={"sync": 1, "threads": worker.cfg.threads}.get(kind))
    if kind == "sync":
        worker.handle = _counted_sync(pool, worker.handle)
    elif kind == "threads":
        worker.handle = _counted_threads(pool, worker.handle)
        worker.enqueue_req = _queueing(pool, worker.enqueue_req)
    elif kind == "asgi":
        place = "asgi" if hasattr(worker, "asgi") else "wsgi"  # gunicorn's own worker has it there
        setattr(worker, place, pool.asgi(getattr(worker, place)))
    else:
        worker.wsgi = pool.wsgi(worker.wsgi)


def _kind(worker: Any) -> str:
    """What a worker is, by the classes it is made of: users derive their own."""
    names = {cls.__name__ for cls in type(worker).__mro__}
    if "SyncWorker" in names and not names & {"AsyncWorker"}:
        return "sync"
    if "ThreadWorker" in names:
        return "threads"
    return "asgi" if names & {"UvicornWorker", "ASGIWorker"} else "other"


def _counted_sync(pool: Workers, handle: Callable[..., Any]) -> Callable[..., Any]:
    # The whole of a connection and not only the application's part: a client that is slow to send its headers holds the worker too.
    def counted(listener: Any, client: Any, addr: Any) -> Any:
        began = pool.begin(kernel.since_data(client))
        try:
            return handle(listener, client, addr)
        finally:
            pool.end(began)

    return counted


def _counted_threads(pool: Workers, handle: Callable[..., Any]) -> Callable[..., Any]:
    def counted(conn: Any) -> Any:
        pool.queued(-1)
        began = pool.begin(kernel.since_data(conn.sock))
        try:
            return handle(conn)
        finally:
            pool.end(began)

    return counted


def _queueing(pool: Workers, enqueue: Callable[..., Any]) -> Callable[..., Any]:
    def queueing(conn: Any) -> Any:
        pool.queued(1)
        return enqueue(conn)

    return queueing
