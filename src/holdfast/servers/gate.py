"""The gate of a route group: places, and a bounded queue that changes its manners under overload.

1. A request takes a place at once if one is free and nobody waits. Otherwise it waits, while there is room.
2. A freed place goes to the most important of those who wait, and among equals to the one that came first.
3. A queue that has not been empty for a tenth of a second is no burst but overload. Then among equals the one that came *last* is next: it
   has somebody who still waits for it, while in the order of arrival everybody would be served just too late. Whoever waits for a
   tenth of a second then, leaves: whom the newest have overtaken will not be served in time. Only the most important stay.
4. When the queue is full, the least important leaves: under overload the oldest of them, otherwise the one that came last. So critical
   requests are shed last.

The forms are those of Facebook's adaptive LIFO and controlled delay (M. Maurer, "Fail at Scale", ACM Queue 13(8), 2015), whose
interval of 100 ms is taken over.
"""

from __future__ import annotations

from typing import cast

from holdfast.policies.places import Places, Ticket

INTERVAL = 0.1


class Waiter(Ticket):
    """A request in the queue. It is `shed` when it lost its place there.

    Args:
        level: how important it is, 0 the most.
        since: monotonic seconds.
    """

    __slots__ = ("level", "shed", "since")

    def __init__(self, level: int, since: float) -> None:
        super().__init__()
        self.level = level
        self.since = since
        self.shed = False


class Gate(Places):
    """Places and the queue for them.

    Args:
        limit: how many requests may be worked on at once.
        queue: how many may wait.
    """

    __slots__ = ("_crowded_since", "newest_first")

    def __init__(self, limit: int, queue: int) -> None:
        super().__init__(limit, queue)
        self._crowded_since = 0.0
        self.newest_first = False

    def join_as(self, level: int, now: float) -> Waiter | None:
        """Wait for a place; None when there is no room for one of this level."""
        waiter = Waiter(level, now)
        with self._lock:
            if not self._waiting:
                self._crowded_since = now
            self.newest_first = now - self._crowded_since >= INTERVAL
            self._waiting.append(waiter)
            told: list[Ticket] = self._serve()
            told += self._shed(now)
        self.wake(ticket for ticket in told if ticket is not waiter)
        return None if waiter.shed else waiter

    def patience(self, waiter: Waiter, wait: float) -> float:
        """Until when a waiter that was not served waits, where `wait` seconds are the most."""
        return waiter.since + (min(wait, INTERVAL) if self.newest_first and waiter.level else wait)

    def _line(self) -> list[Waiter]:
        return cast("list[Waiter]", list(self._waiting))

    def _serve(self) -> list[Ticket]:
        served: list[Ticket] = []
        while self._waiting and self._free:
            try:
                permit = self._free.pop()
            except IndexError:  # somebody who did not see the queue yet was faster
                break
            line = self._line()
            best = min(waiter.level for waiter in line)
            chosen = next(waiter for waiter in (reversed(line) if self.newest_first else line) if waiter.level == best)
            self._waiting.remove(chosen)
            chosen.permit = permit
            served.append(chosen)
        return served

    def _shed(self, now: float) -> list[Ticket]:
        """Send away whom nobody will serve in time, and whoever is too many."""
        line = self._line()
        sent = [waiter for waiter in line if now - waiter.since >= INTERVAL and waiter.level > 0] if self.newest_first else []
        if len(line) - len(sent) > self._queue:
            worst = max(waiter.level for waiter in line)
            sent.append(next(waiter for waiter in (line if self.newest_first else reversed(line)) if waiter.level == worst))
        for waiter in dict.fromkeys(sent):
            self._waiting.remove(waiter)
            waiter.shed = True
        return list(sent)
