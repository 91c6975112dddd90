"""One ASGI request under its deadline: what the application receives and sends passes through here.

It knows no event loop: `deadline_asgi` runs it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from holdfast.deadlines import Deadline
from holdfast.servers.deadline import UNBOUNDED
from holdfast.servers.refusal import late

if TYPE_CHECKING:
    from holdfast.drivers.backends import Cutoff
    from holdfast.servers.interfaces import Message, Receive, Send

# How much of a body is read ahead of the application to see whether the client is still there.
_AHEAD = 64 * 1024


class Event(Protocol):
    """What asyncio and trio have in common."""

    def set(self) -> object:
        """Wake whoever waits."""
        ...

    async def wait(self) -> object:
        """Wait until it is set."""
        ...


class Client:
    """Whether it is still there. Whatever works for it holds this, by the ambient deadline: it is freed when the last of them ends."""

    __slots__ = ("__weakref__", "left")

    def __init__(self) -> None:
        self.left = False

    def gone(self, _now: float) -> bool:
        """See `Watch.gone`."""
        return self.left


class Exchange:
    """The application's side of one request.

    Args:
        limit: its deadline.
        cutoff: what ends the application at it, or sooner.
        client: whether the client is there.
        now: the clock.
        receive, send: the server's.
        event: makes an event of the running loop's kind.
        hesitant: the client waits for "100 Continue", which the server gives with the first `receive`: that is the application's to do.
    """

    __slots__ = (
        "_ahead",
        "_changed",
        "_ending",
        "_event",
        "_hesitant",
        "_inbox",
        "_now",
        "_reading",
        "_receive",
        "_send",
        "answered",
        "client",
        "complete",
        "cutoff",
        "limit",
        "started",
    )

    def __init__(
        self,
        limit: Deadline,
        cutoff: Cutoff,
        client: Client,
        now: Callable[[], float],
        receive: Receive,
        send: Send,
        event: Callable[[], Event],
        hesitant: bool,
    ) -> None:
        self.limit = limit
        self.cutoff = cutoff
        self.started = False  # the application's response
        self.complete = False  # it was handed over
        self.answered = False  # by us, instead of the application
        self.client = client
        self._now = now
        self._receive = receive
        self._send = send
        self._event = event
        self._hesitant = hesitant
        self._ending = False  # the last of the response is being handed over
        self._reading = False
        self._inbox: deque[Message] | None = None
        self._ahead = 0
        self._changed: Event | None = None

    @property
    def over(self) -> bool:
        """Whether the time was up, or the client went, before the response was complete."""
        return not self.complete and (self.client.left or self._now() >= self.limit.at)

    async def receive(self) -> Message:
        """The next message, for the application."""
        self._hesitant = False
        while not self._inbox:
            if not self._reading:
                return await self._read()
            await self._wait()  # the watcher is at it, and what it gets is ours
        if self._inbox[0]["type"] == "http.disconnect":
            return self._inbox[0]
        message = self._inbox.popleft()
        self._ahead -= len(message.get("body", b""))
        self._tell()
        return message

    async def _read(self) -> Message:
        self._reading = True
        try:
            message = await self._receive()
        finally:
            self._reading = False
            self._tell()
        # A client that has all it asked for leaves in peace; servers may tell before the last `send` returns.
        if message["type"] == "http.disconnect" and not self._ending and not self.answered:
            self.client.left = True
            self.cutoff.fire()
        return message

    async def send(self, message: Message) -> None:
        """Take a message of the application."""
        if self.answered or self.client.left or self._now() >= self.limit.at:
            over = self.limit.over(self._now())
            raise over if over is not None else self.limit.exceeded(self._now())
        kind = message["type"]
        if kind == "http.response.start":
            self.started = True
        last = kind == "http.response.body" and not message.get("more_body")
        self._ending = self._ending or last
        await self._send(message)
        if last:
            self._completed()

    def _completed(self) -> None:
        self.complete = True
        self.limit.at = self._now() + UNBOUNDED
        self.limit.watch = None
        self.cutoff.lift()

    async def answer(self) -> None:
        """Say that it is late, unless the application has begun to answer, or nobody is there."""
        if not self.started and not self.answered and not self.client.left:
            self.answered = True
            await late(self.limit.budget).send(self._send)

    # Watching the client.

    async def watch(self) -> None:
        """Read ahead until the client goes. Nothing of the body is lost, and only a little is kept."""
        self._inbox = deque()
        while not self.complete:
            if self._reading or self._hesitant or self._ahead >= _AHEAD:
                await self._wait()
                continue
            message = await self._read()
            self._inbox.append(message)
            self._ahead += len(message.get("body", b""))
            self._tell()
            if message["type"] == "http.disconnect":
                return

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = self._event()
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
