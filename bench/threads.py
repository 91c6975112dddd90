"""What eight threads lose by going through one policy.

Loss: the time for a number of calls made by eight threads, by the time for the same number made by one. Some of it is the
interpreter's own, so the loss of an empty pass-through is what it is compared with.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat

import floors
from measure import Effort, Figure, Timed, fastest
from subjects import five, work

THREADS = 8
SECONDS = 0.08  # for one measurement: many turns of the interpreter's 5 ms
HECTIC = 0.0001  # seconds between the interpreter's turns where they are made frequent


def figures(effort: Effort) -> Iterator[Figure]:
    subjects = [five()(work), floors.pass_through(work), floors.five(work)]
    ours, empty, flat = _losses(effort.times(50), subjects)
    yield Figure(f"{THREADS} threads: loss through the five / through the pass-through", ours / empty, 1.3)
    yield Figure(f"{THREADS} threads: loss through the five flat by hand / through the pass-through", flat / empty)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(HECTIC)
    try:
        ours, empty, flat = _losses(effort.times(25), subjects)
    finally:
        sys.setswitchinterval(interval)
    yield Figure(f"{THREADS} threads, switched every 0.1 ms: loss through the five / through the pass-through", ours / empty)
    yield Figure(f"{THREADS} threads, switched every 0.1 ms: loss through the five flat / through the pass-through", flat / empty)


def _losses(rounds: int, subjects: Sequence[Callable[[int], int]]) -> list[float]:
    timed: list[Timed] = []
    for fn in subjects:
        calls = 1000
        while _seconds(fn, 1, calls) < SECONDS:
            calls = calls * 3 // 2
        timed += [_timed(fn, 1, calls), _timed(fn, THREADS, calls)]
    best = fastest(rounds, timed)
    return [eight / one for one, eight in zip(best[::2], best[1::2], strict=True)]


def _timed(fn: Callable[[int], int], threads: int, calls: int) -> Timed:
    return lambda: _seconds(fn, threads, calls)


def _seconds(fn: Callable[[int], int], threads: int, calls: int) -> float:
    share = calls // threads
    together = threading.Barrier(threads + 1)

    def run() -> None:
        together.wait()
        for _ in repeat(None, share):
            fn(1)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    gc.disable()
    try:
        together.wait()
        began = time.perf_counter()
        for worker in workers:
            worker.join()
        return time.perf_counter() - began
    finally:
        gc.enable()
