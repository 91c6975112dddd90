"""Log lines for what matters: one per event that is news, none per success.

    from holdfast.observe import logging

    logging.install()                # to the logger "holdfast"

Each line has its values as attributes of the record as well (`holdfast_event`, `holdfast_policy`, `holdfast_reason` ...), which a JSON
formatter writes out. During an outage the same line comes a thousand times a second, so each kind of each policy has a bounded rate;
the next line that is let through says how many were left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from holdfast import events
from holdfast.drivers import clock
from holdfast.events import Event
from holdfast.observe.lines import Line, told
from holdfast.observe.metrics import Names
from holdfast.observe.readings import Chosen
from holdfast.policy import Policy
from holdfast.validation import Seconds, count, positive_seconds

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


def install(
    logger: logging.Logger | str = "holdfast",
    *,
    policies: Iterable[Policy] | None = None,
    burst: int = 10,
    every: Seconds = 1.0,
    max_policies: int = 100,
) -> Callable[[], None]:
    """Write log lines.

    Args:
        logger: where to, or its name. One that gets them already goes on as it is.
        policies: only these; None for every policy of the process, those that are made later too.
        burst: how many lines of a kind and policy may come at once, >= 1.
        every: after them one per this many seconds, > 0.
        max_policies: how many names have a rate of their own, >= 1; the rest share one.

    Returns:
        A function that ends it; calling it again does nothing.

    Raises:
        ValueError: an argument is out of its range, or this logger gets them with other policies.
        TypeError: `logger` or `policies` is something else.
    """
    target = logging.getLogger(logger) if isinstance(logger, str) else logger
    if not isinstance(target, logging.Logger):
        raise TypeError(f"logger must be a logging.Logger or a name, got {logger!r}")
    chosen = Chosen(policies)
    bound = Bound(count("burst", burst), positive_seconds("every", every))
    names = Names("max_policies", max_policies)
    with _installing:
        there = _installed.get(target)
        if there is None:
            there = _installed[target] = _Installation(target, chosen, bound, names)
        elif there.chosen != chosen:
            raise ValueError(f"logger {target.name!r} gets holdfast's lines with other policies; end that first")
    return there.undo


class Bound:
    """How many lines of each key are let through: a burst, then one every so often (ITU-T I.371).

    Args:
        burst: at once.
        every: seconds.
    """

    def __init__(self, burst: int, every: float) -> None:
        self._tolerance = every * (burst - 1)
        self._every = every
        self._due: dict[object, float] = {}
        self._left_out: dict[object, int] = {}
        self._lock = threading.RLock()  # a finaliser or a signal's handler may come back in

    def admit(self, key: object, now: float) -> int | None:
        """Let a line through.

        Returns:
            How many were left out before it; None to leave this one out.
        """
        with self._lock:
            due = max(self._due.get(key, now), now)
            if due - now > self._tolerance:
                self._left_out[key] = self._left_out.get(key, 0) + 1
                return None
            self._due[key] = due + self._every
            return self._left_out.pop(key, 0)


class _Installation:
    """The lines of one logger."""

    def __init__(self, logger: logging.Logger, chosen: Chosen, bound: Bound, names: Names) -> None:
        self.chosen = chosen
        self._logger = logger
        self._bound = bound
        self._names = names
        self._writing = threading.local()
        self._stop = events.subscribe(self._hear)

    def undo(self) -> None:
        """End them."""
        with _installing:
            if _installed.get(self._logger) is self:
                del _installed[self._logger]
        self._stop()

    def _hear(self, event: Event) -> None:
        if self.chosen.names is not None and event.policy not in self.chosen.names:
            return
        if getattr(self._writing, "now", False):
            return  # a handler that sends its lines through a policy would be told of its own calls, for ever
        line = told(event)
        if line is None or not self._logger.isEnabledFor(_LEVELS[line.level]):
            return
        # Whose line it is, says the line: an event of a lock has the lock's name there, of which there may be any number.
        left_out = self._bound.admit((line.event, self._names.label(str(line.fields.get("policy", "")))), clock.now())
        if left_out is not None:
            self._write(line, left_out)

    def _write(self, line: Line, left_out: int) -> None:
        extra: dict[str, object] = {f"holdfast_{name}": value for name, value in line.fields.items()}
        text = line.text
        if left_out:
            extra["holdfast_left_out"] = left_out
            text = f"{text} ({left_out} more like it were left out)"
        self._writing.now = True
        try:
            self._logger.log(_LEVELS[line.level], "%s", text, extra={"holdfast_event": line.event, **extra})
        finally:
            self._writing.now = False


_installed: dict[logging.Logger, _Installation] = {}
_installing = threading.Lock()
