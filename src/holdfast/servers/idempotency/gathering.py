"""The answer of an app while it comes: held back until it is whole or too large to be kept. Pure."""

from __future__ import annotations

from holdfast.servers.idempotency import answers
from holdfast.servers.idempotency.answers import HEADERS_LIMIT, Answer, Pairs


class Gathering:
    """Start and pieces of one answer."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self._hopeless = False
        self.status = 0
        self.reason = ""
        self.headers: Pairs = ()

    @property
    def started(self) -> bool:
        """Whether there are a status and headers."""
        return self.status > 0

    def start(self, status: int, reason: str, headers: Pairs) -> None:
        """Status and headers; a second start, after an error, replaces the first."""
        self.status = status
        self.reason = reason
        self.headers = headers
        self._hopeless = answers.is_stream(headers) or sum(len(name) + len(value) for name, value in headers) > HEADERS_LIMIT

    def add(self, piece: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(piece)
        self._size += len(piece)

    @property
    def too_large(self) -> bool:
        """Whether it cannot be kept: more than was allowed, or a stream without an end."""
        return self._hopeless or self._size > self._limit

    def answer(self) -> Answer:
        """What there is of it."""
        return Answer(self.status, self.reason, self.headers, b"".join(self._pieces))

    def without_body(self) -> Answer:
        """What is kept of one that is too large."""
        return Answer(self.status, self.reason, [], None)
