"""Answers in Redis: shared by all workers and hosts, and apart from the work itself."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from holdfast.errors import StoreUnavailable
from holdfast.scope import shield
from holdfast.servers.idempotency.asking import Asking
from holdfast.servers.idempotency.finishing import to_the_end
from holdfast.servers.idempotency.store import INTERRUPTED, Held, Interrupted, Record, Running, WhenInterrupted
from holdfast.validation import Seconds, choice, positive_seconds

if TYPE_CHECKING:
    from holdfast.clients.redis import AsyncRedis

# Take a free key, or tell what is in it and for how long yet.
_CLAIM = """
local held = redis.call('GET', KEYS[1])
if held then return {held, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
"""

# Replace what we wrote, as long as it is still ours; by nothing where there is nothing to keep.
_END = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
return 1
"""


class RedisStore:
    """Answers in Redis 6 or newer, or Valkey.

    The work's effects are elsewhere, so Redis cannot promise "exactly once" when a worker dies between the effect and the record. It
    promises what you choose:

    - `interrupted="repeat"`, at least once: a request whose worker died is run again when it is asked for after its lease.
    - `interrupted="refuse"`, at most once: it is never run again, and its repetitions are told that the outcome is not known (409).

    While nothing dies, the effect happens once with either. A Redis that is restarted without its data, or that evicts keys, forgets
    answers: give it a persistence and an eviction policy that suit your promise.

    Args:
        url: "redis://...", "rediss://..." or "unix://...".
        prefix: of its keys.
        interrupted: see above.
        timeout: seconds that one exchange may take; a Redis that does not answer in time is `StoreUnavailable` (503), and nothing runs.
            One that does not answer three times in a row is not waited for any more, until it is back (see `asking`).

    Raises:
        ValueError: an argument out of its range.
        ImportError: redis is missing.
    """

    transactional = False

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "holdfast:idempotency:",
        interrupted: WhenInterrupted = "repeat",
        timeout: Seconds = 1.0,
    ) -> None:
        try:
            from redis.exceptions import RedisError, ResponseError

            from holdfast.clients.redis import from_url
        except ImportError as error:
            raise ImportError("RedisStore needs the extra: pip install 'holdfast[redis]'") from error
        if not isinstance(cast("object", url), str) or not url.startswith(("redis://", "rediss://", "unix://")):
            # It may have a password in it, so it is not repeated.
            raise ValueError("RedisStore.url must begin with redis://, rediss:// or unix://")
        self._errors = RedisError
        self._answers = ResponseError  # the server has said no
        self._failures = (RedisError, OSError, asyncio.TimeoutError)
        self._interrupted = choice("RedisStore.interrupted", interrupted, INTERRUPTED)
        self._timeout = positive_seconds("RedisStore.timeout", timeout)
        self._prefix = prefix
        self._url = url
        self._client = from_url(url, dead_after=self._timeout, decode_responses=False)
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncRedis] = weakref.WeakKeyDictionary()
        self._asking = Asking("idempotency-redis", self._timeout)

    def claim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> RedisClaim | Held:
        """See `Store.claim`."""
        claim = RedisClaim(self, key, fingerprint, lease, ttl)
        with self._asking.guarded(), self._asking.in_time():
            try:
                held = self._take(claim)
            except self._errors as error:
                raise _unavailable(error) from error
        return claim if held is None else self._read(held)

    def _take(self, claim: RedisClaim) -> Any:
        pool: Any = self._client.connection_pool  # not typed
        connection = pool.get_connection()
        try:
            connection.send_command("EVAL", _CLAIM, 1, claim.name, claim.marker, claim.held_for)
            return connection.read_response(disconnect_on_error=False)
        except self._answers:
            raise
        except BaseException:
            # The server may still take the key when it comes to it. What follows on the same connection, in its turn, gives it back.
            with suppress(*self._failures), shield(self._timeout):
                connection.send_command("EVAL", _END, 1, claim.name, claim.marker, b"", 1, check_health=False)
            connection.disconnect()
            raise
        finally:
            pool.release(connection)

    async def aclaim(self, key: str | None, fingerprint: str, *, lease: float, ttl: float) -> RedisClaim | Held:
        """See `Store.claim`."""
        claim = RedisClaim(self, key, fingerprint, lease, ttl)
        async with self._asking.aguarded(), self._asking.ain_time():
            try:
                held = await self._atake(claim)
            except self._errors as error:
                raise _unavailable(error) from error
        return claim if held is None else self._read(held)

    async def _atake(self, claim: RedisClaim) -> Any:
        pool: Any = self._aclient().connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_command("EVAL", _CLAIM, 1, claim.name, claim.marker, claim.held_for)
            held = await connection.read_response(disconnect_on_error=False)
        except self._answers:
            await pool.release(connection)
            raise
        except BaseException:
            await to_the_end(self._agive_back(pool, connection, claim))
            raise
        await pool.release(connection)
        return held

    async def _agive_back(self, pool: Any, connection: Any, claim: RedisClaim) -> None:
        try:
            with suppress(*self._failures):  # see `_take`
                await connection.send_command("EVAL", _END, 1, claim.name, claim.marker, b"", 1, check_health=False)
            await connection.disconnect()
        finally:
            await pool.release(connection)

    def close(self) -> None:
        """Close the connections of blocking code; the next use opens them again."""
        self._client.close()

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _aclient(self) -> AsyncRedis:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            from holdfast.clients.redis import async_from_url

            client = self._clients[loop] = async_from_url(self._url, dead_after=self._timeout, decode_responses=False)
        return client

    def _read(self, held: Any) -> Held:
        """What is in a key, by whomever it was written."""
        try:
            value, left = bytes(held[0]), int(held[1]) / 1000.0
            line, _, answer = value.partition(b"\n")
            head = json.loads(line)
            state, fingerprint = str(head["state"]), str(head["fingerprint"])
            if state == "running":
                # What must not be run again is there for longer than its lease.
                over = float(head["held_for"]) / 1000.0 - float(head["lease"])
                if head["refuse"] is True and left <= over:
                    return Interrupted(fingerprint)
                return Running(fingerprint, max(0.001, left - over))
            if state == "interrupted":
                return Interrupted(fingerprint)
        except (ValueError, TypeError, KeyError, IndexError):
            return Record("", b"")  # which the part cannot read either, and says so
        return Record(fingerprint, answer)


class RedisClaim:
    """One that runs, for blocking and for async code."""

    connection = None

    def __init__(self, store: RedisStore, key: str | None, fingerprint: str, lease: float, ttl: float) -> None:
        if key is None:
            raise TypeError("RedisStore has no transactions, so a claim needs a key")
        self.name = store._prefix + key
        self.lease = lease
        refuse = store._interrupted == "refuse"
        self.held_for = math.ceil(1000 * (max(lease, ttl) if refuse else lease))
        mine = {"token": secrets.token_hex(16), "lease": lease, "held_for": self.held_for, "refuse": refuse}
        self.marker = _value({"state": "running", "fingerprint": fingerprint, **mine})
        self._store = store
        self._fingerprint = fingerprint
        self._ttl = ttl

    def keep(self, answer: bytes, *, effects: bool = True) -> bool:  # noqa: ARG002  (they are elsewhere)
        """See `Claim.keep`. False as well where Redis does not answer: the work is done, so the caller is to have the answer."""
        return self._end(self._record("done", answer))

    def free(self) -> None:
        """See `Claim.free`. Where Redis does not answer, the lease ends it."""
        self._end(b"")

    def abandon(self) -> None:
        """See `Claim.abandon`."""
        self._end(self._record("interrupted", b"") if self._store._interrupted == "refuse" else b"")

    async def akeep(self, answer: bytes, *, effects: bool = True) -> bool:  # noqa: ARG002  (they are elsewhere)
        """See `keep`."""
        return await self._aend(self._record("done", answer))

    async def afree(self) -> None:
        """See `free`."""
        await self._aend(b"")

    async def aabandon(self) -> None:
        """See `abandon`."""
        await self._aend(self._record("interrupted", b"") if self._store._interrupted == "refuse" else b"")

    def _record(self, state: str, answer: bytes) -> bytes:
        return _value({"state": state, "fingerprint": self._fingerprint}) + b"\n" + answer

    def _end(self, value: bytes) -> bool:
        try:
            return bool(self._store._client.eval(_END, 1, self.name, self.marker, value, math.ceil(1000 * self._ttl)))
        except self._store._errors:
            return False

    async def _aend(self, value: bytes) -> bool:
        try:
            client = self._store._aclient()
            return bool(await client.eval(_END, 1, self.name, self.marker, value, math.ceil(1000 * self._ttl)))
        except self._store._errors:
            return False


def _value(head: dict[str, object]) -> bytes:
    return json.dumps(head, separators=(",", ":")).encode()


def _unavailable(error: BaseException) -> StoreUnavailable:
    # Only its class: messages may have the URL in them.
    return StoreUnavailable(f"the Redis of the idempotency store cannot be used: {type(error).__name__}")
