"""What somebody who listens to events costs; where nobody does is what everything else here measures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from holdfast import events
from measure import Effort, Figure, Timed, blocking, fastest
from subjects import five, retry_only, work


def figures(effort: Effort) -> Iterator[Figure]:
    for name, policy in (("the five", five()), ("retry only", retry_only())):
        guarded = policy(work)
        heard, unheard = fastest(effort.times(200), [_listened(guarded), blocking("f(1)", f=guarded)])
        yield Figure(f"{name} with an empty listener / without", heard / unheard)


def _listened(guarded: Callable[[int], int]) -> Timed:
    timed = blocking("f(1)", f=guarded)

    def run() -> float:
        stop = events.subscribe(lambda _: None)
        try:
            return timed()
        finally:
            stop()

    return run
