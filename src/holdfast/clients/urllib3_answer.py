"""How urllib3's and requests' answers come off the wire: under the ambient deadline, or that of their call once they were handed on.

http.client hands the headers to the parser for mail, which takes a tenth of a whole request. Here those that any server sends are taken
apart at once; whatever is unusual (folded lines, lines without a name) still goes to that parser, so that it means what it always meant.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
from typing import Any, cast

from holdfast import net
from holdfast.deadlines import Deadline, ambient
from holdfast.net.clamp import alone

# A name that RFC 9110 allows, and a value without a line's end in it.
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\r\n]*)\r?\n")
_END = (b"\r\n", b"\n", b"")

# As in http.client: bytes in a line, lines in a header.
_LINE = 65536
_LINES = 100

# What is read of a body at once.
_PIECE = 1024 * 1024

_receive_into = socket.socket.recv_into


class Wire(socket.SocketIO):
    """What an answer is read from."""

    limit: Deadline | None = None  # of the call, once the response was handed on
    ended = False
    timeout: float | None = None  # the connection's own, of each read

    def readinto(self, b: Any) -> int | None:
        """See io."""
        limit = self.limit
        if limit is not None:
            around = ambient.get()
            if around is None or limit.at < around.at:
                token = ambient.set(limit)
                try:
                    return self._read(b)
                finally:
                    ambient.reset(token)
        return self._read(b)

    def _read(self, b: Any) -> int | None:
        sock: Any = self._sock  # type: ignore[attr-defined]  # private to http.client
        # A connection has one response at a time, so its timeout is nobody else's business.
        read = alone(sock, self.timeout, _receive_into, b) if type(sock) is net.Socket else super().readinto(b)
        if read == 0:
            self.ended = True
        return read


class Answer(http.client.HTTPResponse):
    """A response as http.client reads it."""

    wire: Wire

    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.wire = self.fp.raw  # type: ignore[assignment]  # whatever `makefile` gave it
        self.wire.__class__ = Wire  # what `makefile` makes has no hook
        self.wire.timeout = sock.gettimeout()

    def begin(self, **options: Any) -> None:
        """See http.client: read the status and the headers."""
        if cast("object", self.headers) is None:  # http.client says so before it has read them
            if self.debuglevel:
                super().begin(**options)
            else:
                self._begin()
        if self.wire.ended:  # http.client takes half of the headers for all of them
            raise http.client.RemoteDisconnected("the connection ended in the middle of the headers")

    def _begin(self) -> None:
        while True:
            version, status, reason = self._read_status()  # type: ignore[attr-defined]  # private to http.client
            headers = self._read_headers()
            # http.client skips 100 only, and takes another interim response (RFC 9110, 15.2) for the answer.
            if status >= http.client.OK or status == http.client.SWITCHING_PROTOCOLS:
                break
        if not version.startswith(("HTTP/1.", "HTTP/0.9")):
            raise http.client.UnknownProtocol(version)
        self.version = 10 if version in {"HTTP/1.0", "HTTP/0.9"} else 11
        self.code = self.status = status
        self.reason = reason.strip()
        self.headers = self.msg = headers
        self.chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.chunk_left = None
        self.will_close = self._check_close()  # type: ignore[attr-defined]  # private to http.client
        self.length = self._length(status)
        if not self.will_close and not self.chunked and self.length is None:
            self.will_close = True  # the end of the body is the end of the connection

    def _length(self, status: int) -> int | None:
        if status in {http.client.NO_CONTENT, http.client.NOT_MODIFIED} or status < http.client.OK or self._method == "HEAD":  # type: ignore[attr-defined]  # private to http.client
            return 0
        given = self.headers.get("content-length")
        if not given or self.chunked:
            return None
        try:
            length = int(given)
        except ValueError:
            return None
        return length if length >= 0 else None

    def _safe_read(self, amt: int) -> bytes:
        # A length is the peer's word: room is made for what comes, and not for what was promised. (In 3.11 http.client makes it at once.)
        pieces = []
        while amt > 0:
            piece = self.fp.read(min(amt, _PIECE))
            if not piece:
                break
            pieces.append(piece)
            amt -= len(piece)
        body = b"".join(pieces)
        if amt:
            raise http.client.IncompleteRead(body, max(0, amt))
        return body

    def _read_headers(self) -> http.client.HTTPMessage:
        lines: list[bytes] = []
        while True:
            line = self.fp.readline(_LINE + 1)
            if len(line) > _LINE:
                raise http.client.LineTooLong("header line")
            lines.append(line)
            if len(lines) > _LINES:
                raise http.client.HTTPException(f"got more than {_LINES} headers")
            if line in _END:
                return _parsed(lines)


def _parsed(lines: list[bytes]) -> http.client.HTTPMessage:
    message = http.client.HTTPMessage()
    add = message.set_raw
    for line in lines[:-1]:
        match = _HEADER.fullmatch(line)
        if match is None:
            return http.client.parse_headers(io.BytesIO(b"".join(lines)))
        name, value = match.groups()
        add(name.decode("ascii"), value.decode("iso-8859-1"))
    return message
