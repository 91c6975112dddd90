"""What a WSGI application may do by PEP 3333 does not change behind a shield."""

import contextlib
import gc
import io
import time

import pytest

from holdfast.servers import Admission, Idempotency, MemoryStore, Readiness
from holdfast.servers.wsgi import Shield


def call(app, **more):
    """Status and body, as a server makes them of an application."""
    sent, told = [], []

    def start_response(status, headers, exc_info=None):
        told[:] = [status]
        return sent.append

    environ = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": "/", "QUERY_STRING": "", "wsgi.input": io.BytesIO()}
    body = app(environ | more, start_response)
    try:
        sent.extend(body)
    finally:
        if hasattr(body, "close"):
            body.close()
    return told[0], b"".join(sent)


PARTS = [{}, {"admission": Admission(2)}, {"idempotency": Idempotency(MemoryStore())}, {"readiness": Readiness()}]


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_piece_that_is_written_arrives(parts, method):
    def app(_environ, start_response):
        write = start_response("200 OK", [])
        for piece in (b"a", b"b", b"c"):
            write(piece)
        return [b"d"]

    assert call(Shield(app, **parts), REQUEST_METHOD=method, HTTP_IDEMPOTENCY_KEY="one") == ("200 OK", b"abcd")


def test_an_app_that_writes_for_ever_ends_at_its_deadline():
    written = []

    def app(_environ, start_response):
        write = start_response("200 OK", [])
        while len(written) < 1000:
            written.append(write(b"x"))
            time.sleep(0.01)
        return []

    with pytest.raises(BrokenPipeError):
        call(Shield(app, deadline=0.1))
    assert len(written) < 100


@pytest.mark.parametrize("parts", PARTS)
def test_a_body_is_closed_exactly_once(parts):
    closed = []

    class Body:
        def __iter__(self):
            return iter([b"a", b"b"])

        def close(self):
            closed.append(1)

    def app(_environ, start_response):
        start_response("200 OK", [])
        return Body()

    assert call(Shield(app, **parts), REQUEST_METHOD="POST", HTTP_IDEMPOTENCY_KEY="two") == ("200 OK", b"ab")
    assert closed == [1]


def late(_environ, start_response):
    time.sleep(0.1)
    start_response("200 OK", [])
    return [b"late"]


def late_in_pieces(environ, start_response):
    yield from late(environ, start_response)


def stamped(app):
    return Shield(app, deadline=0.05)


@pytest.mark.parametrize(
    ("shielded", "more", "status"),
    [
        (stamped(late), {}, "504"),
        (stamped(late_in_pieces), {}, "504"),
        (stamped(late), {"HTTP_X_REQUEST_TIMEOUT_MS": "0"}, "504"),
        (stamped(late), {"HTTP_X_REQUEST_START": f"t={time.time() - 60:.3f}"}, "503"),
        (Readiness([lambda: time.sleep(3)]).wsgi(late), {}, "503"),
    ],
)
def test_a_refusal_of_head_has_no_body_for_the_next_response_on_its_connection_would_begin_with_it(shielded, more, status):
    told, body = call(shielded, REQUEST_METHOD="HEAD", **more)
    assert (told[:3], body) == (status, b"")
    told, body = call(shielded, REQUEST_METHOD="GET", **more)
    assert told[:3] == status
    assert body.startswith(b"{")


def plain(_environ, start_response):
    start_response("200 OK", [])
    return [b"fine"]


def in_pieces(_environ, start_response):
    start_response("200 OK", [])
    yield from (b"fi", b"ne")


def too_late(_environ, start_response):
    time.sleep(0.02)
    start_response("200 OK", [])
    return [b"late"]


def failing(_environ, _start_response):
    raise LookupError("of the app")


@pytest.mark.realtime
@pytest.mark.parametrize("app", [plain, in_pieces, too_late, failing])
@pytest.mark.parametrize("parts", [*PARTS, {"deadline": None, "admission": Admission(2)}])
def test_a_request_leaves_nothing_for_the_garbage_collector(app, parts):
    shielded = Shield(app, **{"deadline": 0.01 if app is too_late else 5.0} | parts)

    def ask():
        with contextlib.suppress(LookupError):
            call(shielded)

    ask()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            ask()
        assert gc.collect() == 0
    finally:
        gc.enable()
