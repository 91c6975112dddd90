"""The network below urllib3 and requests: connections that obey the ambient deadline and notice the first byte written, and responses that
obey the deadline of their call for as long as they are read.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
from urllib3.response import HTTPResponse
from urllib3.util import SKIP_HEADER

from holdfast import net
from holdfast.clients.exchange import FAILURE_BODY, Exchange, finish, running, wrote
from holdfast.clients.urllib3_answer import Answer
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.flow import Call
from holdfast.net.clamp import alone
from holdfast.net.sockets import sendall_plain
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict

_PIECE = 16 * 1024
# A header with a name that RFC 9110 allows, and a value of visible ASCII.
_LINE = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [ -~]*")
# Timers ring a rounding early, and a socket's timeout of 0 would mean: do not wait.
_GRAIN = 1e-3


class HTTPConnection(urllib3.connection.HTTPConnection):
    """A connection whose every operation obeys the ambient deadline."""

    response_class = Answer
    timeout: float | None

    def _new_conn(self) -> socket.socket:
        host = self._dns_host.strip("[]") if self._dns_host.startswith("[") else self._dns_host
        try:
            host.encode("idna")
        except UnicodeError:
            raise LocationParseError(f"'{host}', label empty or too long") from None
        options = cast("list[tuple[int, int, int | bytes]]", self.socket_options or [])
        try:
            sock = net.connect((host, self.port), self.timeout, self.source_address, options)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out. (connect timeout={self.timeout})") from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def _tunnel(self) -> None:
        token = running.set(None)  # CONNECT is not the request
        try:
            super()._tunnel()
        finally:
            running.reset(token)

    def putheader(self, header: Any, *values: Any) -> None:
        """See http.client, which takes apart and puts together what nearly always is one line of ASCII."""
        if len(values) == 1 and header.__class__ is str and values[0].__class__ is str and values[0] != SKIP_HEADER:
            line = f"{header}: {values[0]}"
            if _LINE.fullmatch(line):
                self._output(line.encode("ascii"))  # type: ignore[attr-defined]  # private to http.client
                return
        super().putheader(header, *values)

    def send(self, data: Any) -> None:
        """See http.client; what is sent when the connection stands is the request."""
        if self.sock is None and self.auto_open:
            self.connect()
        wrote()
        if type(data) is bytes and type(self.sock) is net.Socket and self.debuglevel == 0:
            alone(self.sock, self.timeout, sendall_plain, data)
        else:
            super().send(data)


class HTTPSConnection(HTTPConnection, urllib3.connection.HTTPSConnection):
    """The same with TLS, whatever context it is given: the handshake goes by the socket's timeout, which bounds the whole of it."""

    def connect(self) -> None:
        """See urllib3."""
        limit = ambient.get()
        try:
            urllib3.connection.HTTPSConnection.connect(self)
        except TimeoutError as error:
            now = clock.now()
            if limit is not None and now >= limit.at - _GRAIN:
                raise limit.exceeded(now) from error
            raise
        self.sock = _obeying(self.sock)
        self.sock.settimeout(self.timeout)

    def _new_conn(self) -> socket.socket:
        return cast("socket.socket", _hurried(super()._new_conn()))

    def _tunnel(self) -> None:
        super()._tunnel()
        _hurried(self.sock)

    def _connect_tls_proxy(self, hostname: str, sock: socket.socket) -> ssl.SSLSocket:
        return cast("ssl.SSLSocket", _hurried(_obeying(super()._connect_tls_proxy(hostname, sock))))


def _hurried(sock: Any) -> Any:
    """The socket, with a timeout no longer than what is left: for the handshake, which its class does not bound yet."""
    limit, own = ambient.get(), sock.gettimeout()
    if limit is not None:
        left = max(_GRAIN, limit.remaining(clock.now()))
        sock.settimeout(left if own is None else min(left, own))
    return sock


def _obeying(sock: Any) -> Any:
    if type(sock) is ssl.SSLSocket:  # a context with a class of its own keeps it
        sock.__class__ = net.TLSSocket
    return sock


# Raises the client's own error where the given one is ours; returns where it is not.
Translate: TypeAlias = Callable[[Exception, Exchange], None]


class _Lease:
    """What a response holds that is still being read: its place in the limit, its permit of the breaker."""

    __slots__ = ("_call", "_exchange", "translate")

    def __init__(self, call: Call, exchange: Exchange, translate: Translate) -> None:
        self._call: Call | None = call
        self._exchange = exchange
        self.translate = translate

    def end(self, verdict: Verdict, error: Exception | None = None) -> None:
        call, self._call = self._call, None
        if call is not None:
            finish(call, self._exchange.failed, verdict, error)

    def raise_ours(self, error: Exception) -> None:
        self.translate(error, self._exchange)


class Lent(HTTPResponse):
    """A response that is still being read: under the call's deadline, and with its place and permit until it is read or closed."""

    _lease: _Lease
    _breaking = False

    @contextmanager
    def _error_catcher(self) -> Iterator[None]:
        try:
            with super()._error_catcher():
                try:
                    yield
                except Exception as error:
                    self._lease.end(FAILURE, error)
                    raise
        except Exception as error:
            self._lease.raise_ours(error)
            raise

    def release_conn(self) -> None:
        """See urllib3. A connection whose response was not read to its end is closed."""
        self._lease.end(SUCCESS)
        answer = self._original_response
        if self._connection is not None and answer is not None and not answer.isclosed():
            if self.length_remaining == 0:
                answer.close()
            else:
                self._connection.close()
        super().release_conn()

    def close(self) -> None:
        """See urllib3."""
        if not self._breaking:
            self._lease.end(SUCCESS)
        super().close()

    def _update_chunk_length(self) -> None:
        self._breaking = True  # urllib3 closes a response here before it says what is wrong with it
        try:
            super()._update_chunk_length()
        finally:
            self._breaking = False

    def __del__(self) -> None:
        self._lease.end(IGNORED)  # nobody closed it: that says nothing about the server, but its place is needed
        self.close()
        self.release_conn()  # and so is the connection's place in its pool


def lend(response: Any, call: Call, exchange: Exchange, translate: Translate) -> None:
    """Hand on a response that is still to be read."""
    answer = getattr(response, "_original_response", None)
    if type(response) is not HTTPResponse or not isinstance(answer, Answer):
        call.close(SUCCESS, clock.now())  # somebody else's response: nobody would tell when it ends
        return
    answer.wire.limit = call.deadline
    response.__class__ = Lent  # urllib3 makes its responses itself, and has no hook
    response._lease = _Lease(call, exchange, translate)  # type: ignore[attr-defined]  # it has become a Lent


class _Rest:
    """A body whose beginning was read already."""

    def __init__(self, chunks: list[bytes], rest: Any) -> None:
        self._start = io.BytesIO(b"".join(chunks))
        self._rest = rest

    def read(self, amount: int | None = None) -> bytes:
        if amount is None:
            return self._start.read() + cast("bytes", self._rest.read())
        return self._start.read(amount) or cast("bytes", self._rest.read(amount))

    def read1(self, amount: int = -1) -> bytes:
        return self._start.read(amount) or cast("bytes", self._rest.read1(amount))

    def isclosed(self) -> bool:
        return self._start.tell() == len(self._start.getbuffer()) and bool(self._rest.isclosed())

    @property
    def closed(self) -> bool:
        return self.isclosed()

    def close(self) -> None:
        self._start.seek(0, io.SEEK_END)
        self._rest.close()


def read_failure(response: Any) -> bool:
    """Read the body of a failure that may be followed by another attempt, so that its connection is free; it stays to be read by the user.

    Returns:
        Whether it has been read to its end. A long one is not, and is the answer.
    """
    length = response.length_remaining
    if length is not None and length > FAILURE_BODY:
        return False
    chunks: list[bytes] = []
    size = 0
    while size <= FAILURE_BODY:
        chunk = response.read(_PIECE, decode_content=False)
        if not chunk:
            break
        chunks.append(chunk)
        size += len(chunk)
    whole = size <= FAILURE_BODY
    response._fp = io.BytesIO(b"".join(chunks)) if whole else _Rest(chunks, response._fp)
    response._fp_bytes_read = 0
    response.length_remaining = size if whole else None
    return whole
