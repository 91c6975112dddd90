"""The client for asyncio."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import redis.asyncio
import redis.asyncio.client
import redis.asyncio.connection
from redis import exceptions
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.clients.redis.commands import Command, command_of, is_repeatable, running
from holdfast.clients.redis.connections import PING
from holdfast.clients.redis.errors import deadlines_seen, translated
from holdfast.clients.redis.settings import DEFAULTS, Settings, alike_options, pool_options
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.drivers.backends import backend
from holdfast.net import TcpOptions
from holdfast.net.aconnect import aconnect
from holdfast.policy import Policy
from holdfast.validation import Seconds

_Base: Any = object  # redis-py's AbstractConnection comes behind it

R = TypeVar("R")


def async_from_url(
    url: str, *, policy: Policy | None = None, dead_after: Seconds = 5.0, repeatable: Collection[str] = (), **options: Any
) -> AsyncRedis:
    """A client for asyncio; arguments and errors are those of `from_url`."""
    settings = Settings(policy, dead_after, repeatable)
    parsed: dict[str, Any] = dict(parse_url(url))
    kind = class_for(parsed.get("connection_class"))
    arguments = pool_options(parsed, options, settings.dead_after, Retry(NoBackoff(), 0))
    return _made(kind, settings, arguments)


def async_like(client: Any, *, dead_after: Seconds = 5.0) -> AsyncRedis | None:
    """See `client.like`, for asyncio."""
    settings = Settings(None, dead_after, ())
    kind = class_for(client.connection_pool.connection_class)
    return None if kind is None else _made(kind, settings, alike_options(client, settings.dead_after, Retry(NoBackoff(), 0)))


def _made(kind: Any, settings: Settings, arguments: dict[str, Any]) -> AsyncRedis:
    pool: Any = redis.asyncio.ConnectionPool(connection_class=kind, **{**arguments, "dead_after": settings.dead_after})
    made = AsyncRedis(connection_pool=pool)
    made.auto_close_connection_pool = True
    made.settings = settings
    return made


class AsyncRedis(redis.asyncio.Redis):
    """redis-py's client for asyncio behind a policy. Make one with `async_from_url`."""

    settings: Settings = DEFAULTS

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py: every command comes through here."""
        command = command_of(args, self.settings.repeatable)
        execute = super().execute_command
        return await _guarded(self.settings, command, lambda: execute(*args, **options))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> AsyncPipeline:
        """See redis-py. Sent as one, it is one attempt; it is done again where each of its commands may be."""
        made = AsyncPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.settings = self.settings
        return made

    def pubsub(self, **options: Any) -> AsyncPubSub:
        """See redis-py."""
        return AsyncPubSub(self.connection_pool, **options)

    def client(self) -> AsyncRedis:
        """See redis-py: one with a connection of its own."""
        made = AsyncRedis(connection_pool=self.connection_pool, single_connection_client=True)
        made.settings = self.settings
        return made


class AsyncPipeline(redis.asyncio.client.Pipeline):
    """redis-py's pipeline for asyncio behind a policy."""

    settings: Settings = DEFAULTS

    async def execute(self, raise_on_error: bool = True) -> Any:
        """See redis-py."""
        # Its commands are gone after an attempt, whatever comes of it.
        stack, scripts, watching = list(self.command_stack), set(self.scripts), self.watching
        also = self.settings.repeatable
        command = Command(repeatable=not watching and all(is_repeatable(entry[0], also) for entry in stack))
        execute = super().execute

        async def attempt() -> Any:
            self.command_stack, self.scripts = list(stack), set(scripts)
            return await execute(raise_on_error)

        return await _guarded(self.settings, command, attempt)


class AsyncPubSub(redis.asyncio.client.PubSub):
    """redis-py's subscriptions for asyncio: waiting has no end, and the server is asked meanwhile whether it is there."""

    async def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """See redis-py."""
        if not block:
            return await super().parse_response(block, timeout)
        token = running.set(Command(repeatable=False, waits=math.inf))
        try:
            with translated(), deadlines_seen(), backend().cutoff(ambient.get(), clock.current.get()):
                return await super().parse_response(block, timeout)
        finally:
            running.reset(token)

    async def _reconnect(self, conn: Any, *_: Any, **__: Any) -> None:
        # redis-py would connect again before it says that the connection is lost; the next call does that.
        await conn.disconnect(nowait=True)

    _disconnect_raise_connect = _reconnect  # its name before redis-py 6


async def _guarded(settings: Settings, command: Command, fn: Callable[[], Awaitable[R]]) -> R:
    async def attempt() -> R:
        limit = ambient.get()
        if limit is not None and clock.now() >= limit.at:
            raise limit.exceeded(clock.now(), started=False)
        command.sent = False
        token = running.set(command)
        try:
            with deadlines_seen(), backend().cutoff(limit, clock.current.get()):
                return await fn()
        finally:
            running.reset(token)

    with translated():
        return await settings.guarding.ado(command, attempt)


class _Bounded(_Base):  # type: ignore[misc]  # see there
    """What our connections have in common.

    Args:
        dead_after: seconds after which a vanished server is noticed.
        options: of redis-py.
    """

    socket_timeout: Any
    _reader: Any
    _writer: Any

    def __init__(self, *, dead_after: float = 5.0, **options: Any) -> None:
        self._dead_after = dead_after
        self._greeting = 0  # while it says hello, what is sent is not the user's command
        super().__init__(**options)

    async def connect(self) -> None:
        """See redis-py."""
        self._greeting += 1
        try:
            await super().connect()
        except BaseException:
            # Cut off between question and answer of its greeting, it would take that answer for another's.
            await self.disconnect(nowait=True)
            raise
        finally:
            self._greeting -= 1

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """See redis-py."""
        if not self.is_connected:
            await self.connect()
        by = running.get()
        if by is not None and not self._greeting:
            by.sent = True
        await super().send_packed_command(command, check_health)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        by = running.get()
        if by is None or not by.waits or self._greeting:
            return await super().read_response(*args, **options)
        own = self.socket_timeout
        self.socket_timeout = None if by.waits == math.inf else by.waits + self._dead_after
        reading = asyncio.ensure_future(super().read_response(*args, **options))
        try:
            while not (await asyncio.wait({reading}, timeout=self._dead_after / 2))[0]:
                await self._ask(self._dead_after / 2)
            return reading.result()
        except BaseException:  # the command is on its way, and its answer must not be the next one's
            reading.cancel()
            await self.disconnect(nowait=True)
            raise
        finally:
            self.socket_timeout = own

    async def _ask(self, within: float) -> None:
        gone = exceptions.ConnectionError("the server does not answer, on a new connection neither")
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(within):
                reader, writer = await self._open()
                writer.write(PING)
                answered = await reader.read(1)
        except OSError as error:  # TimeoutError is one
            raise gone from error
        finally:
            if writer is not None:
                writer.transport.abort()
        if not answered:
            raise gone

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection without a greeting."""
        sock = await aconnect((self.host, self.port), TcpOptions(dead_after=self._dead_after).as_list())
        try:
            return await asyncio.open_connection(sock=sock, **self._tls())
        except BaseException:
            sock.close()
            raise

    def _tls(self) -> dict[str, Any]:
        return {}

    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            self._reader, self._writer = await self._open()


class AsyncConnection(_Bounded, redis.asyncio.Connection):
    """redis-py's connection for asyncio, bounded."""


class AsyncTLSConnection(_Bounded, redis.asyncio.SSLConnection):
    """redis-py's connection over TLS for asyncio, bounded."""

    def _tls(self) -> dict[str, Any]:
        return {"ssl": self.ssl_context.get(), "server_hostname": self.host}


class AsyncUnixConnection(_Bounded, redis.asyncio.UnixDomainSocketConnection):
    """redis-py's connection over a socket file for asyncio, bounded."""

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)


_OURS: dict[type | None, Any] = {
    None: AsyncConnection,
    redis.asyncio.Connection: AsyncConnection,
    redis.asyncio.SSLConnection: AsyncTLSConnection,
    redis.asyncio.UnixDomainSocketConnection: AsyncUnixConnection,
}


def class_for(theirs: type | None) -> Any:
    """Ours in the place of redis-py's, None where there is none; `theirs` is None for the usual one."""
    return theirs if theirs in _OURS.values() else _OURS.get(theirs)
