"""Connecting to a broker: bad arguments, brokers that refuse, peers that are no brokers, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pika
import pytest

import holdfast
from certificates import certificate, client_context
from holdfast import Breaker, Policy, Retry
from holdfast.clients.amqp import Consumer, Disconnected, Publisher
from holdfast.clients.amqp import aio_pika as ours_async
from holdfast.clients.amqp import pika as ours
from holdfast.replay.parts.process import free_port
from holdfast.replay.parts.rabbitmq import RabbitServer, rabbitmq_server
from stopwatch import Stopwatch

KINDS = ["sync", "async"]


def connect(kind: str, url: str, **options: object) -> None:
    """Connect and close again."""
    if kind == "sync":
        ours.connect(url, **options).close()
        return

    async def main() -> None:
        connection = await ours_async.connect(url, **options)
        await connection.close()

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("url", ["", "http://host/", "amqp://host:port/", 7])
def test_a_url_that_is_none_is_refused_without_being_repeated(kind: str, url: object) -> None:
    with pytest.raises(ValueError, match="url") as caught:
        connect(kind, url)  # type: ignore[arg-type]
    assert "host" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dead_after", "said"), [(0.5, ">= 1 second"), (0, "> 0"), ("soon", "seconds"), (float("inf"), "finite")])
def test_dead_after_names_its_range(kind: str, dead_after: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        connect(kind, "amqp://127.0.0.1/", dead_after=dead_after)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_credentials_are_said_at_once_and_not_tried_again(broker: RabbitServer, kind: str) -> None:
    policy = Policy("broker", deadline=10.0, retry=Retry(attempts=10))
    watch = Stopwatch()
    with pytest.raises(Exception, match=r"ACCESS_REFUSED|authentication") as caught:
        connect(kind, broker.url.replace(broker.password, "secret-word"), policy=policy)
    assert watch.took < 3
    assert "secret-word" not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_there_is_tried_again_within_the_deadline_and_then_the_breaker_opens(kind: str) -> None:
    policy = Policy("broker", deadline=2.0, retry=Retry(attempts=3), breaker=Breaker(min_calls=3, window=60.0))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"amqp://127.0.0.1:{probe.getsockname()[1]}/"
        with pytest.raises(OSError, match=r"refused|Connect call failed") as caught:
            connect(kind, url, policy=policy)
    assert any("3 attempts" in note for note in caught.value.__notes__)
    with pytest.raises(holdfast.BreakerOpen):
        connect(kind, url, policy=policy)


def test_refusals_and_deadlines_are_errors_of_the_library_too() -> None:
    import aio_pika

    for module, root in ((ours, pika.exceptions.AMQPConnectionError), (ours_async, aio_pika.exceptions.AMQPConnectionError)):
        for name in ("DeadlineExceeded", "BreakerOpen", "BulkheadFull", "RateLimited"):
            kind = getattr(module, name)
            assert issubclass(kind, root)
            assert issubclass(kind, getattr(holdfast, name))


@pytest.fixture
def peer() -> Iterator[Callable[[bytes], str]]:
    """Listens, sends what it is told to whoever connects, and keeps quiet or closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def serve(answer: bytes) -> str:
        def run() -> None:
            while True:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return
                held.append(connection)
                if answer == b"close":
                    connection.recv(8)
                    connection.close()
                elif answer:
                    connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return f"amqp://127.0.0.1:{listener.getsockname()[1]}/"

    yield serve
    listener.close()
    for connection in held:
        connection.close()


_GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "another version": b"AMQP\x00\x00\x09\x01",
    "a frame of nonsense": b"\x01\x00\x00\x00\x00\x00\x08\xff\xff\xff\xff\xff\xff\xff\xff\xce",
    "a table that lies": b"\x01\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x0a\x00\x09\x7f\xff\xff\xff\x01\x41\xce",
    "closes": b"close",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("answer", _GARBAGE.values(), ids=_GARBAGE)
def test_a_peer_that_is_no_broker_is_a_connection_error_or_a_deadline(peer: Callable[[bytes], str], kind: str, answer: bytes) -> None:
    import aio_pika

    watch = Stopwatch()
    with pytest.raises((pika.exceptions.AMQPError, aio_pika.exceptions.AMQPError, OSError)), holdfast.deadline(1.0):
        connect(kind, peer(answer))
    assert watch.took < 1.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_a_peer_that_accepts_and_is_silent_ends_at_the_deadline(peer: Callable[[bytes], str], kind: str, scheme: str) -> None:
    watch = Stopwatch()
    with pytest.raises(holdfast.DeadlineExceeded), holdfast.deadline(0.5):
        connect(kind, peer(b"").replace("amqp", scheme))
    assert watch.took < 0.9


@pytest.fixture(scope="module")
def tls_broker(broker_of_session: RabbitServer) -> Iterator[tuple[str, ssl.SSLContext]]:
    port, pem = free_port(), str(certificate())
    settings = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.certfile": pem,
        "ssl_options.keyfile": pem,
        "ssl_options.cacertfile": pem,
        "ssl_options.verify": "verify_none",
    }
    with rabbitmq_server(settings=settings) as server:
        yield server.url_at("127.0.0.1", port).replace("amqp://", "amqps://"), client_context()


@pytest.mark.realtime
@pytest.mark.parametrize("kind", KINDS)
def test_tls_is_checked_and_bound(tls_broker: tuple[str, ssl.SSLContext], kind: str) -> None:
    url, context = tls_broker
    with pytest.raises((ssl.SSLError, OSError, pika.exceptions.AMQPError)):
        connect(kind, url)  # nobody vouches for the certificate
    with holdfast.deadline(5.0):
        if kind == "sync":
            parameters = pika.URLParameters(url)
            parameters.ssl_options = pika.SSLOptions(context, "127.0.0.1")
            ours.connect(parameters).close()
        else:
            connect(kind, url, ssl_context=context)


@pytest.mark.realtime
def test_a_certificate_that_nobody_vouches_for_is_not_tried_again(tls_broker: tuple[str, ssl.SSLContext]) -> None:
    url, _ = tls_broker
    watch = Stopwatch()
    with Publisher(url) as publisher, pytest.raises(Disconnected, match="certificate"):
        publisher.publish(b"a", "receipts")
    with pytest.raises(ssl.SSLCertVerificationError):
        Consumer(url, "receipts", print).run()
    assert watch.took < 2.0
