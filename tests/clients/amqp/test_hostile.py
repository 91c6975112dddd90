"""What a broker, or somebody in its place, may send into a connection that is open: the next message goes out on a new one, or on this."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from holdfast import Backoff, Policy, Retry
from holdfast.clients.amqp import AsyncPublisher, Publisher
from holdfast.clients.amqp.liveness import Frames
from holdfast.clients.amqp.pika import connect
from holdfast.replay.parts.rabbitmq import RabbitServer


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


_WORDS = {
    "noise": b"\xff" * 64,
    "half a frame": b"\x01\x00",
    "a frame of two gigabytes": struct.pack(">BHI", 3, 1, 2**31),
    "a frame with another end": struct.pack(">BHI", 1, 1, 4) + struct.pack(">HH", 60, 80) + b"\x00",
    "a method that nobody knows": frame(1, 1, struct.pack(">HH", 99, 99)),
    "a confirm of what was not sent": frame(1, 1, struct.pack(">HHQB", 60, 80, 10**9, 0)),
    "a confirm of everything": frame(1, 1, struct.pack(">HHQB", 60, 80, 0, 1)),
    "a word for a channel that is not open": frame(1, 77, struct.pack(">HHQB", 60, 80, 1, 0)),
    "a body of nothing": frame(2, 1, b"\x00" * 14),
    "a return without its message": frame(1, 1, struct.pack(">HHHB", 60, 50, 312, 1) + b"x\x00\x00"),
    "the end of the channel": frame(1, 1, struct.pack(">HHHB", 20, 40, 504, 3) + b"err" + struct.pack(">HH", 0, 0)),
    "the end of the connection": frame(1, 0, struct.pack(">HHHB", 10, 50, 320, 4) + b"gone" + struct.pack(">HH", 0, 0)),
}


class Relay:
    """Passes on to the broker, and says what it likes to the last client."""

    def __init__(self, to: tuple[str, int]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._to = to
        self._sockets: list[socket.socket] = []
        self.last: socket.socket | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.create_connection(self._to)
                self._sockets += [client, server]
                self.last = client
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def say(self, word: bytes) -> None:
        assert self.last is not None
        self.last.sendall(word)

    def close(self) -> None:
        self._listener.close()
        for one in self._sockets:
            one.close()


@pytest.fixture(scope="module")
def relay(broker_of_session: RabbitServer) -> Iterator[Relay]:
    relay = Relay((broker_of_session.host, broker_of_session.port))
    yield relay
    relay.close()


def policy() -> Policy:
    return Policy("broker", deadline=5.0, attempt_timeout=0.7, retry=Retry(attempts=20, backoff=Backoff(base=0.02, cap=0.2)))


@pytest.fixture(scope="module")
def queue(broker_of_session: RabbitServer) -> str:
    connection = connect(broker_of_session.url)
    connection.channel().queue_declare("hostile", durable=True)
    connection.close()
    return "hostile"


@pytest.mark.realtime
@pytest.mark.parametrize("word", _WORDS.values(), ids=_WORDS)
def test_a_publisher_goes_on(broker: RabbitServer, relay: Relay, queue: str, word: bytes) -> None:
    with Publisher(broker.url_at("127.0.0.1", relay.port), policy=policy()) as publisher:
        publisher.publish(b"before", queue)
        relay.say(word)
        time.sleep(0.05)
        publisher.publish(b"after", queue)


@pytest.mark.realtime
@pytest.mark.parametrize("word", _WORDS.values(), ids=_WORDS)
def test_an_async_publisher_goes_on(broker: RabbitServer, relay: Relay, queue: str, word: bytes) -> None:
    async def main() -> None:
        async with AsyncPublisher(broker.url_at("127.0.0.1", relay.port), policy=policy()) as publisher:
            await publisher.publish(b"before", queue)
            relay.say(word)
            await asyncio.sleep(0.05)
            await publisher.publish(b"after", queue)

    asyncio.run(main())


def test_frames_end_where_they_end_however_they_are_cut() -> None:
    stream = frame(8, 0, b"") + frame(3, 1, b"x" * 300) + frame(1, 1, b"yy")
    whole = Frames()
    assert whole.feed(stream)
    single = Frames()
    assert [at for at in range(len(stream)) if single.feed(stream[at : at + 1])] == [7, 315, 325]
    assert not Frames().feed(b"\xff" * 1000)
