"""Bodies of responses of httpx and httpx2: one that was begun to be read, and one that its reader reads under the call's deadline.

Both libraries want their own class below a stream, so `over` puts these over it.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from holdfast.clients.exchange import Exchange, finish
from holdfast.clients.httpx_pools import heal
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.drivers.backends import backend
from holdfast.flow import Call
from holdfast.outcome import FAILURE, IGNORED, SUCCESS, Verdict
from holdfast.scope import check

# Seconds for which one body may keep the loop.
_TURN = 0.01

# Raises the client's own error where the given one is ours; returns where it is not.
Translate = Callable[[Exception], None]


@functools.cache
def over(base: type, body: type) -> type[Any]:
    """The body as a stream of the library that `base` is of."""
    return type(body.__name__, (body, base), {"__doc__": body.__doc__})


class Rest:
    """A body whose beginning may have been read already.

    Between its pieces the deadline is asked: of small ones there may be thousands in hand, and no wait that it would end.
    """

    def __init__(self, chunks: list[bytes], rest: Iterator[bytes], stream: Any) -> None:
        self._chunks = chunks
        self._rest = rest
        self._stream = stream

    @property
    def elapsed(self) -> Any:
        """How long it took: httpx2 asks its streams."""
        return getattr(self._stream, "elapsed", None)

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        for chunk in self._rest:
            check()
            yield chunk

    def close(self) -> None:
        """Close the connection's side of it."""
        self._stream.close()


class AsyncRest:
    """See `Rest`. Here the loop gets a turn between pieces, in which the deadline ends the task."""

    def __init__(self, chunks: list[bytes], rest: AsyncIterator[bytes], stream: Any) -> None:
        self._chunks = chunks
        self._rest = rest
        self._stream = stream

    @property
    def elapsed(self) -> Any:
        """See `Rest.elapsed`."""
        return getattr(self._stream, "elapsed", None)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        async for chunk in _in_turns(self._rest):
            yield chunk

    async def aclose(self) -> None:
        """Close the connection's side of it."""
        await self._stream.aclose()


async def _in_turns(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    turn = clock.now()
    async for chunk in chunks:
        if clock.now() - turn > _TURN:
            await backend().sleep(0.0)
            turn = clock.now()
        yield chunk


class _Held:
    """A response that is still being read: with its place and permit until it is read, closed, or forgotten.

    Args:
        inner: the stream.
        exchange: the exchange, with the call that ends with the stream.
        translate: see `Translate`.
        pools: where its connection may be.
    """

    def __init__(self, inner: Any, exchange: Exchange, call: Call, translate: Translate, pools: list[Any]) -> None:
        self._inner = inner
        self._exchange = exchange
        self._call: Call | None = call
        self._limit = call.deadline
        self._translate = translate
        self._pools = pools

    @property
    def elapsed(self) -> Any:
        """How long it took: httpx2 asks its streams."""
        return getattr(self._inner, "elapsed", None)

    def _end(self, verdict: Verdict, error: Exception | None = None) -> None:
        call, self._call = self._call, None
        if call is not None:
            finish(call, self._exchange.failed, verdict, error)

    def _fail(self, error: Exception) -> None:
        self._end(FAILURE, error)
        self._translate(error)

    def __del__(self) -> None:
        self._end(IGNORED)  # nobody closed it: that says nothing about the server, but its place is needed


class Lent(_Held):
    """See `_Held`. Each piece is read under the call's deadline."""

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._inner)
        while True:
            token = ambient.set(self._limit)
            try:
                check()
                chunk = next(chunks)
            except StopIteration:
                self._end(SUCCESS)
                return
            except Exception as error:
                self._fail(error)
                raise
            finally:
                ambient.reset(token)
            yield chunk

    def close(self) -> None:
        """Close it, and give back what it holds."""
        self._end(SUCCESS)
        self._inner.close()


class AsyncLent(_Held):
    """See `_Held`. Each piece is read under the call's deadline."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks = _in_turns(self._inner.__aiter__())
        loop = backend()
        while True:
            try:
                with loop.cutoff(self._limit, clock.current.get()):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                self._end(SUCCESS)
                return
            except Exception as error:
                self._fail(error)
                raise
            yield chunk

    async def aclose(self) -> None:
        """Close it, and give back what it holds."""
        self._end(SUCCESS)
        try:
            await self._inner.aclose()
        finally:
            await heal(self._pools, self._inner)
