"""One direction of a connection: reads from one socket, and passes on to the other what the stages allow, when they do."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable
from socket import SHUT_WR, socket
from typing import TYPE_CHECKING

from holdfast.testing.faults.fault import Chunk, Decision, Stage, Talk

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_READ = 64 * 1024

# More than this is not read ahead of the faults, so that a sender feels a slow line as it would without a proxy.
_AHEAD = 256 * 1024

NOTHING_TO_DO = Decision(at=math.inf)


class Stream:
    """The bytes on their way in one direction. Nothing here waits: `step` does what can be done now.

    Args:
        loop: what runs it.
        source, sink: where bytes come from and go to; None for the upstream that a proxy does not have.
        talk: of the connection.
        wake: called when there may be something to do.
    """

    def __init__(
        self, loop: AbstractEventLoop, source: socket | None, sink: socket | None, talk: Talk, *, up: bool, wake: Callable[[], None]
    ) -> None:
        self.stages: list[Stage] = []
        self.passed = 0
        self.broken = False  # a socket failed: the other side is gone
        self.ended = False  # nothing more will come in
        self.done = False  # nothing more will go out
        self._loop = loop
        self._source = source
        self._sink = sink
        self._talk = talk
        self._up = up
        self._wake = wake
        self._queue: deque[Chunk] = deque()
        self._queued = 0
        self._reading = False
        self._writing = False

    def start(self) -> None:
        """Begin to read, unless enough is waiting."""
        if self._source is not None and not (self._reading or self.ended or self._queued >= _AHEAD):
            self._loop.add_reader(self._source, self._readable, self._source)
            self._reading = True

    def stop(self) -> None:
        """Leave the sockets alone."""
        if self._reading and self._source is not None:
            self._loop.remove_reader(self._source)
        if self._writing and self._sink is not None:
            self._loop.remove_writer(self._sink)
        self._reading = self._writing = False

    def feed(self, data: bytes) -> None:
        """Bytes came in; none of them are the end of the stream."""
        self.ended = not data
        if not self.done:  # after a cut they are read, so that the sender can finish, and lost
            self._queue.append(Chunk(data, self._loop.time()))
            self._queued += len(data)
        if self._up and data:
            if self._talk.asking is None:
                self._talk.asking = self._loop.time()
            self._talk.opening = self._talk.opening or data[:1]
        if self.ended or self._queued >= _AHEAD:
            self._pause()
        self._wake()

    def shut(self) -> None:
        """End this direction with a FIN, and lose what waits."""
        self._queue.clear()
        self._queued = 0
        self.done = True
        if self._sink is not None:
            try:
                self._sink.shutdown(SHUT_WR)
            except OSError:  # it is gone already
                self.broken = True
        self.start()

    def step(self, now: float) -> Decision:
        """Pass on one piece if it may pass now; what the stages say, with the time to ask again."""
        if self.done:
            return NOTHING_TO_DO
        head = self._queue[0] if self._queue else None
        decision = self._decide(head, now)
        if decision.end is not None or decision.at > now:
            return decision
        if decision.say:
            self._queue.appendleft(Chunk(decision.say, now, own=True))
            self._queued += len(decision.say)
            return Decision(at=now)
        if head is None or self._writing:
            return NOTHING_TO_DO
        self._pass(head, decision.size, now)
        return Decision(at=now)

    def _decide(self, head: Chunk | None, now: float) -> Decision:
        size, at, say_at = sys.maxsize, 0.0, math.inf
        for stage in self.stages:
            wanted = stage.decide(head)
            if wanted.end is not None:
                return wanted
            if wanted.say and wanted.at <= now:
                stage.said(now)
                return wanted
            if wanted.say:
                say_at = min(say_at, wanted.at)
            size = min(size, wanted.size)
            at = max(at, wanted.at)
        return Decision(size=size, at=at) if size else Decision(size=0, at=say_at)

    def _pass(self, head: Chunk, size: int, now: float) -> None:
        if not head.data:
            self.shut()
            return
        sent = self._send(head.data[:size])
        if not sent:
            return
        data, head.data = head.data[:sent], head.data[sent:]
        if not (self._up or head.own):
            self._talk.asking = None
        if not head.data:
            self._queue.popleft()
        self._queued -= sent
        self.passed += sent
        for stage in self.stages:
            stage.passed(data, now)
        self.start()

    def _send(self, data: bytes) -> int:
        if self._sink is None:
            return len(data)
        try:
            return self._sink.send(data)
        except BlockingIOError:
            self._loop.add_writer(self._sink, self._writable, self._sink)
            self._writing = True
        except OSError:
            self.broken = True
        return 0

    def _readable(self, source: socket) -> None:
        try:
            self.feed(source.recv(_READ))
        except BlockingIOError:
            return
        except OSError:
            self.broken = True
            self._pause()
            self._wake()

    def _pause(self) -> None:
        if self._reading and self._source is not None:
            self._loop.remove_reader(self._source)
            self._reading = False

    def _writable(self, sink: socket) -> None:
        self._loop.remove_writer(sink)
        self._writing = False
        self._wake()
