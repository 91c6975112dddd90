"""What a refused call costs: an outage makes thousands of them a second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import floors
import peers
from holdfast import BreakerOpen
from measure import Effort, Figure, Timed, awaiting_refusals, blocking, fastest
from subjects import async_work, five_opened, work


class Down(Exception):
    pass


def _raises(_: int) -> int:
    raise Down("orders")


async def _raises_async(_: int) -> int:
    raise Down("orders")


_CALL = "try:\n    f(1)\nexcept refusal:\n    pass"
_POLICY_CALL = "try:\n    f(work, 1)\nexcept refusal:\n    pass"
_RAISE = "try:\n    raise refusal('orders')\nexcept refusal:\n    pass"


def figures(effort: Effort) -> Iterator[Figure]:
    yield from _blocking(effort)
    yield from _async(effort)


def _blocking(effort: Effort) -> Iterator[Figure]:
    def through(pair: tuple[object, type[Exception]]) -> Timed:
        return blocking(_CALL, f=pair[0], refusal=pair[1])

    ours, called, floor, bare, pybreaker, pyresilience = fastest(
        effort.times(400),
        [
            through((five_opened()(work), BreakerOpen)),
            blocking(_POLICY_CALL, f=five_opened().call, work=work, refusal=BreakerOpen),
            through((floors.pass_through(_raises), Down)),
            blocking(_RAISE, refusal=Down),
            through(peers.pybreaker_open(work)),
            through(peers.pyresilience_open(work)),
        ],
    )
    yield Figure("refused / an exception raised through the pass-through", ours / floor, 2.0)
    yield Figure("refused / bare raise and catch", ours / bare)
    yield Figure("refused by policy.call(...) / an exception through the pass-through", called / floor)
    yield Figure("pybreaker refused / an exception through the pass-through", pybreaker / floor)
    yield Figure("pyresilience refused / an exception through the pass-through", pyresilience / floor)


def _async(effort: Effort) -> Iterator[Figure]:
    with asyncio.Runner() as runner:
        ours, floor = fastest(
            effort.times(400),
            [
                awaiting_refusals(runner, five_opened()(async_work), BreakerOpen),
                awaiting_refusals(runner, floors.async_pass_through(_raises_async), Down),
            ],
        )
    yield Figure("async: refused / an exception raised through the pass-through", ours / floor, 2.0)
