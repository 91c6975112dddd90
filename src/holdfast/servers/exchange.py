"""One ASGI request under its deadline, which it is itself: what the application receives and sends passes through here.

Most requests are over in a moment, so all that only long ones need is made when they have become long. It knows no event loop:
`deadline_asyncio` and `deadline_trio` run it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

from holdfast.deadlines import Deadline, Watch
from holdfast.errors import DeadlineExceeded
from holdfast.servers.deadline import UNBOUNDED
from holdfast.servers.refusal import late

if TYPE_CHECKING:
    from holdfast.servers.interfaces import Message, Receive, Scope, Send

# How much of a body is read ahead of the application to see whether the client is still there.
_AHEAD = 64 * 1024

# By these, extensions of ASGI, an application has the server send a file.
_FILES = ("http.response.pathsend", "http.response.zerocopysend")


class Event(Protocol):
    """What asyncio and trio have in common."""

    def set(self) -> object:
        """Wake whoever waits."""
        ...

    async def wait(self) -> object:
        """Wait until it is set."""
        ...


class Exchange(Deadline):
    """The application's side of one request. Whatever works for it holds this, as the ambient deadline.

    Args:
        at, budget, policy, parent: see `Deadline`.
        now: the clock.
        scope, receive, send: the server's.
    """

    __slots__ = ("_now", "_receive", "_send", "answered", "complete", "inbox", "left", "scope", "started")

    event: ClassVar[type[Event]]  # of the running loop's kind

    def __init__(
        self,
        at: float,
        budget: float,
        policy: str,
        parent: Deadline | None,
        now: Callable[[], float],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        # Not by `Deadline.__init__`: what is nested in this asks it for its client, which is asked of itself.
        self.at = at
        self.budget = budget
        self.policy = policy
        self.parent = parent
        self.scope = scope
        self.started = False  # the application's response
        self.complete = False  # the last of it is with the server
        self.answered = False  # by us, instead of the application
        self.left = False  # the client
        self.inbox: Inbox | None = None
        self._now = now
        self._receive = receive
        self._send = send

    @property
    def watch(self) -> Watch | None:  # type: ignore[override]  # a slot there
        """Whoever works on after the response is complete does not do it for the client."""
        return None if self.complete else self

    def gone(self, _now: float) -> bool:
        """See `Watch.gone`."""
        return self.left

    def fire(self) -> None:
        """End the application's work now, from wherever in its event loop."""
        raise NotImplementedError

    @property
    def is_over(self) -> bool:
        """Whether the time was up, or the client went, before the response was complete."""
        return not self.complete and (self.left or self._now() >= self.at)

    # What the application calls.

    async def receive(self) -> Message:
        """The next message."""
        return await self.reader().take()

    def send(self, message: Message) -> Awaitable[None]:
        """Take a message."""
        if self.answered or self.left:
            raise self._refusal()
        if message["type"] == "http.response.body":
            if "more_body" not in message or not message["more_body"]:
                self.complete = True
                self.at += UNBOUNDED
            elif self._now() >= self.at:
                raise self._refusal()
        elif not self.started:
            if self._now() >= self.at:
                raise self._refusal()
            self.started = message["type"] == "http.response.start"
        elif message["type"] in _FILES and not message.get("more_body"):
            self.complete = True
            self.at += UNBOUNDED
        return self._send(message)

    def _refusal(self) -> DeadlineExceeded:
        now = self._now()
        return self.over(now) or self.exceeded(now)

    # What the runner calls.

    def reader(self) -> Inbox:
        """What reads from the server."""
        if self.inbox is None:
            self.inbox = Inbox(self, self._receive)
        return self.inbox

    async def answer(self) -> None:
        """Say that it is late, unless the application has begun to answer, or nobody is there."""
        if not self.started and not self.answered and not self.left:
            self.answered = True
            await late(self.budget).send(self._send)


class Inbox:
    """What comes from the server, for the application and for whoever watches the client: only one of them may ask at a time."""

    __slots__ = ("_ahead", "_asked", "_changed", "_exchange", "_messages", "_reading", "_receive")

    def __init__(self, exchange: Exchange, receive: Receive) -> None:
        self._exchange = exchange
        self._receive = receive
        self._messages: deque[Message] = deque()
        self._ahead = 0
        self._reading = False
        self._asked = False
        self._changed: Event | None = None

    async def take(self) -> Message:
        """The next message, for the application."""
        self._asked = True
        while not self._messages:
            if not self._reading:
                return await self._read()
            await self._wait()  # the watcher is at it, and what it gets is ours
        if self._messages[0]["type"] == "http.disconnect":
            return self._messages[0]
        message = self._messages.popleft()
        self._ahead -= len(message.get("body", b""))
        self._tell()
        return message

    async def watch(self) -> None:
        """Read ahead until the client goes. Nothing of the body is lost, and only a little is kept."""
        # The server says "100 Continue" with the first message that is asked for: that is the application's to decide.
        hesitant = any(name == b"expect" for name, _ in self._exchange.scope["headers"])
        while not self._exchange.complete:
            if self._reading or self._ahead >= _AHEAD or (hesitant and not self._asked):
                await self._wait()
                continue
            message = await self._read()
            self._messages.append(message)
            self._ahead += len(message.get("body", b""))
            self._tell()
            if message["type"] == "http.disconnect":
                return

    async def _read(self) -> Message:
        self._reading = True
        try:
            message = await self._receive()
        finally:
            self._reading = False
            self._tell()
        exchange = self._exchange
        # A client that has all it asked for leaves in peace.
        if message["type"] == "http.disconnect" and not exchange.complete and not exchange.answered:
            exchange.left = True
            exchange.fire()
        return message

    async def _wait(self) -> None:
        if self._changed is None:
            self._changed = self._exchange.event()
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
