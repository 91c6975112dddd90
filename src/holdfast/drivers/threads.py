"""The driver for blocking code: steps are done by blocking the calling thread. It starts no threads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextvars import Token
from threading import Lock
from types import CoroutineType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from holdfast.deadlines import Deadline, ambient, restore
from holdfast.drivers.clock import Clock, current, now
from holdfast.events import switch
from holdfast.flow import Call
from holdfast.lanes import light_attempt_ended, refuse, rescue
from holdfast.outcome import Reading
from holdfast.plan import Plan, Queue, Sleep, Step
from holdfast.race import falls_back

if TYPE_CHECKING:
    from typing import Self

P = ParamSpec("P")
R = TypeVar("R")


def wrap(plan: Plan, fn: Callable[P, R]) -> Callable[P, R]:
    """`fn` behind the policy, with its name, its documentation and its signature."""
    if plan.light:
        return _wrap_light(plan, fn)
    through = _run_layered if plan.layered else _run
    circuit = None if plan.layered else plan.circuit

    @functools.wraps(fn)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        if circuit is not None and circuit.open_until > 0.0:
            moment = current.get().now()
            if moment < circuit.open_until:
                raise refuse(circuit, moment)
        return through(plan, fn, args, kwargs)

    return guarded


def _wrap_light(plan: Plan, fn: Callable[P, R]) -> Callable[P, R]:
    # Nothing is to be asked before the first failure, so nothing is built before it; not even whether anybody listens is asked.
    target = fn

    @functools.wraps(fn)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = target(*args, **kwargs)
            # type(result) would be more usual, and is what costs the most here.
            if result.__class__ is not CoroutineType:
                return result
        except Exception as error:
            rescued = rescue(plan, error, now(), ambient.get())
            if rescued is None:
                raise
        else:
            raise _refuse_coroutine(fn, result)
        call, delay = rescued
        _pause(call, delay, current.get())
        return _run(plan, fn, args, kwargs, call)

    def watched(*args: P.args, **kwargs: P.kwargs) -> R:
        began = now()
        try:
            result = fn(*args, **kwargs)
        except BaseException as error:
            light_attempt_ended(plan, error, began, now(), ambient.get())
            raise
        light_attempt_ended(plan, None, began, now(), ambient.get())
        return result

    def turn(listened: bool) -> None:
        nonlocal target
        target = watched if listened else fn

    vars(guarded)["_turn"] = turn  # it lives as long as the function
    switch(turn)
    return guarded


def run(plan: Plan, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading | None = None) -> R:
    """Call `fn` through the policy."""
    if plan.layered:
        return _run_layered(plan, fn, args, kwargs, reading)
    return _run(plan, fn, args, kwargs, None, reading)


def _run(
    plan: Plan,
    fn: Callable[..., R],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    call: Call | None = None,
    reading: Reading | None = None,
) -> R:
    """Make the attempts of a call; `call` where it began without one, and goes on."""
    clock = current.get()
    now = clock.now()
    if call is None:
        call = Call(plan, now, ambient.get(), reading)
    try:
        while True:
            step = call.admit(now)
            while step is not None:
                step = _do(call, step, clock)
            token = ambient.set(call.limit)
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                delay = call.failed(error, clock.now())
                if delay is None:
                    raise
            else:
                if result.__class__ is CoroutineType:
                    raise _refuse_coroutine(fn, result)
                if reading is None and not plan.judges:
                    call.succeeded(clock.now())
                    return result
                delay = call.returned(result, clock.now())
                if delay is None:
                    return result
            finally:
                ambient.reset(token)
            _pause(call, delay, clock)
            now = clock.now()
    except BaseException:
        if call.holds:
            call.abandon(clock.now())
        raise
    finally:
        if call.news:
            call.tell()


def _pause(call: Call, delay: float, clock: Clock) -> None:
    if call.news:
        call.tell()
    if delay > 0:  # a sleep of zero costs 80 us of timer slack
        _sleep(call, delay, clock)


def _sleep(call: Call, seconds: float, clock: Clock) -> None:
    limit = call.deadline
    if limit is None or limit.watch is None:
        clock.sleep(seconds)
        return
    now = clock.now()
    until = now + seconds
    while now < until:
        clock.sleep(min(until, limit.look_at(now)) - now)
        now = clock.now()
        _go_on(limit, now)


def _go_on(limit: Deadline, now: float) -> None:
    """Raise if the client has gone; that the time is up is the flow's to say."""
    if now < limit.at:
        limit.check(now)


def _do(call: Call, step: Step, clock: Clock) -> Step | None:
    if isinstance(step, Sleep):
        _sleep(call, step.seconds, clock)
    elif isinstance(step, Queue):
        woken = Lock()
        woken.acquire()
        step.ticket.wake = woken.release
        limit, now = call.deadline, clock.now()
        while not step.ticket.permit and now < step.until:
            clock.wait(woken, (step.until if limit is None else min(step.until, limit.look_at(now))) - now)
            now = clock.now()
            if limit is not None and not step.ticket.permit:
                _go_on(limit, now)
    else:
        call.checked(_is_healthy(call, step.config.health_check), clock.now())
        return None
    return call.resume(clock.now())


def _is_healthy(call: Call, check: Callable[[], object] | None) -> bool:
    token = ambient.set(call.limit)
    try:
        healthy = check() if check is not None else True
    except Exception as error:
        if call.cut_by_caller(error, now()):
            raise
        return False
    finally:
        ambient.reset(token)
    if healthy.__class__ is CoroutineType:
        raise _refuse_coroutine(cast("Callable[..., object]", check), healthy)
    return bool(healthy)


def _refuse_coroutine(fn: Callable[..., object], result: object) -> TypeError:
    cast("CoroutineType[Any, Any, Any]", result).close()
    name = getattr(fn, "__qualname__", repr(fn))
    return TypeError(f"{name} returned a coroutine to a blocking call; use `await policy.acall(...)`, or decorate an `async def`")


# Fallback and hedge surround whole calls.


def _run_layered(plan: Plan, fn: Callable[..., R], args: tuple[Any, ...], kwargs: dict[str, Any], reading: Reading | None = None) -> R:
    outer = ambient.get()
    try:
        if plan.hedge is not None:
            from holdfast.drivers import rivals

            inner = cast("Plan", plan.inner)
            once = reading is not None and not reading.may_race

            def attempt() -> Callable[[], R]:
                own, its_reading = (args, None) if reading is None else reading.rival(args)
                return functools.partial(run, inner, fn, own, kwargs, its_reading)

            return rivals.race(plan, outer, once, attempt)
        return _run(plan, fn, args, kwargs, None, reading)
    except Exception as error:
        fallback = falls_back(plan, error, outer)
        if fallback is None:
            raise
        answer = fallback.answer(error)
        if answer.__class__ is CoroutineType:
            raise _refuse_coroutine(cast("Callable[..., object]", fallback.call), answer) from error
        return cast("R", answer)


class Block:
    """One attempt as a `with` block."""

    __slots__ = ("_call", "_clock", "_token", "delay", "entered")

    def __init__(self, plan: Plan) -> None:
        self._clock = current.get()
        self._call = Call(plan, self._clock.now(), ambient.get())
        self._token: Token[Deadline | None] | None = None
        self.entered = False
        self.delay: float | None = None  # seconds until the next attempt; None where there is none

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._call.attempt

    def __enter__(self) -> Self:
        call, clock = self._call, self._clock
        if self.entered:
            raise RuntimeError("an attempt is made once, in one block")
        self.entered = True
        self.delay = None
        try:
            step = call.admit(clock.now())
            while step is not None:
                step = _do(call, step, clock)
        except BaseException:
            call.abandon(clock.now())
            call.tell()
            raise
        self._token = ambient.set(call.limit)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        restore(cast("Token[Deadline | None]", self._token))
        now = self._clock.now()
        if error is None:
            self._call.succeeded(now)
        else:
            self.delay = self._call.failed(error, now)
        self._call.tell()
        return self.delay is not None

    def pause(self) -> None:
        """Wait until the next attempt is due."""
        if self.delay:
            self._clock.sleep(self.delay)


def attempts(plan: Plan) -> Iterator[Block]:
    """The attempts of one call, each to be made in its `with` block."""
    block = Block(plan)
    while True:
        block.entered = False
        yield block
        if not block.entered:
            raise RuntimeError(f"{plan.name}: each attempt is made in its block: `for attempt in ...: with attempt: ...`")
        if block.delay is None:
            return
        block.pause()
