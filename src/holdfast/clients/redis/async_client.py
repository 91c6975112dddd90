"""The client for asyncio."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

import redis.asyncio
import redis.asyncio.client
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.clients.redis.async_connections import class_for
from holdfast.clients.redis.commands import Command, command_of, running, sent_as_one
from holdfast.clients.redis.errors import KINDS, casts_doubt, deadlines_seen
from holdfast.clients.redis.settings import DEFAULTS, Settings, alike_options, pool_options
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.drivers.backends import backend
from holdfast.policy import Policy
from holdfast.validation import Seconds

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
        return await guarded(self.settings, command, lambda: execute(*args, **options))

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

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py: WATCH, and what is asked while keys are watched. A lost connection has lost the watch, so it is one attempt."""
        execute = super().immediate_execute_command
        return await guarded(self.settings, Command(repeatable=False), lambda: execute(*args, **options))

    async def execute(self, raise_on_error: bool = True) -> Any:
        """See redis-py."""
        # Its commands are gone after an attempt, whatever comes of it.
        stack, scripts, watching = list(self.command_stack), set(self.scripts), self.watching
        command = sent_as_one((entry[0] for entry in stack), self.settings.repeatable, alone=not watching)
        execute = super().execute

        async def attempt() -> Any:
            self.command_stack, self.scripts = list(stack), set(scripts)
            return await execute(raise_on_error)

        return await guarded(self.settings, command, attempt)


class AsyncPubSub(redis.asyncio.client.PubSub):
    """redis-py's subscriptions for asyncio: waiting has no end, and the server is asked meanwhile whether it is there."""

    async def execute_command(self, *args: Any) -> None:
        """See redis-py: subscribing and its like."""
        with KINDS.translated(), deadlines_seen(), backend().cutoff(ambient.get(), clock.current.get()):
            await super().execute_command(*args)

    async def parse_response(self, block: bool = True, timeout: float = 0) -> Any:
        """See redis-py."""
        if not block:
            with KINDS.translated(), deadlines_seen(), backend().cutoff(ambient.get(), clock.current.get()):
                return await super().parse_response(block, timeout)
        token = running.set(Command(repeatable=False, waits=math.inf))
        try:
            with KINDS.translated(), deadlines_seen(), backend().cutoff(ambient.get(), clock.current.get()):
                return await super().parse_response(block, timeout)
        finally:
            running.reset(token)

    async def _reconnect(self, conn: Any, *_: Any, **__: Any) -> None:
        # redis-py would connect again before it says that the connection is lost; the next call does that.
        await conn.disconnect(nowait=True)

    _disconnect_raise_connect = _reconnect  # its name before redis-py 6


async def guarded(settings: Settings, command: Command, fn: Callable[[], Awaitable[R]]) -> R:
    """Do a command, as often as the policy says; `fn` is one attempt."""

    async def attempt() -> R:
        limit = ambient.get()
        if limit is not None and clock.now() >= limit.at:
            raise limit.exceeded(clock.now(), started=False)
        command.sent = False
        token = running.set(command)
        try:
            with deadlines_seen(), backend().cutoff(limit, clock.current.get()):
                return await fn()
        except BaseException as error:  # a block around may have been the one to cut it off
            if casts_doubt(error) or (limit is not None and clock.now() >= limit.at):
                settings.in_doubt()
            raise
        finally:
            running.reset(token)

    with KINDS.translated():
        return await settings.guarding.ado(command, attempt)
