"""What a guarded call costs while nothing fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import floors
import peers
from measure import Effort, Figure, Timed, awaiting, blocking, fastest
from subjects import async_work, five, retry_only, work

COPIES = 5


def figures(effort: Effort) -> Iterator[Figure]:
    yield from _light(effort)
    yield from _five(effort)
    yield from _light_async(effort)


def _light(effort: Effort) -> Iterator[Figure]:
    ours, floor, tenacity = _best_of_copies(
        effort.times(200),
        lambda: [
            blocking("f(1)", f=retry_only()(work)),
            blocking("f(1)", f=floors.pass_through(work)),
            blocking("f(1)", f=peers.tenacity(work)),
        ],
    )
    yield Figure("retry only / empty pass-through", ours / floor, 1.15)
    yield Figure("tenacity's retry only / empty pass-through", tenacity / floor)


def _light_async(effort: Effort) -> Iterator[Figure]:
    with asyncio.Runner() as runner:
        ours, floor, tenacity = _best_of_copies(
            effort.times(200),
            lambda: [
                awaiting(runner, retry_only()(async_work)),
                awaiting(runner, floors.async_pass_through(async_work)),
                awaiting(runner, peers.tenacity(async_work)),
            ],
        )
    yield Figure("async: retry only / empty pass-through", ours / floor, 1.15)
    yield Figure("async: tenacity's retry only / empty pass-through", tenacity / floor)


def _best_of_copies(rounds: int, make: Callable[[], Sequence[Timed]]) -> list[float]:
    """Where 10 ns decide, it matters where in memory things happen to lie: the fastest of several copies of everything."""
    runs = [fastest(rounds, make()) for _ in range(COPIES)]
    return [min(each) for each in zip(*runs, strict=True)]


def _five(effort: Effort) -> Iterator[Figure]:
    policy = five()
    ours, called, floor, pyresilience, window, pair = fastest(
        effort.times(400),
        [
            blocking("f(1)", f=policy(work)),
            blocking("f(work, 1)", f=five().call, work=work),
            blocking("f(1)", f=floors.five(work)),
            blocking("f(1)", f=peers.pyresilience(work)),
            blocking("f(1)", f=peers.pyresilience_window(work)),
            blocking("f(1)", f=peers.tenacity_pybreaker(work)),
        ],
    )
    yield Figure("the five / the same flat by hand", ours / floor, 1.5)
    yield Figure("the five / pyresilience retry+breaker+bulkhead", ours / pyresilience, 0.75)
    yield Figure("the five / tenacity + pybreaker", ours / pair, 0.15)
    yield Figure("the five / pyresilience with a rate window and budget", ours / window)
    yield Figure("the five by policy.call(...) / the same flat by hand", called / floor)
