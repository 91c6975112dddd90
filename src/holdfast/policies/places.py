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
from collections.abc import Callable, Iterable

from holdfast.locks import Guarded

# Each place is a token of 8 bytes, and more calls than this at once no process makes.
MOST = 1_000_000


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

    Free places are tokens in a deque: taking and giving back is one step that needs no lock, as long as nobody waits. Whoever frees
    a place looks at the queue afterwards, whoever queues looks at the places afterwards, so one of the two sees the other.

    Args:
        limit: how many calls may run at once.
        queue: how many may wait.
    """

    __slots__ = ("_free", "_generation", "_owed", "_queue", "_waiting", "limit")

    across = "process"  # whose calls they are for

    def __init__(self, limit: int, queue: int) -> None:
        super().__init__()
        self.limit = limit
        self._queue = queue
        self._waiting: deque[Ticket] = deque()
        self._generation = 1  # every token is this number; a fork begins a new one
        self._free = deque([self._generation] * limit)
        self._owed = 0  # places that a smaller limit takes back as they are freed

    @property
    def waiting(self) -> int:
        """How many stand in the queue."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many places are taken."""
        return max(0, self.limit + self._owed - len(self._free))

    def enter(self) -> int:
        """Take a place: a permit to give back with `release`, or 0 when there is none."""
        if self._waiting:
            return 0
        try:
            return self._free.pop()
        except IndexError:
            return 0

    def join(self) -> Ticket | None:
        """Take a ticket; None when the queue is full. A place that came free since `enter` serves it at once."""
        with self._lock:
            ticket = Ticket()
            self._waiting.append(ticket)
            served = self._serve()
            refused = not ticket.permit and len(self._waiting) > self._queue
            if refused:
                self._waiting.pop()
        self.wake(served)
        return None if refused else ticket

    def leave(self, ticket: Ticket) -> int:
        """Stop waiting: the permit if the ticket was served, else 0."""
        with self._lock:
            if not ticket.permit and ticket in self._waiting:  # it is not after a fork
                self._waiting.remove(ticket)
            return self._take(ticket)

    def release(self, permit: int) -> None:
        """Give a place back, and wake whoever gets it."""
        if permit != self._generation:  # from before a fork
            return
        if self._owed:
            with self._lock:
                if self._owed:
                    self._owed -= 1
                    return
        self._free.append(permit)
        if self._waiting:
            with self._lock:
                served = self._serve()
            self.wake(served)

    def resize(self, limit: int) -> None:
        """Change how many may run. Running calls are never ended; a smaller limit is reached as they return."""
        with self._lock:
            served = self.resize_locked(limit)
        self.wake(served)

    def resize_locked(self, limit: int) -> list[Ticket]:
        """The same for who holds the lock: those whom `wake` is to wake when it is given back."""
        for _ in range(limit, self.limit):
            try:
                self._free.pop()
            except IndexError:
                self._owed += 1
        for _ in range(self.limit, limit):
            if self._owed:
                self._owed -= 1
            else:
                self._free.append(self._generation)
        self.limit = limit
        return self._serve()

    def _serve(self) -> list[Ticket]:
        served = []
        while self._waiting and self._free:
            try:
                permit = self._free.pop()
            except IndexError:  # somebody who did not see the queue yet was faster
                break
            ticket = self._waiting.popleft()
            ticket.permit = permit
            served.append(ticket)
        return served

    def wake(self, served: Iterable[Ticket]) -> None:
        """Wake whoever was served. No lock is held here."""
        for ticket in served:
            wake = ticket.wake
            if wake is None:
                continue  # its holder has not begun to wait, and will see that it is served
            try:
                wake()
            except RuntimeError:  # its event loop was closed while it waited: nobody is there to use the place
                with self._lock:
                    permit = self._take(ticket)
                if permit:
                    self.release(permit)

    @staticmethod
    def _take(ticket: Ticket) -> int:
        # Its holder and whoever found its loop closed may both come to give the place back: it is there once.
        permit, ticket.permit = ticket.permit, 0
        return permit

    def _after_fork(self) -> None:
        self._generation += 1
        self._owed = 0
        self._free = deque([self._generation] * self.limit)
        self._waiting.clear()
