"""Gauges for prometheus_client's mode of several processes: there a gauge is what each process has written down last.

A thread writes them every second. After a fork the child has none, and its first event starts one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from holdfast.events import Event
from holdfast.observe.metrics import Metric
from holdfast.observe.readings import Gauges

INTERVAL = 1.0  # seconds; scrapes come every 5 to 60


class Writer:
    """Reads gauges and writes them down, again and again, from the first event of this process on.

    Args:
        read: what they are now.
        write: takes a metric, the values of its labels, and its value.
    """

    def __init__(self, read: Callable[[], Gauges], write: Callable[[Metric, tuple[str, ...], float], object]) -> None:
        self._read = read
        self._write = write
        self._written: Gauges = {}
        self._pid = 0  # of the process that writes
        self._ended = False
        self._running: dict[int, tuple[threading.Thread, threading.Event]] = {}  # by process; the event ends the thread

    def heard(self, _: Event) -> None:
        """Something happens in this process, so it is to write."""
        if self._pid != os.getpid() and not self._ended:
            self._begin(os.getpid())

    def stop(self) -> None:
        """End it, and write zeros: what this process shows is over."""
        self._ended = True
        running = self._running.get(os.getpid())
        if running is not None:
            thread, ended = running
            ended.set()
            thread.join()
            self._put({})

    def _begin(self, pid: int) -> None:
        ended = threading.Event()
        thread = threading.Thread(target=self._run, args=(ended,), name="holdfast-gauges", daemon=True)
        if self._running.setdefault(pid, (thread, ended))[0] is thread:  # one step, in which one of several threads is the first
            thread.start()
        self._pid = pid

    def _run(self, ended: threading.Event) -> None:
        while True:
            self._put(self._read())
            if ended.wait(INTERVAL):
                return

    def _put(self, now: Gauges) -> None:
        for key in self._written.keys() - now.keys():
            self._write(*key, 0.0)  # its policy is gone
        for key, value in now.items():
            self._write(*key, value)
        self._written = now
