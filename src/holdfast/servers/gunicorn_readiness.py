"""What gunicorn's master and workers do for `Readiness`; `holdfast.servers.gunicorn` has the hooks that call it."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from holdfast.servers import draining

if TYPE_CHECKING:
    from holdfast.servers.readiness import Readiness


def warm_in_master(server: Any) -> None:
    """Before the socket is there: run the warm-ups of a preloaded application, once for all workers."""
    if server.cfg.preload_app:
        for readiness in _all():
            readiness.warming.run_in_master()


def warm_in_worker(worker: Any) -> None:
    """Before the worker accepts: run, or wait for, the warm-ups of an application that each worker loads for itself."""
    cold = [readiness for readiness in _all() if not readiness.warming.done]
    if cold:
        with _alive(worker):
            for readiness in cold:
                readiness.warm()


def drain_first(server: Any) -> None:
    """In the master: at SIGTERM, be not ready for a while before the sockets are closed; and end in time."""
    end = server.handle_term

    def handle_term() -> None:
        drain = max((readiness.drain for readiness in _all()), default=0.0)
        if draining.is_draining() or not drain:  # the second SIGTERM is the timer's, or that of somebody who will not wait
            draining.begin()
            _bound(server)
            end()
        draining.begin()
        timer = threading.Timer(drain, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()

    server.handle_term = handle_term


def _bound(server: Any) -> None:
    left = min((readiness.stop_within - readiness.drain for readiness in _all()), default=math.inf)
    if left < server.cfg.graceful_timeout:
        server.cfg.set("graceful_timeout", max(1, math.floor(left)))


def _all() -> list[Readiness]:
    # Only an application that uses it has loaded it.
    loaded = sys.modules.get("holdfast.servers.readiness")
    return [] if loaded is None else list(loaded.instances)


@contextmanager
def _alive(worker: Any) -> Iterator[None]:
    """Tell the master that the worker lives: warm-ups have a time of their own, and it would be killed after its `timeout`."""
    done = threading.Event()

    def tell() -> None:
        while not done.wait(1.0):
            worker.notify()

    teller = threading.Thread(target=tell, name="holdfast-warm-up", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
