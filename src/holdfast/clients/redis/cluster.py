"""The blocking client of a cluster.

    redis = holdfast.clients.redis.cluster_from_url("redis://node1:6379", policy=carts, startup_nodes=[("node2", 6379)])

It is redis-py's, and finds the nodes of commands as that does. What is different:

1. An attempt goes to one node, and where that sends it (MOVED, ASK). redis-py's own further attempts, and its pauses, are off.
2. A node that did not answer, or MOVED, puts the map of the cluster in doubt: the next attempt begins with asking for it, each node for its
   share of half of the time, the suspected one last. So a deadline that is shorter than everything still leads to the new master.
"""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable
from typing import Any, cast

import redis.cluster
from redis import exceptions
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, PipelineCommand, PipelineStrategy
from redis.connection import parse_url
from redis.retry import Retry

from holdfast.clients.redis.client import PubSub, guarded
from holdfast.clients.redis.cluster_map import EVERY, REDIRECTIONS, cluster_options, half, in_order, map_errors, raise_if_over
from holdfast.clients.redis.commands import Command, command_of, sent_as_one
from holdfast.clients.redis.connections import class_for
from holdfast.clients.redis.settings import Settings
from holdfast.clients.redis.turns import first_answer
from holdfast.drivers import clock
from holdfast.policy import Policy
from holdfast.validation import Seconds

_Base: Any = object  # redis-py's client comes behind it


def cluster_from_url(
    url: str,
    *,
    policy: Policy | None = None,
    dead_after: Seconds = 5.0,
    repeatable: Collection[str] = (),
    startup_nodes: Iterable[tuple[str, int]] = (),
    **options: Any,
) -> RedisCluster:
    """A client of a cluster, which is asked for its map at once, within the ambient deadline and by the policy.

    Args:
        url: `redis://user:password@host:6379` of one of its nodes, or `rediss://` for TLS.
        policy: what guards every command, with its retry; None for deadlines only.
        dead_after: seconds, > 0, after which a vanished server is noticed; see `from_url`.
        repeatable: names of commands that may be done again although they may have run.
        startup_nodes: host and port of others that may be asked for the map.
        options: of `redis.cluster.RedisCluster`, and of connections.

    Raises:
        DeadlineExceeded: the ambient deadline, or the policy's, passed.
        redis.ConnectionError: no node answers.
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """
    rules = (policy, dead_after, repeatable)
    settings = Settings(*rules)
    address, arguments = cluster_options(parse_url(url), options, settings.dead_after, class_for)

    def first_map() -> RedisCluster:
        return first_answer(lambda each: _made(rules, each, arguments), [address, *startup_nodes], settings.dead_after)

    return guarded(settings, Command(repeatable=True), first_map)


def _made(rules: tuple[Policy | None, Seconds, Collection[str]], address: tuple[str, int], arguments: dict[str, Any]) -> RedisCluster:
    host, port = address
    with map_errors():
        made: Any = redis.cluster.RedisCluster(
            url=f"redis://{f'[{host}]' if ':' in host else host}:{port}", retry=Retry(NoBackoff(), 0), reinitialize_steps=0, **arguments
        )
    # redis-py makes its own map, pools and pipelines, and asks for the map while it is made: so ours are put over them now.
    made.__class__ = RedisCluster
    nodes = made.nodes_manager
    nodes.__class__ = _Nodes
    made.settings = Settings(*rules, in_doubt=nodes.initialize)
    nodes.in_doubt, nodes.suspect, nodes.dead_after = False, "", made.settings.dead_after
    nodes.refreshing, nodes.refreshed = threading.Lock(), -math.inf
    return cast("RedisCluster", made)


class _Nodes(redis.cluster.NodesManager):
    """redis-py's map of the cluster, which is made anew only when an attempt begins."""

    in_doubt: bool
    suspect: str
    dead_after: float
    refreshing: threading.Lock
    refreshed: float  # when the map was last asked for

    def initialize(self, *_: Any, **__: Any) -> None:
        """See redis-py, which does this wherever something has failed, also when the time is over."""
        self.in_doubt = True

    def refresh(self) -> None:
        """Ask for the map, if it is in doubt. That takes half of the time that is left at most: the old map may still serve."""
        if not self.in_doubt or clock.now() < self.refreshed + EVERY or not self.refreshing.acquire(timeout=half(self.dead_after)):
            return
        try:
            if self.in_doubt:
                self.ask_for_map(half(self.dead_after))
        except (exceptions.RedisError, OSError) as error:
            raise_if_over(error)
        finally:
            self.refreshed = clock.now()
            self.refreshing.release()

    def ask_for_map(self, seconds: float) -> None:
        """Ask one node after the other. Raises what the last one raised."""
        first_answer(self._ask, in_order(self.startup_nodes.values(), self.suspect), seconds)
        self.in_doubt = False

    def _ask(self, node: ClusterNode) -> None:
        every, self.startup_nodes = self.startup_nodes, {node.name: node}
        try:
            with map_errors():
                super().initialize()
        finally:
            if self.startup_nodes.keys() == {node.name}:
                self.startup_nodes = every


class _Routing(_Base):  # type: ignore[misc]  # see there
    """An attempt at a command, which goes to a node, and where that sends it."""

    def _execute_command(self, target_node: ClusterNode, *args: Any, **options: Any) -> Any:
        node, asking = target_node, False
        for _ in range(REDIRECTIONS):
            try:
                return self._ask_node(node, asking, args, dict(options))
            except exceptions.AskError as told:  # MovedError is one
                asking = not isinstance(told, exceptions.MovedError)
                self.nodes_manager.in_doubt |= not asking
                node = self._node_of(told, node)
            except BaseException:
                self.nodes_manager.suspect = node.name
                raise
        raise exceptions.ClusterError("the cluster's nodes send this command in a circle")

    def _ask_node(self, node: ClusterNode, asking: bool, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        client = self.get_redis_connection(node)
        connection = client.connection_pool.get_connection()
        try:
            if asking:
                connection.send_command("ASKING")
                connection.read_response()
            connection.send_command(*args, **options)
            answer = client.parse_response(connection, args[0], **options)
        finally:
            client.connection_pool.release(connection)
        callback = self.cluster_response_callbacks.get(args[0])
        options.pop("keys", None)
        return answer if callback is None else callback(answer, **options)

    def _node_of(self, told: exceptions.AskError, asked: ClusterNode) -> ClusterNode:
        host, port = self.nodes_manager.remap_host_port(told.host or asked.host, told.port)  # no host: the one that was asked
        found: ClusterNode | None = self.get_node(host, port)
        if found is None:
            self.nodes_manager.ask_for_map(self.nodes_manager.dead_after)
            found = self.get_node(host, port)
        if found is None:
            raise exceptions.ClusterDownError(f"sent to {host}:{port}, which is not on the cluster's map")
        return found


class RedisCluster(_Routing, redis.cluster.RedisCluster):
    """redis-py's client of a cluster, behind a policy. Make one with `cluster_from_url`."""

    settings: Settings
    nodes_manager: _Nodes

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py: every command comes through here."""
        execute = super().execute_command

        def attempt() -> Any:
            self.nodes_manager.refresh()
            return execute(*args, **options)

        return guarded(self.settings, command_of(args, self.settings.repeatable), attempt)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """See redis-py. It is one attempt; it is done again where each of its commands may be."""
        made: Any = super().pipeline(transaction, shard_hint)
        made.__class__, made.settings = ClusterPipeline, self.settings
        return cast("ClusterPipeline", made)

    def close(self) -> None:
        """Close the connections too, which redis-py leaves to the garbage collector."""
        self.disconnect_connection_pools()
        super().close()

    def pubsub(self, node: Any = None, host: Any = None, port: Any = None, **options: Any) -> ClusterPubSub:
        """See redis-py."""
        return ClusterPubSub(self, node=node, host=host, port=port, **options)


class ClusterPubSub(PubSub, redis.cluster.ClusterPubSub):
    """redis-py's subscriptions at a cluster's nodes: waiting has no end, and the node is asked meanwhile whether it is there."""


class ClusterPipeline(_Routing, redis.cluster.ClusterPipeline):
    """redis-py's pipeline for a cluster, behind a policy."""

    settings: Settings
    nodes_manager: _Nodes

    def execute(self, raise_on_error: bool = True) -> Any:
        """See redis-py."""
        strategy: Any = self._execution_strategy
        stack = [*strategy.command_queue]
        plain = isinstance(strategy, PipelineStrategy)
        command = sent_as_one((each.args for each in stack), self.settings.repeatable, alone=plain)
        execute = super().execute

        def attempt() -> Any:
            self.nodes_manager.refresh()
            return self._send(strategy, stack, raise_on_error) if plain else execute(raise_on_error)

        try:
            return guarded(self.settings, command, attempt)
        finally:
            self.reset()

    def _send(self, strategy: Any, stack: list[PipelineCommand], raise_on_error: bool) -> list[Any]:
        """Send each node its commands, and those elsewhere that it sends there. redis-py would also send again what may have run."""
        sent: list[Any] = [PipelineCommand(each.args, dict(each.options), each.position) for each in stack]  # it uses them up
        strategy._send_cluster_commands(sent, raise_on_error=False, allow_redirections=False)
        for each in sent:
            if isinstance(each.result, (exceptions.ConnectionError, exceptions.TimeoutError)):
                raise each.result
            if isinstance(each.result, (exceptions.AskError, exceptions.TryAgainError)):
                each.result = self._elsewhere(each)
            if raise_on_error and isinstance(each.result, Exception):
                self.annotate_exception(each.result, each.position + 1, each.args)
                raise each.result
        return [each.result for each in sent]

    def _elsewhere(self, command: PipelineCommand) -> Any:
        try:
            self.nodes_manager.in_doubt = True
            return self.parent_execute_command(*command.args, **command.options)
        except exceptions.ResponseError as error:
            return error
