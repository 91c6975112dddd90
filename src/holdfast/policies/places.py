"""Places for running calls and a queue for them: what a bulkhead and an adaptive limit enforce.

How many places there are is somebody else's business (a constant, or an algorithm); here they are given out.

1. A call takes a place at once if one is free and nobody waits for it.
2. Otherwise it may take a ticket, while the queue has room. Tickets are served in order; nobody overtakes.
3. A freed place goes to the first ticket in the same step, so it can never be lost between the two.
4. A ticket that was served just as its holder gave up holds a place; `leave` tells, and the holder gives it back.
5. Threads and tasks of any loop stand in the same queue; only how they are woken differs, and that is their driver's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from holdfast.locks import Guarded


class Ticket:
    """A position in the queue; `permit` is 0 until it is served.

    The driver sets `wake` and then looks at `permit`; whoever frees a place sets `permit` and then calls `wake`:
    whichever comes first, no wake-up is missed.
    """

    __slots__ = ("permit", "wake")

    def __init__(self) -> None:
        self.permit = 0
        self.wake: Callable[[], object] | None = None


class Places(Guarded):
    """Places and the queue for them.

    Args:
        limit: how many calls may run at once.
        queue: how many may wait.
    """

    __slots__ = ("_generation", "_queue", "_waiting", "limit", "running")

    def __init__(self, limit: int, queue: int) -> None:
        super().__init__()
        self.limit = limit
        self.running = 0
        self._queue = queue
        self._waiting: deque[Ticket] = deque()
        self._generation = 1

    @property
    def waiting(self) -> int:
        """How many stand in the queue."""
        return len(self._waiting)

    def enter(self) -> int:
        """Take a place: a permit to give back with `release`, or 0 when there is none."""
        with self._lock:
            if self.running >= self.limit or self._waiting:
                return 0
            self.running += 1
            return self._generation

    def join(self) -> Ticket | None:
        """Take a ticket; None when the queue is full. A place that came free since `enter` serves it at once."""
        with self._lock:
            ticket = Ticket()
            if self.running < self.limit and not self._waiting:
                self.running += 1
                ticket.permit = self._generation
            elif len(self._waiting) >= self._queue:
                return None
            else:
                self._waiting.append(ticket)
            return ticket

    def leave(self, ticket: Ticket) -> int:
        """Stop waiting: the permit if the ticket was served, else 0."""
        with self._lock:
            if not ticket.permit and ticket in self._waiting:  # it is not after a fork
                self._waiting.remove(ticket)
            return ticket.permit

    def release(self, permit: int) -> None:
        """Give a place back, and wake whoever gets it."""
        with self._lock:
            if permit != self._generation:  # from before a fork
                return
            self.running -= 1
            if not self._waiting:
                return
            served = self._serve()
        self._wake(served)

    def resize(self, limit: int) -> None:
        """Change how many may run. Running calls are never ended; a smaller limit is reached as they return."""
        with self._lock:
            self.limit = limit
            served = self._serve()
        self._wake(served)

    def _serve(self) -> list[Ticket]:
        served = []
        while self._waiting and self.running < self.limit:
            ticket = self._waiting.popleft()
            ticket.permit = self._generation
            self.running += 1
            served.append(ticket)
        return served

    def _wake(self, served: list[Ticket]) -> None:
        for ticket in served:
            wake = ticket.wake
            if wake is None:
                continue  # its holder has not begun to wait, and will see that it is served
            try:
                wake()
            except RuntimeError:  # its event loop was closed while it waited: nobody is there to use the place
                self.release(ticket.permit)

    def _after_fork(self) -> None:
        self._generation += 1
        self.running = 0
        self._waiting.clear()
