"""Locks in a Redis or Valkey server.

Three scripts (`scripts/`), each atomic. A lock is a key with a random owner and a time to live. Whoever waits stands in a queue and sleeps
on a list of its own, so a release wakes one, the first; who dies in the queue is forgotten after `_PATIENCE` seconds.

Each block has a client of its own, whose operations obey the deadline and which does not retry beside the lock. It is closed with the
block.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any

import redis
import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from holdfast.clients.redis import async_from_url
from holdfast.clients.redis import from_url as client_from_url
from holdfast.clients.redis.async_client import async_like
from holdfast.clients.redis.client import like
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded, LockTaken, StoreUnavailable
from holdfast.mutex.store import as_unavailable
from holdfast.mutex.whole import whole
from holdfast.scope import check, deadline, shield

# Seconds for one question to the server. A lock is for programs beside it; one that does not answer in this time answers nobody.
_WITHIN = 1.0
# Seconds for leaving the queue, and giving back what may have been given without our hearing of it; after them it ends by its ttl.
_LEAVE_WITHIN = 0.05
# Seconds for which a waiter is known to wait, and how often it asks at least.
_PATIENCE = 2.0
_ASK_EVERY = 0.5
# Between questions to a server that does not answer.
_AGAIN = 0.05
# Milliseconds for which the last token is remembered; after them the server's clock has long passed it.
_REMEMBERED = 86_400_000


def from_url(url: str) -> RedisStore:
    """A store in the server of this URL. What is wrong with it is said now, and without quoting it: it has a password in it."""
    try:
        client_from_url(url).close()
    except ValueError:
        raise ValueError(
            "lock.store must be a URL like redis://user:password@host:6379/0, special characters of a password as %XX, redis-py options"
        ) from None
    return RedisStore(lambda: client_from_url(url, dead_after=_WITHIN), lambda: async_from_url(url, dead_after=_WITHIN))


def from_client(client: object) -> RedisStore:
    """A store in the server of an existing client, blocking or async.

    Where the client's connections are redis-py's usual ones, the lock makes its own to the same server, which obey the deadline. Otherwise
    (Sentinel) the client itself is asked, and its own timeouts hold.
    """
    if isinstance(client, redis.asyncio.Redis):
        return RedisStore(
            _refuse("the lock's store is a client for asyncio: use `async with`"),
            lambda: async_like(client, dead_after=_WITHIN) or client,
            client,
        )
    if isinstance(client, redis.Redis):
        return RedisStore(
            lambda: like(client, dead_after=_WITHIN) or client, _refuse("the lock's store is a blocking client: use `with`"), client
        )
    raise TypeError(f"lock.store must be a URL, a client of redis-py or a store, got {type(client).__name__}")


def _refuse(message: str) -> Callable[[], Any]:
    def refuse() -> Any:
        raise TypeError(message)

    return refuse


class RedisStore:
    """See `Store`.

    Args:
        client: makes a blocking client.
        async_client: makes one for asyncio.
        users: a client that is the user's, and is left open.
    """

    def __init__(self, client: Callable[[], Any], async_client: Callable[[], Any], users: object = None) -> None:
        self._users = users
        self._client = client
        self._async_client = async_client

    def take(self, name: str, ttl: float, wait: float) -> RedisGrant:
        """See `Store.take`."""
        client = self._client()
        grant = RedisGrant(client, name, client is not self._users)
        try:
            turn = _Turn(name, wait)
            while True:
                check()
                grant.asked = clock.now()
                try:
                    pause = grant.hear(grant.ask("acquire", *turn.question(ttl)))
                except StoreUnavailable as error:
                    pause = turn.unanswered(error)
                    clock.current.get().sleep(pause)
                    continue
                if pause is None:
                    return grant
                grant.doze(turn.pause(pause))
        except BaseException:
            with suppress(Exception), shield(_LEAVE_WITHIN):
                grant.release()
            raise

    async def atake(self, name: str, ttl: float, wait: float) -> RedisGrant:
        """See `Store.take`."""
        client = self._async_client()
        grant = RedisGrant(client, name, client is not self._users)
        try:
            turn = _Turn(name, wait)
            while True:
                check()
                grant.asked = clock.now()
                try:
                    pause = grant.hear(await grant.aask("acquire", *turn.question(ttl)))
                except StoreUnavailable as error:
                    pause = turn.unanswered(error)
                    await asyncio.sleep(pause)
                    continue
                if pause is None:
                    return grant
                await grant.adoze(turn.pause(pause))
        except BaseException:
            with suppress(Exception):
                async with shield(_LEAVE_WITHIN):
                    await grant.arelease()
            raise


class _Turn:
    """One caller's wait for a lock.

    Args:
        name: of the lock.
        wait: seconds.
    """

    def __init__(self, name: str, wait: float) -> None:
        self._name = name
        self._end = clock.now() + wait

    def question(self, ttl: float) -> tuple[int, int, int]:
        """Of `acquire`: the ttl, how long we are known to wait, how long the token is remembered; in milliseconds."""
        waits = clock.now() < self._end
        return max(1, int(ttl * 1000)), int(_PATIENCE * 1000) if waits else 0, max(_REMEMBERED, int(ttl * 2000))

    def pause(self, hint: float) -> float:
        """Seconds to sleep before asking again, unless woken. Raises LockTaken when the wait is over."""
        left = self._end - clock.now()
        if left <= 0:
            raise LockTaken(self._name, max(0.0, hint))
        return max(0.01, min(left, hint + 0.002, _ASK_EVERY))

    def unanswered(self, error: StoreUnavailable) -> float:
        """The same after no answer; raises it when the wait is over."""
        left = self._end - clock.now()
        if left <= 0:
            raise error
        return min(left, _AGAIN)


class RedisGrant:
    """See `Grant`; also what asks for it.

    Args:
        client: blocking or async.
        name: of the lock.
        ends_client: whether the client is closed with it.
    """

    def __init__(self, client: Any, name: str, ends_client: bool) -> None:
        self._client = client
        self._ends_client = ends_client
        self._owner = secrets.token_hex(16)
        base = f"holdfast:lock:{{{name}}}"
        self._keys = {"lock": base, "token": f"{base}:token", "queue": f"{base}:queue", "waiters": f"{base}:waiters"}
        self._bell = f"{base}:waiters:{self._owner}"
        self.token = 0
        self.asked = 0.0

    def hear(self, answer: Any) -> float | None:
        """The answer of `acquire`: None where the lock is ours, else seconds until asking again may help.

        Raises:
            StoreUnavailable: it is not an answer of ours.
        """
        try:
            granted, value = int(answer[0]), int(answer[1])
        except (TypeError, ValueError, IndexError) as error:
            raise StoreUnavailable("the lock's store gave an answer that is none of ours") from error
        if granted:
            self.token = value
            return None
        return max(0.0, value / 1000)

    def renew(self, ttl: float) -> bool:
        """See `Grant.renew`."""
        return bool(self.ask("renew", max(1, int(ttl * 1000))))

    async def arenew(self, ttl: float) -> bool:
        """See `Grant.renew`."""
        return bool(await self.aask("renew", max(1, int(ttl * 1000))))

    def release(self) -> bool:
        """See `Grant.release`."""
        try:
            return bool(self.ask("release"))
        finally:
            if self._ends_client:
                self._client.close()

    async def arelease(self) -> bool:
        """See `Grant.release`."""
        return await whole(self._arelease())

    async def _arelease(self) -> bool:
        try:
            return bool(await self.aask("release"))
        finally:
            if self._ends_client:
                await self._client.aclose()

    # Asking.

    def ask(self, script: str, *arguments: int) -> Any:
        """Run a script. Raises StoreUnavailable, and DeadlineExceeded where the caller's deadline passed."""
        keys = [self._keys[key] for key in _KEYS[script]]
        with _asking():
            try:
                return self._client.evalsha(_script(script)[1], len(keys), *keys, self._owner, *arguments)
            except NoScriptError:  # the first time, or after a restart
                return self._client.eval(_script(script)[0], len(keys), *keys, self._owner, *arguments)

    async def aask(self, script: str, *arguments: int) -> Any:
        """See `ask`."""
        keys = [self._keys[key] for key in _KEYS[script]]
        async with _aasking():
            try:
                return await self._client.evalsha(_script(script)[1], len(keys), *keys, self._owner, *arguments)
            except NoScriptError:
                return await self._client.eval(_script(script)[0], len(keys), *keys, self._owner, *arguments)

    def doze(self, seconds: float) -> None:
        """Sleep until somebody rings, at most this long."""
        began = clock.now()
        try:
            self._client.blpop([self._bell], timeout=seconds)
        except (RedisError, OSError):
            check()
            clock.current.get().sleep(max(0.0, min(_AGAIN, seconds - (clock.now() - began))))

    async def adoze(self, seconds: float) -> None:
        """See `doze`."""
        began = clock.now()
        try:
            await self._client.blpop([self._bell], timeout=seconds)
        except (RedisError, OSError):
            check()
            await asyncio.sleep(max(0.0, min(_AGAIN, seconds - (clock.now() - began))))


_KEYS = {"acquire": ("lock", "token", "queue", "waiters"), "release": ("lock", "queue", "waiters"), "renew": ("lock",)}


@cache
def _script(name: str) -> tuple[str, str]:
    """Its text, and the name that the server gives it."""
    text = files("holdfast.mutex").joinpath(f"scripts/{name}.lua").read_text("utf-8")
    return text, sha1(text.encode()).hexdigest()  # noqa: S324  (the server's choice)


@contextmanager
def _asking() -> Iterator[None]:
    outer = ambient.get()
    try:
        with deadline(_WITHIN):
            yield
    except (DeadlineExceeded, RedisError, OSError) as error:
        raise as_unavailable(error, outer) from error


@asynccontextmanager
async def _aasking() -> AsyncIterator[None]:
    outer = ambient.get()
    try:
        async with deadline(_WITHIN):
            yield
    except (DeadlineExceeded, RedisError, OSError) as error:
        raise as_unavailable(error, outer) from error
