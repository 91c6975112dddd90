"""The driver for async code: steps are done by awaiting. What differs between asyncio and trio is in `backends`."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Token
from inspect import isawaitable
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from holdfast.deadlines import Deadline, ambient, restore
from holdfast.drivers.backends import Backend, Cutoff, backend
from holdfast.drivers.clock import Clock, current, now
from holdfast.errors import Rejected
from holdfast.events import listeners
from holdfast.flow import Call
from holdfast.lanes import refuse, rescue
from holdfast.outcome import Reading
from holdfast.plan import Plan, Queue, Sleep, Step
from holdfast.race import Race, falls_back

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
R = TypeVar("R")


def wrap(plan: Plan, fn: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """The async `fn` behind the policy, with its name, its documentation and its signature."""
    if plan.light:
        return _wrap_light(plan, fn)
    through = _run_layered if plan.layered else _run
    circuit = None if plan.layered else plan.circuit

    @functools.wraps(fn)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if circuit is not None and circuit.open_until > 0.0:
            moment = current.get().now()
            if moment < circuit.open_until:
                raise refuse(circuit, moment)
        return await through(plan, fn, args, kwargs)

    return guarded


def _wrap_light(plan: Plan, fn: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    @functools.wraps(fn)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if listeners:
            return await _run(plan, fn, args, kwargs)
        try:
            return await fn(*args, **kwargs)
        except Exception as error:
            rescued = rescue(plan, error, now(), ambient.get())
            if rescued is None:
                raise
        call, delay = rescued
        await _pause(call, delay, backend(), current.get())
        return await _run(plan, fn, args, kwargs, call)

    return guarded


def run(
    plan: Plan, fn: Callable[..., Awaitable[R]], args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading | None = None
) -> Coroutine[Any, Any, R]:
    """Call the async `fn` through the policy."""
    if plan.layered:
        return _run_layered(plan, fn, args, kwargs, reading)
    return _run(plan, fn, args, kwargs, None, reading)


async def _run(
    plan: Plan,
    fn: Callable[..., Awaitable[R]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    call: Call | None = None,
    reading: Reading | None = None,
) -> R:
    """Make the attempts of a call; `call` where it began without one, and goes on."""
    clock = current.get()
    now = clock.now()
    loop = backend()
    if call is None:
        call = Call(plan, now, ambient.get(), reading)
    try:
        while True:
            step = call.admit(now)
            while step is not None:
                step = await _do(call, step, loop, clock)
            limit = call.limit
            token = ambient.set(limit)
            try:
                if limit is None:
                    result: R = await _awaitable(fn, fn(*args, **kwargs))
                else:
                    with loop.cutoff(limit, clock):
                        awaited = fn(*args, **kwargs) if kwargs else fn(*args)
                        # A coroutine is by far the usual case, and asking about it here is cheap.
                        result = await (awaited if awaited.__class__ is CoroutineType else _awaitable(fn, awaited))
            except BaseException as error:
                delay = call.failed(error, clock.now())
                if delay is None:
                    raise
            else:
                if reading is None and not plan.judges:
                    call.succeeded(clock.now())
                    return result
                delay = call.returned(result, clock.now())
                if delay is None:
                    return result
            finally:
                restore(token)
            await _pause(call, delay, loop, clock)
            now = clock.now()
    except BaseException:
        if call.holds:
            call.abandon(clock.now())
        raise
    finally:
        if call.news:
            call.tell()


async def _pause(call: Call, delay: float, loop: Backend, clock: Clock) -> None:
    if call.news:
        call.tell()
    if delay > 0:
        await loop.sleep(clock.delay(delay))


def _awaitable(fn: Callable[..., object], result: object) -> Awaitable[Any]:
    if isawaitable(result):
        return result
    name = getattr(fn, "__qualname__", repr(fn))
    raise TypeError(f"{name} returned {type(result).__name__} to an async call, nothing to await; use `policy.call(...)`")


async def _do(call: Call, step: Step, loop: Backend, clock: Clock) -> Step | None:
    if isinstance(step, Sleep):
        await loop.sleep(clock.delay(step.seconds))
    elif isinstance(step, Queue):
        await loop.wait(step.ticket, clock.delay(step.until - clock.now()))
    else:
        call.checked(await _is_healthy(call, step.config.health_check, loop, clock), clock.now())
        return None
    return call.resume(clock.now())


async def _is_healthy(call: Call, check: Callable[[], object] | None, loop: Backend, clock: Clock) -> bool:
    if check is None:
        return True
    token = ambient.set(call.limit)
    try:
        with loop.cutoff(call.limit, clock):
            healthy = check()
            return bool(await healthy if isawaitable(healthy) else healthy)
    except Exception as error:
        if call.cut_by_caller(error, clock.now()):
            raise
        return False
    finally:
        restore(token)


# Fallback and hedge surround whole calls.


async def _run_layered(
    plan: Plan, fn: Callable[..., Awaitable[R]], args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading | None = None
) -> R:
    outer = ambient.get()
    try:
        if plan.hedge is not None:
            return await _run_race(plan, outer, fn, args, kwargs, reading)
        return await _run(plan, fn, args, kwargs, None, reading)
    except Exception as error:
        fallback = falls_back(plan, error, outer)
        if fallback is None:
            raise
        answer = fallback.answer(error)
        return cast("R", await answer if isawaitable(answer) else answer)


async def _run_race(
    plan: Plan,
    outer: Deadline | None,
    fn: Callable[..., Awaitable[R]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    reading: Reading | None = None,
) -> R:
    clock, loop = current.get(), backend()
    race = Race(plan, clock.now(), outer, reading is not None and not reading.may_race)
    inner = cast("Plan", plan.inner)

    def attempt() -> Coroutine[Any, Any, R]:
        own, its_reading = (args, None) if reading is None else reading.rival(args)
        return run(inner, fn, own, kwargs, its_reading)

    token = ambient.set(race.deadline)
    try:
        # Each attempt is cut off at the deadline by itself, and counts then; cutting the race off would merely cancel them.
        return await loop.race(race, clock, attempt)
    except Rejected:
        race.refused()
        raise
    finally:
        ambient.reset(token)


class Block:
    """One attempt as an `async with` block."""

    __slots__ = ("_call", "_clock", "_cutoff", "_loop", "_token", "delay", "entered")

    def __init__(self, plan: Plan) -> None:
        self._clock = current.get()
        self._loop = backend()
        self._call = Call(plan, self._clock.now(), ambient.get())
        self._token: Token[Deadline | None] | None = None
        self._cutoff: Cutoff | None = None
        self.entered = False
        self.delay: float | None = None  # seconds until the next attempt; None where there is none

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._call.attempt

    async def __aenter__(self) -> Self:
        call, clock = self._call, self._clock
        if self.entered:
            raise RuntimeError("an attempt is made once, in one block")
        self.entered = True
        self.delay = None
        try:
            step = call.admit(clock.now())
            while step is not None:
                step = await _do(call, step, self._loop, clock)
            self._cutoff = self._loop.cutoff(call.limit, clock)
            self._cutoff.__enter__()
        except BaseException:
            call.abandon(clock.now())
            call.tell()
            raise
        self._token = ambient.set(call.limit)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        restore(cast("Token[Deadline | None]", self._token))
        try:
            cast("Cutoff", self._cutoff).__exit__(kind, error, trace)
        except BaseException as exceeded:
            self._ended(exceeded)
            if self.delay is None:
                raise
        else:
            self._ended(error)
        return self.delay is not None

    def _ended(self, error: BaseException | None) -> None:
        now = self._clock.now()
        if error is None:
            self._call.succeeded(now)
        else:
            self.delay = self._call.failed(error, now)
        self._call.tell()

    async def pause(self) -> None:
        """Wait until the next attempt is due."""
        if self.delay:
            await self._loop.sleep(self._clock.delay(self.delay))


class Attempts:
    """The attempts of one call, each to be made in its `async with` block.

    No async generator: one that is left by `return` or `break`, as this usually is, costs the event loop a task to close it.
    """

    __slots__ = ("_block", "_plan")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._block: Block | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Block:
        block = self._block
        if block is None:
            block = self._block = Block(self._plan)
            return block
        if not block.entered:
            raise RuntimeError(f"{self._plan.name}: each attempt is made in its block: `async for ...: async with attempt: ...`")
        if block.delay is None:
            raise StopAsyncIteration
        await block.pause()
        block.entered = False
        return block
