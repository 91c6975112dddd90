"""The rules of a held lock; no clock is read here but where the deadline asks, and no store is known.

1. A lock is ours from the moment before the store was asked for it, for `ttl` seconds: the store began to count later, so it ends there
   no sooner than here. A renewal counts likewise, and never past the maximum.
2. What is left is the deadline inside, less a margin: work that obeys a deadline ends some milliseconds after it, and is to end inside.
   With renewal it is the maximum, for as long as renewing goes well; when it does not, or the time that is certain has passed, it is
   that time.
3. Work that ends later than the time that was certain has outrun its lock.
"""

from __future__ import annotations

from holdfast.deadlines import OUTRUN_GRACE, Deadline
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded, LockOverrun

# Of the ttl: when to renew, so that two renewals may fail.
_RENEW_AFTER = 1 / 3

# Between the deadline inside and the end of the lock: of the ttl, and at most these seconds. What a deadline stopped in the replay ended up
# to 5 ms past it.
_MARGIN, _MARGIN_MOST = 1 / 50, 0.05


class Lease:
    """What is known of a lock while it is held.

    Args:
        name: of the lock.
        token: its fencing token.
        ttl: seconds.
        began: when the store was asked, in monotonic seconds.
        most: seconds that it may be held with renewals; `ttl` where there are none.
    """

    __slots__ = ("began", "end", "lost", "margin", "name", "token", "ttl", "unsure", "until")

    def __init__(self, name: str, token: int, ttl: float, began: float, most: float) -> None:
        self.name = name
        self.token = token
        self.ttl = ttl
        self.margin = min(ttl * _MARGIN, _MARGIN_MOST)
        self.began = began
        self.until = began + ttl  # certain
        self.end = began + most
        self.unsure = False  # the last renewal failed
        self.lost = False  # the store has no such lock any more

    def next_ttl(self, now: float) -> float:
        """Seconds that a renewal would ask for; 0 or less where the maximum is reached."""
        return min(self.ttl, self.end - now)

    @property
    def renew_at(self) -> float:
        """When to renew."""
        return self.until - self.ttl * (1 - _RENEW_AFTER)

    def renewed(self, asked: float, ttl: float) -> None:
        """The store has renewed it, asked at this moment."""
        self.until = max(self.until, min(asked + ttl, self.end))
        self.unsure = False

    def gone(self, now: float) -> None:
        """The store has no such lock any more: it lost its data, or the lock ran out while we slept."""
        self.lost = True
        self.until = min(self.until, now)

    def overrun(self, now: float) -> LockOverrun | None:
        """The error where work that ends now has outrun the lock; of a lock that was lost, nothing is within grace."""
        if now - self.until <= (0.0 if self.lost else OUTRUN_GRACE):
            return None
        return LockOverrun(self.name, now - self.began, self.until - self.began)


class LockDeadline(Deadline):
    """The end of a lock, or of a deadline around it where that is sooner. It moves: see the rules above."""

    __slots__ = ("_lease",)

    what = "lock"

    def __init__(self, lease: Lease, parent: Deadline | None) -> None:
        self._lease = lease
        super().__init__(self._end, self._end - lease.began, None, parent)

    def exceeded(self, now: float, *, started: bool = True, attempt: int = 0) -> DeadlineExceeded:
        """See `Deadline.exceeded`."""
        end, began, parent = self._end, self._lease.began, self.parent
        if parent is not None and parent.at <= end:
            return parent.exceeded(now, started=started, attempt=attempt)
        error = DeadlineExceeded(None, end - began, now - began, started, attempt, self.what)
        error._source = self
        return error

    @property
    def _end(self) -> float:
        lease = self._lease
        certain = lease.unsure or lease.until - lease.margin <= clock.now()
        return (lease.until if certain else lease.end) - lease.margin

    @property
    def at(self) -> float:
        """Monotonic seconds."""
        return self._end if self.parent is None else min(self._end, self.parent.at)

    @at.setter
    def at(self, moment: float) -> None:
        """The base class sets it once."""


class Held:
    """A lock that is held: what `with holdfast.lock(...) as held` gives."""

    __slots__ = ("_lease",)

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    @property
    def name(self) -> str:
        """Of the lock."""
        return self._lease.name

    @property
    def token(self) -> int:
        """The fencing token: larger than those of all who held the lock before. Whatever is written under the lock should carry it, and
        be refused where a larger one was there.
        """
        return self._lease.token

    @property
    def lost(self) -> bool:
        """Whether the store is known to have lost it before its time."""
        return self._lease.lost

    def remaining(self) -> float:
        """Seconds for which it is certainly ours, never below 0."""
        return max(0.0, self._lease.until - clock.now())

    def check(self) -> None:
        """Raise LockOverrun where it is not certainly ours any more."""
        now = clock.now()
        if now >= self._lease.until:
            raise LockOverrun(self.name, now - self._lease.began, self._lease.until - self._lease.began)

    def __repr__(self) -> str:
        return f"<lock {self.name!r}, token {self.token}, {self.remaining():.3g} s left>"


def is_from(error: BaseException | None, limit: Deadline) -> bool:
    """Whether the work was stopped because this lock had run out."""
    return isinstance(error, DeadlineExceeded) and error._source is limit
