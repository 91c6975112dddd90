"""The client of a cluster for asyncio; what `cluster` says holds here too, but for the map: the first command asks for it."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable
from typing import Any

import redis.asyncio.cluster
from redis import exceptions
from redis.asyncio.cluster import ClusterNode, PipelineCommand, PipelineStrategy
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.clients.redis.async_client import AsyncPubSub, guarded
from holdfast.clients.redis.async_connections import class_for
from holdfast.clients.redis.cluster_map import EVERY, REDIRECTIONS, cluster_options, half, in_order, map_errors, raise_if_over
from holdfast.clients.redis.commands import command_of, sent_as_one
from holdfast.clients.redis.settings import Settings
from holdfast.clients.redis.turns import afirst_answer
from holdfast.drivers import clock
from holdfast.policy import Policy
from holdfast.validation import Seconds


def async_cluster_from_url(
    url: str,
    *,
    policy: Policy | None = None,
    dead_after: Seconds = 5.0,
    repeatable: Collection[str] = (),
    startup_nodes: Iterable[tuple[str, int]] = (),
    **options: Any,
) -> AsyncRedisCluster:
    """A client of a cluster for asyncio; arguments are those of `cluster_from_url`. Nothing is connected yet."""
    rules = (policy, dead_after, repeatable)
    address, arguments = cluster_options(parse_url(url), options, Settings(*rules).dead_after, class_for)
    nodes = [redis.asyncio.cluster.ClusterNode(*each) for each in (address, *startup_nodes)]
    kind = arguments.pop("connection_class")
    made = AsyncRedisCluster(startup_nodes=nodes, retry=Retry(NoBackoff(), 0), reinitialize_steps=0, **arguments)
    made._begin(Settings(*rules, in_doubt=made._doubt), kind)
    return made


class AsyncRedisCluster(redis.asyncio.cluster.RedisCluster):
    """redis-py's client of a cluster for asyncio, behind a policy. Make one with `async_cluster_from_url`."""

    settings: Settings

    def _begin(self, settings: Settings, kind: type[Any]) -> None:
        self.settings = settings
        self._in_doubt = False
        self._suspect = ""
        self._refreshed = -math.inf
        self.connection_kwargs["connection_class"] = kind  # which is the map's too
        for node in self.nodes_manager.startup_nodes.values():
            node.connection_class = kind

    def _doubt(self) -> None:
        self._in_doubt = True

    async def initialize(self, *_: Any, **__: Any) -> AsyncRedisCluster:
        """See redis-py. What is in use stays connected when the map is not to be had."""
        self._lock = self._lock or asyncio.Lock()
        if self._initialize:
            async with self._lock:
                if self._initialize:
                    await self._refresh(self.settings.dead_after)
        elif self._in_doubt and not self._lock.locked() and clock.now() >= self._refreshed + EVERY:
            async with self._lock:
                try:
                    await self._refresh(half(self.settings.dead_after))
                except (exceptions.RedisError, OSError) as error:
                    raise_if_over(error)  # the old map may still serve
        return self

    async def _refresh(self, seconds: float) -> None:
        try:
            await afirst_answer(self._ask_for_map, in_order(self.nodes_manager.startup_nodes.values(), self._suspect), seconds)
            self._initialize = self._in_doubt = False
        finally:
            self._refreshed = clock.now()

    async def _ask_for_map(self, node: ClusterNode) -> None:
        manager = self.nodes_manager
        every, manager.startup_nodes = manager.startup_nodes, {node.name: node}
        try:
            with map_errors():
                await manager.initialize()
        finally:
            manager.startup_nodes = every
        if manager._dynamic_startup_nodes:
            manager.set_nodes(every, manager.nodes_cache, remove_old=True)
        await self.commands_parser.initialize(manager.default_node)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py: every command comes through here."""
        command = command_of(args, self.settings.repeatable)
        return await guarded(self.settings, command, lambda: self.once(*args, **options))

    async def once(self, *args: Any, **options: Any) -> Any:
        """One attempt at a command."""
        await self.initialize()
        return await super().execute_command(*args, **options)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> AsyncClusterPipeline:
        """See redis-py. It is one attempt; it is done again where each of its commands may be."""
        if shard_hint:
            raise exceptions.RedisClusterException("shard_hint is deprecated in cluster mode")
        return AsyncClusterPipeline(self, transaction)  # type: ignore[abstract]  # of an attribute that no pipeline has

    def pubsub(self, node: Any = None, host: Any = None, port: Any = None, **options: Any) -> AsyncClusterPubSub:
        """See redis-py."""
        return AsyncClusterPubSub(self, node=node, host=host, port=port, **options)

    async def _execute_command(self, target_node: ClusterNode, *args: Any, **options: Any) -> Any:
        node, asking = target_node, False
        for _ in range(REDIRECTIONS):
            try:
                return await _ask(node, asking, args, dict(options))
            except exceptions.AskError as told:  # MovedError is one
                asking = not isinstance(told, exceptions.MovedError)
                self._in_doubt |= not asking
                node = await self._node_of(told, node)
            except BaseException:
                self._suspect = node.name
                raise
        raise exceptions.ClusterError("the cluster's nodes send this command in a circle")

    async def _node_of(self, told: exceptions.AskError, asked: ClusterNode) -> ClusterNode:
        host, port = self.nodes_manager.remap_host_port(told.host or asked.host, told.port)  # no host: the one that was asked
        found: ClusterNode | None = self.get_node(host, port)
        if found is None:
            await self._refresh(self.settings.dead_after)
            found = self.get_node(host, port)
        if found is None:
            raise exceptions.ClusterDownError(f"sent to {host}:{port}, which is not on the cluster's map")
        return found


class AsyncClusterPubSub(AsyncPubSub, redis.asyncio.cluster.ClusterPubSub):
    """redis-py's subscriptions at a cluster's nodes: waiting has no end, and the node is asked meanwhile whether it is there."""


class AsyncClusterPipeline(redis.asyncio.cluster.ClusterPipeline):
    """redis-py's pipeline for a cluster in asyncio, behind a policy."""

    cluster_client: AsyncRedisCluster

    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> Any:
        """See redis-py."""
        client, strategy = self.cluster_client, self._execution_strategy
        stack: list[Any] = [*getattr(strategy, "_command_queue", ())]
        plain = isinstance(strategy, PipelineStrategy)
        command = sent_as_one((each.args for each in stack), client.settings.repeatable, alone=plain)
        execute = super().execute

        async def attempt() -> Any:
            await client.initialize()
            return await (self._send(strategy, stack, raise_on_error) if plain else execute(raise_on_error, allow_redirections))

        try:
            return await guarded(client.settings, command, attempt)
        finally:
            await self.reset()

    async def _send(self, strategy: Any, stack: list[Any], raise_on_error: bool) -> list[Any]:
        """Send each node its commands, and those elsewhere that it sends there. redis-py would also send again what may have run."""
        sent = [PipelineCommand(each.position, *each.args, **each.kwargs) for each in stack]  # it uses them up
        if sent:
            await strategy._execute(self.cluster_client, sent, raise_on_error=False, allow_redirections=False)
        for each in sent:
            if isinstance(each.result, (exceptions.ConnectionError, exceptions.TimeoutError)):
                raise each.result
            if isinstance(each.result, (exceptions.AskError, exceptions.TryAgainError)):
                each.result = await self._elsewhere(each)
            if raise_on_error and isinstance(each.result, Exception):
                strategy._annotate_exception(each.result, each.position + 1, each.args)
                raise each.result
        return [each.result for each in sent]

    async def _elsewhere(self, command: Any) -> Any:
        self.cluster_client._doubt()
        try:
            return await self.cluster_client.once(*command.args, **command.kwargs)
        except exceptions.ResponseError as error:
            return error


async def _ask(node: ClusterNode, asking: bool, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    connection = node.acquire_connection()
    try:
        await node.disconnect_if_needed(connection)
        if asking:
            await connection.send_command("ASKING")
            await connection.read_response()
        await connection.send_packed_command(connection.pack_command(*args))
        return await node.parse_response(connection, args[0], **options)
    finally:
        try:
            await node.disconnect_if_needed(connection)
        finally:
            node.release(connection)
