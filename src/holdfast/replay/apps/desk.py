"""What surrounds the order processors of incident 2: orders come in on the standard input, and what happens goes out as lines of JSON."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator

# Seconds between two signs of life that a processor gives while it has nothing to do.
_PULSE = 0.5

_put_back: list[str] = []


def tell(event: str, order: str = "", **more: object) -> None:
    """Write down what happened, with the moment (of the monotonic clock, which all processes of a machine share)."""
    sys.stdout.write(json.dumps({"event": event, "order": order, "at": time.monotonic(), **more}) + "\n")
    sys.stdout.flush()


def orders(pulse: Callable[[], object]) -> Iterator[str]:
    """The orders, one after the other, until the input ends; `pulse` is called now and then while there is none."""
    waiting = ""
    while True:
        ready, _, _ = select.select([0], [], [], _PULSE)
        if ready:
            read = os.read(0, 4096).decode()
            if not read:
                return
            *lines, waiting = (waiting + read).split("\n")
            yield from lines
        elif _put_back:
            yield _put_back.pop(0)
        else:
            try:
                pulse()
            except Exception as error:  # it is there to be missing when something is wrong
                tell("no pulse", error=type(error).__name__)


def put_back(order: str, error: Exception) -> None:
    """This order could not be done now; it comes again."""
    tell("put back", order, error=type(error).__name__)
    _put_back.append(order)
