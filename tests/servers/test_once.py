"""once: made by one, however many ask, and bounded by each one's own deadline."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.servers import once
from holdfast.testing import FakeClock
from stopwatch import Stopwatch


def in_threads(count: int, ask: Callable[[], Any]) -> list[Any]:
    """What each of many threads that ask at once gets, or the error it raises."""
    got: list[Any] = [None] * count
    begin = threading.Barrier(count)

    def run(number: int) -> None:
        begin.wait(10)
        try:
            got[number] = ask()
        except Exception as error:
            got[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return got


def test_many_threads_get_what_one_makes() -> None:
    made: list[object] = []

    @once
    def catalogue() -> object:
        made.append(object())
        time.sleep(0.02)
        return made[-1]

    got = in_threads(32, catalogue)
    assert len(made) == 1
    assert set(map(id, got)) == {id(made[0])}
    assert catalogue() is made[0]


def test_many_tasks_get_what_one_makes() -> None:
    made = 0

    @once
    async def catalogue() -> int:
        nonlocal made
        made += 1
        await asyncio.sleep(0.01)
        return made

    async def run() -> list[int]:
        return list(await asyncio.gather(*(catalogue() for _ in range(32))))

    assert asyncio.run(run()) == [1] * 32
    assert asyncio.run(catalogue()) == 1  # another loop


def test_none_is_a_value_too() -> None:
    made: list[int] = []

    @once
    def nothing() -> None:
        made.append(1)

    assert nothing() is None
    assert nothing() is None
    assert made == [1]


def test_a_failure_is_shared_and_not_kept_for_ever() -> None:
    made = 0

    @once(failure_ttl=1.0)
    def catalogue() -> str:
        nonlocal made
        made += 1
        if made == 1:
            raise ConnectionError("the database sleeps")
        return "here"

    with FakeClock() as clock:
        for _ in range(3):
            with pytest.raises(ConnectionError, match="the database sleeps"):
                catalogue()
        assert made == 1
        clock.advance(1.1)
        assert catalogue() == "here"


def test_a_failure_that_is_raised_often_does_not_grow() -> None:
    @once(failure_ttl=60)
    def broken() -> str:
        raise ConnectionError("no")

    lengths = []
    for _ in range(5):
        try:
            broken()
        except ConnectionError as error:
            trace, length = error.__traceback__, 0
            while trace is not None:
                trace, length = trace.tb_next, length + 1
            lengths.append(length)
    assert lengths[1:] == [lengths[1]] * 4


def test_a_value_is_made_again_after_its_time_or_when_it_is_to_be_forgotten() -> None:
    made = 0

    @once(ttl="10s")
    def catalogue() -> int:
        nonlocal made
        made += 1
        return made

    with FakeClock() as clock:
        assert [catalogue(), catalogue()] == [1, 1]
        clock.advance(10.1)
        assert catalogue() == 2
        catalogue.forget()
        assert catalogue() == 3


@pytest.mark.realtime
def test_who_waits_waits_no_longer_than_until_its_deadline() -> None:
    go_on = threading.Event()
    inside = threading.Event()

    @once
    def slow() -> str:
        inside.set()
        assert go_on.wait(10)
        return "done"

    maker = threading.Thread(target=slow)
    maker.start()
    assert inside.wait(10)
    watch = Stopwatch()
    with pytest.raises(holdfast.DeadlineExceeded), holdfast.deadline(0.1):
        slow()
    assert 0.09 < watch.elapsed
    assert watch.took < 1.0
    go_on.set()
    maker.join(10)
    with holdfast.deadline(0.1):
        assert slow() == "done"


@pytest.mark.realtime
def test_a_task_that_waits_waits_no_longer_than_until_its_deadline() -> None:
    @once
    async def slow() -> str:
        await asyncio.sleep(0.5)
        return "done"

    async def run() -> str:
        maker = asyncio.ensure_future(slow())
        await asyncio.sleep(0)
        with pytest.raises(holdfast.DeadlineExceeded):
            async with holdfast.deadline(0.05):
                await slow()
        return await maker

    assert asyncio.run(run()) == "done"


def test_a_maker_that_is_cut_off_has_not_failed() -> None:
    made = 0

    @once(failure_ttl=60)
    def catalogue() -> int:
        nonlocal made
        made += 1
        holdfast.check()
        return made

    with pytest.raises(holdfast.DeadlineExceeded), holdfast.deadline(0):
        catalogue()
    assert catalogue() == 2


def test_when_the_making_task_is_cancelled_another_takes_over() -> None:
    made = 0

    @once
    async def catalogue() -> int:
        nonlocal made
        made += 1
        await asyncio.sleep(0.02)
        return made

    async def run() -> list[int]:
        first = asyncio.ensure_future(catalogue())
        others = [asyncio.ensure_future(catalogue()) for _ in range(8)]
        await asyncio.sleep(0.005)
        first.cancel()
        return list(await asyncio.gather(*others))

    assert asyncio.run(run()) == [2] * 8


def _ask_in_a_process(path: str, log: str, start: Any) -> None:
    @once(file=path, load=lambda made: json.loads(made.read_text()))
    def catalogue(unfinished: Path) -> None:
        with open(log, "a") as writing:  # noqa: PTH123  (one write, appended)
            writing.write(f"{os.getpid()}\n")
        time.sleep(0.1)
        unfinished.write_text('{"tea": 3}')

    start.wait(20)
    if catalogue() != {"tea": 3}:
        os._exit(1)


def test_one_process_of_the_machine_makes_the_file(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    start = fork.Event()
    log = tmp_path / "log"
    processes = [fork.Process(target=_ask_in_a_process, args=(str(tmp_path / "c.json"), str(log), start)) for _ in range(6)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0] * 6
    assert len(log.read_text().splitlines()) == 1


def _make_and_hang(path: str, inside: Any) -> None:
    @once(file=path, load=Path.read_text)
    def catalogue(unfinished: Path) -> None:
        unfinished.write_text("half")
        inside.set()
        time.sleep(60)

    catalogue()


def test_a_process_that_is_killed_while_it_makes_the_file_leaves_neither_lock_nor_half(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    inside = fork.Event()
    path = tmp_path / "c.txt"
    process = fork.Process(target=_make_and_hang, args=(str(path), inside))
    process.start()
    assert inside.wait(10)

    @once(file=path, load=Path.read_text)
    def catalogue(unfinished: Path) -> None:
        unfinished.write_text("whole")

    with pytest.raises(holdfast.DeadlineExceeded), holdfast.deadline(0.05):
        catalogue()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    with holdfast.deadline(5):
        assert catalogue() == "whole"


def test_what_a_fork_inherits_is_what_was_made_and_not_what_was_being_made() -> None:
    inside, go_on = threading.Event(), threading.Event()
    calls = 0

    @once
    def catalogue() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            inside.set()
            assert go_on.wait(10)
        return "made"

    maker = threading.Thread(target=catalogue)
    maker.start()
    assert inside.wait(10)
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # the child would wait for a thread that it does not have
        os._exit(0 if catalogue() == "made" else 1)
    _, status = os.waitpid(child, 0)
    go_on.set()
    maker.join(10)
    assert status == 0


def test_what_cannot_be_once_is_refused() -> None:
    with pytest.raises(TypeError, match="once takes a function with no parameters"):
        once(lambda order: order)
    with pytest.raises(TypeError, match="once takes a function with one parameter, the path to write to"):
        once(file="x", load=str)(lambda: None)
    with pytest.raises(TypeError, match="come together"):
        once(file="x")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"once\.ttl must be > 0 seconds"):
        once(ttl=0)
    with pytest.raises(TypeError, match="decorate an `async def`"):
        once(lambda: asyncio.sleep(0))()
