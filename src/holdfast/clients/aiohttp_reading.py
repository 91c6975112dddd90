"""A response of aiohttp whose body still comes: it holds place and permit, and obeys its call's deadline, until it ends or is forgotten."""

from __future__ import annotations

import asyncio
import functools
import math
import weakref
from collections.abc import Callable
from typing import Any, cast

import aiohttp

from holdfast.clients.exchange import finish, is_failure
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded
from holdfast.flow import Call
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict


class Reading:
    """A response whose body still comes, with the place and permit of its call.

    Whatever waits for the body waits in its stream, so the deadline ends the stream: one timer, whoever reads and however.

    Args:
        response: the response.
        call: what ends with it.
        convert: makes the client's own error of a deadline's.
    """

    __slots__ = ("_alarm", "_call", "_connection", "_content", "_convert", "_failed", "_response")

    def __init__(self, response: aiohttp.ClientResponse, call: Call, convert: Callable[[DeadlineExceeded], Exception]) -> None:
        self._call: Call | None = call
        self._convert = convert
        self._failed = is_failure(response.status)
        self._content = response.content
        self._connection = connection = cast("aiohttp.connector.Connection", response.connection)
        self._response = weakref.ref(response)
        self._alarm: asyncio.TimerHandle | None = None
        limit = call.deadline
        if limit is not None and limit.at < math.inf:
            time = clock.current.get()
            self._alarm = asyncio.get_running_loop().call_later(time.delay(limit.remaining(time.now())), self._expire, call)
        connection.add_callback(self._released)
        _make_forgettable(response, self)

    def _released(self) -> None:
        # The body has come, or somebody closed the response, perhaps because it broke; aiohttp's word for "closed" is this very class.
        if self._alarm is not None:
            self._alarm.cancel()
        error = self._content.exception()
        if isinstance(error, Exception) and type(error) is not aiohttp.ClientConnectionError:
            self._end(FAILURE, error)
        else:
            self._end(SUCCESS)

    def _expire(self, call: Call) -> None:
        limit = call.deadline
        if limit is None:
            return
        error = self._convert(limit.exceeded(max(clock.now(), limit.at), attempt=call.attempt))
        self._end(FAILURE, error)
        self._content.set_exception(error)
        response = self._response()
        if response is not None:
            response.close()
        transport = self._connection.transport
        self._connection.close()
        if transport is not None:
            transport.abort()  # TLS would wait for the peer's last word, 30 s from one that is silent

    def forgotten(self) -> None:
        """Nobody has the response any more: that says nothing about the server, but its place is needed.

        Somebody may have its stream, so the connection lives until the body has come, or until the deadline.
        """
        self._end(IGNORED)
        self._content.on_eof(self._connection.release)

    def _end(self, verdict: Verdict, error: Exception | None = None) -> None:
        call, self._call = self._call, None
        if call is not None:
            finish(call, self._failed, verdict, error)


class _Forgettable:
    """A response that can be forgotten. aiohttp's cannot while its body comes: the stream, which the loop holds, holds the response."""

    _reading: Reading | None = None

    def __del__(self) -> None:
        reading, response = self._reading, cast("Any", self)
        if reading is not None and response._connection is not None:
            response._connection = None
            reading.forgotten()
        super().__del__()  # type: ignore[misc]  # a response of aiohttp comes behind it


def _make_forgettable(response: aiohttp.ClientResponse, reading: Reading) -> None:
    ours = cast("Any", response)
    ours.__class__ = _forgettable(cast("Any", type(response)))  # only here: most bodies come with their headers
    ours._reading = reading
    callbacks = cast("Any", response.content)._eof_callbacks
    callbacks[:] = [callback for callback in callbacks if callback != ours._response_eof]
    response.content.on_eof(functools.partial(_ended, weakref.ref(ours)))


def _ended(response: weakref.ref[Any]) -> None:
    if (alive := response()) is not None:
        alive._response_eof()


@functools.cache
def _forgettable(base: type[Any]) -> type[Any]:
    return type(base.__name__, (_Forgettable, base), {"__doc__": base.__doc__})
