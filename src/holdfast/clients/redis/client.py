"""The blocking client."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import redis
import redis.client
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from holdfast.clients.redis.commands import Command, command_of, running, sent_as_one
from holdfast.clients.redis.connections import class_for
from holdfast.clients.redis.errors import KINDS, casts_doubt, deadlines_seen
from holdfast.clients.redis.settings import DEFAULTS, Settings, alike_options, pool_options
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.policy import Policy
from holdfast.scope import check
from holdfast.validation import Seconds

R = TypeVar("R")


def from_url(
    url: str, *, policy: Policy | None = None, dead_after: Seconds = 5.0, repeatable: Collection[str] = (), **options: Any
) -> Redis:
    """A client with a pool of its own. Nothing is connected yet.

    Args:
        url: `redis://user:password@host:6379/0`, `rediss://` for TLS, or `unix:///path`.
        policy: what guards every command, with its retry; None for deadlines only.
        dead_after: seconds, > 0, after which a vanished server is noticed; also the timeout of connecting and of each read, unless
            `socket_connect_timeout` or `socket_timeout` says otherwise.
        repeatable: names of commands that may be done again although they may have run, beside those that do no harm twice.
        options: of `redis.Redis.from_url`.

    Raises:
        ValueError, TypeError: an argument is out of its range, or not of its kind, or would undo what this is for.
    """
    settings = Settings(policy, dead_after, repeatable)
    parsed: dict[str, Any] = dict(parse_url(url))
    kind = class_for(parsed.get("connection_class"))
    arguments = pool_options(parsed, options, settings.dead_after, Retry(NoBackoff(), 0))
    return _made(kind, settings, arguments)


def like(client: Any, *, dead_after: Seconds = 5.0) -> Redis | None:
    """A client to the same server as another of redis-py, with the same credentials, and connections of ours.

    Returns:
        None where its connections are not redis-py's usual ones, so that their server is not to be known (Sentinel).
    """
    settings = Settings(None, dead_after, ())
    kind = class_for(client.connection_pool.connection_class)
    return None if kind is None else _made(kind, settings, alike_options(client, settings.dead_after, Retry(NoBackoff(), 0)))


def _made(kind: Any, settings: Settings, arguments: dict[str, Any]) -> Redis:
    pool = redis.ConnectionPool(connection_class=kind, **{**arguments, "dead_after": settings.dead_after})
    made = Redis(connection_pool=pool)
    made.auto_close_connection_pool = True
    made.settings = settings
    return made


class Redis(redis.Redis):
    """redis-py's client behind a policy. Make one with `from_url`."""

    settings: Settings = DEFAULTS

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py: every command comes through here."""
        command = command_of(args, self.settings.repeatable)
        execute = super().execute_command
        return guarded(self.settings, command, lambda: execute(*args, **options))

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        """See redis-py. Sent as one, it is one attempt; it is done again where each of its commands may be."""
        made = Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.settings = self.settings
        return made

    def pubsub(self, **options: Any) -> PubSub:
        """See redis-py."""
        return PubSub(self.connection_pool, **options)

    def client(self) -> Redis:
        """See redis-py: one with a connection of its own."""
        made = Redis(connection_pool=self.connection_pool, single_connection_client=True)
        made.settings = self.settings
        return made


class Pipeline(redis.client.Pipeline):
    """redis-py's pipeline behind a policy."""

    settings: Settings = DEFAULTS

    def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py: WATCH, and what is asked while keys are watched. A lost connection has lost the watch, so it is one attempt."""
        execute = super().immediate_execute_command
        return guarded(self.settings, Command(repeatable=False), lambda: execute(*args, **options))

    def execute(self, raise_on_error: bool = True) -> Any:
        """See redis-py."""
        # Its commands are gone after an attempt, whatever comes of it.
        stack, scripts, watching = list(self.command_stack), set(self.scripts), self.watching
        command = sent_as_one((entry[0] for entry in stack), self.settings.repeatable, alone=not watching)
        execute = super().execute

        def attempt() -> Any:
            self.command_stack, self.scripts = list(stack), set(scripts)
            return execute(raise_on_error)

        return guarded(self.settings, command, attempt)


class PubSub(redis.client.PubSub):
    """redis-py's subscriptions: waiting for a message has no end, and the server is asked meanwhile whether it is there."""

    def execute_command(self, *args: Any) -> Any:
        """See redis-py: subscribing and its like."""
        with KINDS.translated(), deadlines_seen():
            return super().execute_command(*args)

    def parse_response(self, block: bool = True, timeout: Any = 0) -> Any:
        """See redis-py; no message is an error where the deadline has passed, or a loop would ask for ever."""
        if not block:
            with KINDS.translated(), deadlines_seen():
                found = super().parse_response(block, timeout)
                if found is None:
                    check()
                return found
        token = running.set(Command(repeatable=False, waits=float("inf")))
        try:
            with KINDS.translated(), deadlines_seen():
                return super().parse_response(block, timeout)
        finally:
            running.reset(token)

    def _reconnect(self, conn: Any, *_: Any, **__: Any) -> None:
        # redis-py would connect again before it says that the connection is lost; the next call does that.
        conn.disconnect()

    _disconnect_raise_connect = _reconnect  # its name before redis-py 6


def guarded(settings: Settings, command: Command, fn: Callable[[], R]) -> R:
    """Do a command, as often as the policy says; `fn` is one attempt."""

    def attempt() -> R:
        limit = ambient.get()
        if limit is not None and clock.now() >= limit.at:
            raise limit.exceeded(clock.now(), started=False)
        command.sent = False
        token = running.set(command)
        try:
            with deadlines_seen():
                return fn()
        except Exception as error:
            if casts_doubt(error):
                settings.in_doubt()
            raise
        finally:
            running.reset(token)

    with KINDS.translated():
        return settings.guarding.do(command, attempt)
