"""A policy used before a fork works on both sides, also when the fork comes in the middle of everything."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import select
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attacks import fail, nothing_held, room

import holdfast
from holdfast import AdaptiveLimit, Backoff, Breaker, Budget, Bulkhead, Hedge, Policy, RateLimit, Retry, events
from holdfast.testing import FakeClock

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def in_child(work: Callable[[], Any], seconds: float = 10.0) -> str:
    """What `work` said in a forked child. One that hangs is killed, and fails the test."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forks in programs with threads, which is the subject
        child = os.fork()
    if not child:
        answer = "the child died"
        try:
            answer = repr(work())
        except BaseException as error:
            answer = f"raised {error!r}"
        finally:
            os.write(writer, answer.encode()[:4000])
            os._exit(0)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], seconds)
        if not ready:
            os.kill(child, signal.SIGKILL)
        return os.read(reader, 4096).decode() if ready else "the child hangs"
    finally:
        os.close(reader)
        os.waitpid(child, 0)


def shop() -> Policy:
    return Policy(
        "shop",
        deadline=5,
        retry=Retry(attempts=2, backoff=Backoff(base=0.0), budget=Budget(ratio=1.0, min_per_second=100)),
        breaker=Breaker(min_calls=10**9),
        rate_limit=RateLimit(1e6, burst=10**6),
        bulkhead=Bulkhead(4, queue=4, wait=5.0),
    )


def use(policy: Policy) -> str:
    """Use every part of the policy."""
    assert policy.call(int) == 0
    with contextlib.suppress(ConnectionError):
        policy.call(fail, ConnectionError())
    with policy.guard():
        pass
    policy.snapshot()
    stop = events.subscribe(lambda _: None)
    policy.call(int)
    stop()

    async def main() -> int:
        async with holdfast.deadline(5):
            return await policy.acall(asyncio.sleep, 0, 7)

    assert asyncio.run(main()) == 7
    return "works"


def test_parts_that_were_used_before_a_fork_work_in_parent_and_child() -> None:
    policy = shop()
    use(policy)
    assert in_child(lambda: use(policy)) == "'works'"
    assert use(policy) == "works"
    nothing_held(policy)


@contextlib.contextmanager
def hammered(*policies: Policy, threads: int = 3) -> Iterator[None]:
    """Threads that use the policies all the time, and change their states and listeners too."""
    go_on = True

    def hammer(index: int) -> None:
        while go_on:
            for policy in policies:
                with contextlib.suppress(ConnectionError, holdfast.Rejected):
                    policy.call(int) if index % 2 else policy.call(fail, ConnectionError())
            stop = events.subscribe(lambda _: None)
            Policy("short-lived", breaker=Breaker(), bulkhead=Bulkhead(1))
            stop()
            for policy in policies:
                policy.snapshot()

    workers = [threading.Thread(target=hammer, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        go_on = False
        for worker in workers:
            worker.join(10)
        assert not any(worker.is_alive() for worker in workers), "a thread of the parent hangs"


def test_a_hundred_forks_while_threads_hammer_the_policies_work_on_both_sides() -> None:
    policy = shop()
    adaptive = Policy("adaptive", adaptive=AdaptiveLimit(algorithm="aimd", initial=4, min_limit=4, max_limit=8, queue=4, wait=5.0))
    hedged = Policy("hedged", hedge=Hedge(percentile=0.9), bulkhead=Bulkhead(2))

    def both() -> str:
        use(policy)
        adaptive.call(int)
        hedged.snapshot()
        # The places of the parent's threads are not lost here.
        assert (room(policy), room(adaptive) >= 4, room(policy)) == (4, True, 4)
        return "works"

    with hammered(policy, adaptive):
        for _ in range(100):
            assert in_child(both) == "'works'"
    assert both() == "works"


def test_places_probes_and_waiters_of_the_parents_threads_are_not_lost_in_the_child() -> None:
    policy = Policy(
        "shop", breaker=Breaker(consecutive=1, open_for=0.001, max_probes=1, probe_share=1.0), bulkhead=Bulkhead(1, queue=1, wait=20)
    )
    with pytest.raises(ConnectionError):
        policy.call(fail, ConnectionError())
    time.sleep(0.005)
    inside, go = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert go.wait(10)

    holder = threading.Thread(target=policy.call, args=(hold,))
    holder.start()
    assert inside.wait(10)

    def child() -> str:
        nothing_held(policy)
        return f"{policy.breaker.state} {room(policy)} {policy.call(int)}"

    assert in_child(child) == "'half-open 1 0'"
    assert policy.snapshot()["limit"]["running"] == 1
    assert policy.snapshot()["breaker"]["probes"] == 1
    go.set()
    holder.join(10)
    nothing_held(policy)
    assert room(policy) == 1


def test_a_fork_inside_of_a_guarded_call_gives_the_place_back_once_on_each_side() -> None:
    policy = Policy("shop", breaker=Breaker(consecutive=1, open_for=0.001, max_probes=2, probe_share=1.0), bulkhead=Bulkhead(2))
    with pytest.raises(ConnectionError):
        policy.call(fail, ConnectionError())
    time.sleep(0.005)
    reader, writer = os.pipe()
    child = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with policy.guard():
            child = os.fork()
    if not child:
        answer = "the child died"
        try:
            nothing_held(policy)
            answer = str(room(policy))
        except BaseException as error:
            answer = repr(error)
        finally:
            os.write(writer, answer.encode())
            os._exit(0)
    os.close(writer)
    assert select.select([reader], [], [], 10)[0], "the child hangs"
    assert os.read(reader, 100).decode() == "2"
    os.close(reader)
    os.waitpid(child, 0)
    nothing_held(policy)
    assert room(policy) == 2


def test_the_breakers_state_and_the_counts_go_into_the_child_and_then_go_apart() -> None:
    policy = Policy("shop", breaker=Breaker(consecutive=2))
    with pytest.raises(ConnectionError):
        policy.call(fail, ConnectionError())

    def child() -> str:
        with contextlib.suppress(ConnectionError):
            policy.call(fail, ConnectionError())
        return policy.breaker.state

    assert in_child(child) == "'open'"
    assert policy.breaker.state == "closed"
    policy.breaker.force_open()
    assert in_child(lambda: policy.breaker.state) == "'forced-open'"


def test_children_draw_different_jitter_than_each_other_and_than_the_parent() -> None:
    policy = Policy("shop", retry=Retry(attempts=2, backoff=Backoff(base=0.5)))

    def drawn() -> list[float]:
        delays: list[float] = []
        stop = events.subscribe(lambda event: delays.append(event.delay) if isinstance(event, events.Retrying) else None)
        with FakeClock(), contextlib.suppress(ConnectionError):
            policy.call(fail, ConnectionError())
        stop()
        return delays

    answers = {in_child(drawn) for _ in range(4)} | {repr(drawn())}
    assert len(answers) == 5
    assert all(0 < float(answer.strip("[]")) < 0.5 for answer in answers)


def test_two_threads_may_fork_at_once() -> None:
    policy = shop()
    answers: list[str] = []

    def forks() -> None:
        answers.extend(in_child(lambda: policy.call(int)) for _ in range(10))

    threads = [threading.Thread(target=forks) for _ in range(2)]
    with hammered(policy, threads=1):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert answers == ["0"] * 20


def _work_of_a_process(policy: Policy, answers: Any) -> None:
    answers.put(use(policy))


def test_multiprocessing_fork_after_and_inside_of_an_event_loop() -> None:
    policy = shop()
    context = multiprocessing.get_context("fork")

    def fork() -> str:
        answers = context.SimpleQueue()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            process = context.Process(target=_work_of_a_process, args=(policy, answers))
            process.start()
        process.join(10)
        hangs = process.exitcode is None
        if hangs:
            process.kill()
        return "hangs" if hangs else "died" if process.exitcode else str(answers.get())

    async def main() -> str:
        async with holdfast.deadline(20):
            await policy.acall(asyncio.sleep, 0)
            return fork()

    assert asyncio.run(main()) == "works"
    assert fork() == "works"
    use(policy)


def test_a_fork_in_a_signals_handler_that_interrupted_a_policy_does_not_hang() -> None:
    policy = shop()
    answers: list[str] = []

    def handler(*_: object) -> None:
        answers.append(in_child(lambda: use(policy)))

    use(policy)  # a module that is half imported is another matter
    before = signal.signal(signal.SIGALRM, handler)
    try:
        for index in range(10):
            signal.setitimer(signal.ITIMER_REAL, 0.001 + 0.0007 * index)  # once: a handler must not interrupt itself
            until = time.monotonic() + 10
            while len(answers) <= index and time.monotonic() < until:
                use(policy)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert answers == ["'works'"] * 10
    nothing_held(policy)
