"""What Sentinels are asked, and the clients of the servers that they name: what is the same for blocking and for async code."""

# redis-py's annotations are partial.
# mypy: allow-untyped-calls

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from redis.backoff import NoBackoff

from holdfast.clients.redis.settings import Settings, pool_options
from holdfast.policy import Policy
from holdfast.validation import Seconds

C = TypeVar("C")


class Discovery(Generic[C]):
    """redis-py's Sentinel, whose clients are behind a policy; redis-py's own class comes behind this one.

    Args:
        sentinels: host and port of each.
        policy: what guards every command of the clients; None for deadlines only.
        dead_after: seconds, > 0, after which a vanished server is noticed; see `from_url`.
        repeatable: names of commands that may be done again although they may have run.
        min_other_sentinels: how many others a Sentinel must know so that its word counts.
        sentinel_kwargs: options of the connections to the Sentinels, such as their password.
        options: of the connections to the servers, as for `redis.Redis`.

    Raises:
        ValueError, TypeError: an argument is out of its range, or not of its kind.
    """

    _library: ClassVar[Any]  # redis-py's module of this
    _retry: ClassVar[type[Any]]  # its class of retries

    # Of redis-py's own.
    sentinels: Any
    connection_kwargs: Any
    check_master_state: Any
    filter_slaves: Any

    def __init__(
        self,
        sentinels: Iterable[tuple[str, int]],
        *,
        policy: Policy | None = None,
        dead_after: Seconds = 5.0,
        repeatable: Collection[str] = (),
        min_other_sentinels: int = 0,
        sentinel_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._rules = (policy, dead_after, repeatable)
        self._dead_after = Settings(*self._rules).dead_after
        super().__init__([], min_other_sentinels, {}, **options)  # type: ignore[call-arg]  # redis-py's
        self.sentinels = [self._to_sentinel(*address, sentinel_kwargs or {}) for address in sentinels]
        self._client_options({})  # what is wrong with them is said here

    def master_for(self, service_name: str, **options: Any) -> C:
        """A client of whichever server is the master. `options` are those of its connections."""
        return self._made(service_name, self._client_options(options), is_master=True)

    def slave_for(self, service_name: str, **options: Any) -> C:
        """A client of the replicas, in turn, and of the master where there is none."""
        return self._made(service_name, self._client_options(options), is_master=False)

    def replica_for(self, service_name: str, **options: Any) -> C:
        """The same as `slave_for`."""
        return self.slave_for(service_name, **options)

    @abstractmethod
    def _made(self, service_name: str, options: dict[str, Any], *, is_master: bool) -> C:
        """A client whose connections ask the Sentinels."""

    @abstractmethod
    def _to_sentinel(self, host: str, port: int, options: Mapping[str, Any]) -> C:
        """A client of a Sentinel."""

    def _client_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return self._bounded({}, {**self.connection_kwargs, **options})

    def _bounded(self, parsed: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of connections; see `pool_options`."""
        return {**pool_options(parsed, options, self._dead_after, self._retry(NoBackoff(), 0)), "dead_after": self._dead_after}

    def _master(self, name: str, sentinel: C, masters: Any) -> tuple[str, int]:
        """Who is the master, by what a Sentinel says of its masters; raises where it does not know."""
        state = masters.get(name)
        if not state or not self.check_master_state(state, name):
            raise self._library.MasterNotFoundError(f"no master found for {name!r}")
        self._put_first(sentinel)
        return state["ip"], state["port"]

    def _replicas(self, name: str, sentinel: C, replicas: Any) -> list[tuple[str, int]]:
        """Who is a replica and serves, by what a Sentinel says of them; raises where there is none."""
        found = [*self.filter_slaves(replicas)]
        if not found:
            raise self._library.SlaveNotFoundError(f"no replica found for {name!r}")
        self._put_first(sentinel)
        return found

    def _put_first(self, sentinel: C) -> None:
        self.sentinels = [sentinel, *(each for each in self.sentinels if each is not sentinel)]
