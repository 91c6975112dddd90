"""once: what everybody needs and one is enough to make: a cache that is filled when it is first asked for.

Ten workers that each load 100 MB for their first requests are a gigabyte, and every request that comes meanwhile begins to load it again.

    @once
    def catalogue() -> Catalogue: ...                       # per process: threads wait for the first

    @once(file="/var/cache/shop/catalogue.bin", load=open_catalogue)
    def catalogue(path: Path) -> None: ...                  # per machine: one process makes the file, all load it

1. One makes it, everybody else who asks meanwhile waits for it, no longer than until their own deadline.
2. What was made stays, for ever or for `ttl` seconds.
3. A failure is kept for `failure_ttl` seconds, also for those who waited: it is no reason for a hundred further attempts. After that
   the next one tries.
4. A maker that is cut off (by its own deadline, by a cancellation) has not failed: the next one who waits takes over.
5. A fork inherits what was made, and nothing that is being made.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import time
from collections.abc import Callable, Coroutine
from inspect import Parameter, iscoroutine, iscoroutinefunction, signature
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar, cast, overload

from holdfast import scope
from holdfast.deadlines import ambient
from holdfast.drivers import clock
from holdfast.errors import DeadlineExceeded
from holdfast.locks import Guarded
from holdfast.scope import deadline
from holdfast.servers import machine_lock
from holdfast.validation import Seconds, positive_seconds, wait_seconds

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Waiters are woken when there is something to see; without a deadline they look now and then.
_LONGEST_WAIT = 3600.0


class Once(Protocol[T_co]):
    """What `once` makes of a function: call it for the value. Of an `async def` the value is awaited."""

    def __call__(self) -> T_co:
        """The value, made by one for all.

        Raises:
            DeadlineExceeded: it was not there by the ambient deadline.
        """
        ...

    def forget(self) -> None:
        """Have it made anew when it is next asked for."""
        ...


class _Decorator(Protocol):
    def __call__(self, make: Callable[[], T], /) -> Once[T]: ...


@overload
def once(make: Callable[[], T], /) -> Once[T]: ...


@overload
def once(*, ttl: Seconds | None = None, failure_ttl: Seconds = 1.0) -> _Decorator: ...


@overload
def once(
    *, file: str | os.PathLike[str], load: Callable[[Path], T], ttl: Seconds | None = None, failure_ttl: Seconds = 1.0
) -> Callable[[Callable[[Path], object]], Once[T]]: ...


def once(
    make: Callable[[], Any] | None = None,
    /,
    *,
    file: str | os.PathLike[str] | None = None,
    load: Callable[[Path], Any] | None = None,
    ttl: Seconds | None = None,
    failure_ttl: Seconds = 1.0,
) -> Any:
    """Make something once, however many ask for it. A decorator for functions without parameters, plain or `async def`.

    Args:
        make: the function, where the decorator is used without parentheses.
        file: what is made is this file, once for all processes of the machine: the function gets a path to write to, which then becomes the
            file in one step. It is made again when it is older than `ttl`; a new version of your program wants a new name.
        load: makes the value from the file, once per process.
        ttl: seconds for which a value is used, > 0; None for ever.
        failure_ttl: seconds for which a failure is everybody's, >= 0.

    Raises:
        TypeError: the function has parameters, or `file` comes without `load`.
        ValueError: a time is out of its range.
    """
    if (file is None) != (load is None):
        raise TypeError("once(file=..., load=...) come together: who writes the file, and who reads it")
    keep = None if ttl is None else positive_seconds("once.ttl", ttl)
    sorry = wait_seconds("once.failure_ttl", failure_ttl)

    def decorate(make: Callable[..., Any]) -> Callable[[], Any]:
        _check(make, 0 if file is None else 1)
        if iscoroutinefunction(make):
            if file is not None:
                raise TypeError("once(file=...) takes a plain function; call what it returns by asyncio.to_thread")
            return _Awaited(cast("Callable[[], Coroutine[Any, Any, Any]]", make), keep, sorry)
        if file is not None and load is not None:
            return _Blocking(_from_file(Path(file), make, load, keep), keep, sorry)
        return _Blocking(make, keep, sorry)

    return decorate if make is None else decorate(make)


def _check(make: object, parameters: int) -> None:
    if not callable(make):
        raise TypeError(f"once takes a function, got {make!r}")
    optional = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    needed = [one for one in signature(make).parameters.values() if one.default is Parameter.empty and one.kind not in optional]
    if len(needed) != parameters:
        what = "no parameters" if not parameters else "one parameter, the path to write to"
        raise TypeError(f"once takes a function with {what}; {getattr(make, '__qualname__', make)} has {len(needed)}")


class _Made(Guarded, Generic[T]):
    """What was made, for how long it counts, and whether somebody is making it."""

    def __init__(self, ttl: float | None, failure_ttl: float) -> None:
        super().__init__()
        self._ttl = ttl
        self._failure_ttl = failure_ttl
        self._value: list[T] = []
        self._failure: Exception | None = None
        self._until = 0.0
        self._flight: object | None = None

    def _known(self, now: float) -> list[T] | Exception | None:
        """The value in a list, the failure, or None where it has to be made."""
        if self._value and (self._ttl is None or now < self._until):
            return self._value
        if self._failure is not None and now < self._until:
            return self._failure
        return None

    def _succeeded(self, value: T, now: float) -> None:
        self._value = [value]
        self._failure = None
        self._until = now + (self._ttl or 0.0)

    def _failed(self, error: Exception, now: float) -> None:
        self._value = []
        self._failure = error
        self._until = now + self._failure_ttl

    def forget(self) -> None:
        """Have it made anew when it is next asked for."""
        with self._lock:
            self._value = []
            self._failure = None

    def _after_fork(self) -> None:
        self._flight = None


def _again(error: Exception) -> Exception:
    """The failure, to be raised by one more: a twin, since one instance would collect the traceback of everybody who raises it."""
    with contextlib.suppress(Exception):
        twin = copy.copy(error)
        if type(twin) is type(error):
            return twin
    return error


class _Flight:
    """Somebody makes it, and these wait for that."""

    def __init__(self) -> None:
        self.waiting: list[Lock] = []


class _Blocking(_Made[T]):
    """For threads."""

    def __init__(self, make: Callable[[], T], ttl: float | None, failure_ttl: float) -> None:
        super().__init__(ttl, failure_ttl)
        self._make = make
        self.__doc__ = make.__doc__

    def __call__(self) -> T:
        """What was made.

        Raises:
            DeadlineExceeded: it was not there by the ambient deadline.
        """
        while True:
            scope_clock = clock.current.get()
            with self._lock:
                known = self._known(scope_clock.now())
                gate, flight = None, _Flight()
                if known is None and self._flight is not None:
                    gate = Lock()
                    gate.acquire()
                    cast("_Flight", self._flight).waiting.append(gate)
                elif known is None:
                    self._flight = flight
            if isinstance(known, Exception):
                raise _again(known)
            if known is not None:
                return known[0]
            if gate is None:
                return self._fly(flight)
            scope.check()
            scope_clock.wait(gate, min(scope.remaining(), _LONGEST_WAIT))
            scope.check()

    def _fly(self, flight: _Flight) -> T:
        try:
            value = self._make()
            if iscoroutine(value):
                value.close()
                raise TypeError("once got a coroutine from a plain function; decorate an `async def`")
        except BaseException as error:
            self._land(flight, None, error)
            raise
        self._land(flight, [value], None)
        return value

    def _land(self, flight: _Flight, value: list[T] | None, error: BaseException | None) -> None:
        with self._lock:
            if value is not None:
                self._succeeded(value[0], clock.now())
            elif isinstance(error, Exception) and not _is_cut_off(error):
                self._failed(error, clock.now())
            if self._flight is flight:
                self._flight = None
        for gate in flight.waiting:
            gate.release()


class _Awaited(_Made[T]):
    """For tasks of an event loop."""

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], ttl: float | None, failure_ttl: float) -> None:
        super().__init__(ttl, failure_ttl)
        self._make = make
        self.__doc__ = make.__doc__

    async def __call__(self) -> T:
        """What was made; see `_Blocking`."""
        while True:
            known = self._known(clock.now())
            if isinstance(known, Exception):
                raise _again(known)
            if known is not None:
                return known[0]
            flight = cast("asyncio.Future[None] | None", self._flight)
            if flight is None or flight.get_loop() is not asyncio.get_running_loop():
                return await self._fly()
            async with deadline(inf):  # the ambient one
                await asyncio.shield(flight)

    async def _fly(self) -> T:
        self._flight = flight = asyncio.get_running_loop().create_future()
        try:
            value = await self._make()
        except Exception as error:
            if not _is_cut_off(error):
                self._failed(error, clock.now())
            raise
        else:
            self._succeeded(value, clock.now())
            return value
        finally:
            if self._flight is flight:
                self._flight = None
            if not flight.done():
                flight.set_result(None)


def _is_cut_off(error: Exception) -> bool:
    """Whether it was the maker's own deadline that ended it."""
    limit = ambient.get()
    return limit is not None and isinstance(error, DeadlineExceeded) and limit.encloses(error)


def _from_file(path: Path, make: Callable[[Path], object], load: Callable[[Path], T], ttl: float | None) -> Callable[[], T]:
    """A function that loads the file, made before by whichever process of the machine comes first."""

    def loaded() -> T:
        if not _is_fresh(path, ttl):
            with machine_lock.held(path.with_name(f"{path.name}.lock")):
                if not _is_fresh(path, ttl):  # another process may have made it while this one waited
                    _make_file(path, make)
        return load(path)

    return loaded


def _is_fresh(path: Path, ttl: float | None) -> bool:
    try:
        made = path.stat().st_mtime
    except FileNotFoundError:
        return False
    return ttl is None or time.time() - made < ttl


def _make_file(path: Path, make: Callable[[Path], object]) -> None:
    # A name of its own beside it: what a killed process left is overwritten, and a half-written one is never read.
    unfinished = path.with_name(f"{path.name}.unfinished")
    make(unfinished)
    unfinished.replace(path)
