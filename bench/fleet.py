"""The figures of `holdfast.fleet`: processes of their own, a private Valkey, the peers that share a breaker through Redis in the same run.

python bench/fleet.py [--quick] [--only PART ...]

It takes some minutes, so it is not a part of `make bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "fleet"))

import fleet_hosts as do  # type: ignore[import-not-found]  # the rig of the tests
import redis as library
from fleet_hosts import Host, hosts, until
from fleet_world import Process, VirtualStore  # type: ignore[import-not-found]  # see above

from holdfast import Backoff, Breaker, Budget, Bulkhead, Policy, Retry, fleet
from holdfast.drivers import virtual
from holdfast.replay.parts.redis import redis_server
from measure import Figure, awaiting, blocking, fastest
from subjects import async_work, work

PROCESSES = 8
INTERVAL = 0.1
TIMEOUT = 0.5
RULE: dict[str, Any] = {"min_calls": 96, "window": 60, "open_for": 30.0, "probe_share": 1.0}
WIDTH = 96


# What a call costs.


def path(scale: float) -> Iterator[Figure]:
    rounds = max(20, round(400 * scale))
    with redis_server() as server, asyncio.Runner() as runner:
        fleet.connect(server.url, interval=INTERVAL)
        shared, local, pybreaker = _five(True), _five(False), _pybreaker(server.url)
        purgatory = runner.run(_purgatory(server.url))
        ours, alone, theirs = fastest(rounds, [blocking("f(1)", f=fn) for fn in (shared(work), local(work), pybreaker)])
        async_ours, async_alone, others = fastest(
            rounds, [awaiting(runner, fn) for fn in (_five(True)(async_work), _five(False)(async_work), purgatory)]
        )
        until(lambda: fleet.snapshot()["policies"]["billing"]["calls"] > 0)
        fleet.disconnect()
    yield Figure("guarded call of a fleet / of a local policy", ours / alone, 1.05)
    yield Figure("async: guarded call of a fleet / of a local policy", async_ours / async_alone, 1.05)
    yield Figure("pybreaker with its state in Redis / the guarded call of a fleet", theirs / ours)
    yield Figure("async: purgatory with its state in Redis / the guarded call of a fleet", others / async_ours)


def _five(shared: bool) -> Policy:
    budget = Budget()
    return Policy("billing", deadline=2.0, retry=Retry(budget=budget), breaker=Breaker(), bulkhead=Bulkhead(64), shared=shared)


def _pybreaker(url: str) -> Callable[[int], int]:
    from importlib import import_module

    lib: Any = import_module("pybreaker")
    storage = lib.CircuitRedisStorage("closed", library.Redis.from_url(url))
    breaker = lib.CircuitBreaker(fail_max=5, reset_timeout=30, state_storage=storage)
    return lambda value: breaker.call(work, value)


async def _purgatory(url: str) -> Callable[[int], Awaitable[int]]:
    """Its async face: in 3.0.1 the blocking one does not await what redis-py's async client hands it."""
    from importlib import import_module

    lib: Any = import_module("purgatory")
    factory = lib.AsyncCircuitBreakerFactory(uow=lib.AsyncRedisUnitOfWork(url))
    await factory.initialize()

    async def guarded(value: int) -> int:
        async with await factory.get_breaker("billing"):
            return await async_work(value)

    return guarded


# What the store has to do.


def commands(scale: float) -> Iterator[Figure]:
    """Commands that processes send, from the server's statistics; those that a script runs inside are told apart."""
    seconds = max(3.0, 10.0 * scale)
    for per_second in (10, 10_000):
        with redis_server() as server, hosts(PROCESSES, server.url, breaker=RULE, budget={}, interval=INTERVAL, timeout=TIMEOUT) as fleet_:
            client = library.Redis.from_url(server.url)
            for host in fleet_:
                host.do(paced, per_second / PROCESSES)
            time.sleep(1.0)
            client.config_resetstat()
            calls = sum(host.do(count) for host in fleet_)
            began = time.monotonic()
            time.sleep(seconds)
            sent, inside = _sent(client.info("commandstats"))
            elapsed = time.monotonic() - began
            calls = sum(host.do(count) for host in fleet_) - calls
            for host in fleet_:
                host.do(do.stop)
        most = PROCESSES / INTERVAL * elapsed
        yield Figure(f"commands sent at {calls / elapsed:.0f} calls a second / (processes x policies / interval)", sent / most, 1.2)
        yield Figure("  the same in commands per call", sent / calls)
        yield Figure("  commands that the scripts run inside of the server / commands sent", inside / sent)


def _sent(stats: dict[str, dict[str, int]]) -> tuple[int, int]:
    inside = {"time", "hmget", "hget", "hset", "hdel", "hgetall", "hlen", "zadd", "zrem", "zcard", "zremrangebyscore", "zrangebyscore"}
    inside |= {"pexpire", "persist", "del", "publish", "type"}
    ours = {name.removeprefix("cmdstat_"): row["calls"] for name, row in stats.items()}
    ignored = {"config|resetstat", "info"}  # the benchmark's own
    return (
        sum(calls for name, calls in ours.items() if name not in inside | ignored),
        sum(calls for name, calls in ours.items() if name in inside),
    )


def paced(world: Any, per_second: float) -> None:
    """Calls at a rate, in batches where it is high."""
    batch = max(1, round(per_second / 200))

    def run() -> None:
        due = time.monotonic() + random.random() * batch / per_second
        while not world._stop.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            for _ in range(batch):
                world.policy.call(int)
            world.outcomes["ok"] += batch
            due += batch / per_second

    _in_background(world, run)


def _in_background(world: Any, run: Callable[[], None]) -> None:
    import threading

    world._stop.clear()
    world._threads = [threading.Thread(target=run, daemon=True)]
    world._threads[0].start()


def count(world: Any) -> int:
    return sum(world.outcomes.values())


# How soon all know.


def latency(scale: float) -> Iterator[Figure]:
    rounds = max(10, round(100 * scale))
    found = []
    with redis_server() as server, hosts(PROCESSES, server.url, breaker=RULE, interval=INTERVAL, timeout=TIMEOUT) as fleet_:
        for host in fleet_:
            host.do(do.set_failing, True)
        for turn in range(rounds):
            fleet_[turn % PROCESSES].do(do.force, "reset")
            time.sleep(0.4)
            assert all(host.do(do.state) == "closed" for host in fleet_)
            crossing, *others = fleet_[turn % PROCESSES :] + fleet_[: turn % PROCESSES]
            for host in others:
                host.do(do.calls, 13)
            time.sleep(3 * INTERVAL)
            for host in others:
                host.send(do.when_refused)
            began = crossing.do(cross)
            found.append(max([host.answer() for host in others] + [crossing.do(do.when_refused)]) - began)
    found.sort()
    for share in (0.5, 0.99):
        bar = 1000 * (2 * INTERVAL + 0.05) if share == 0.99 else None
        yield Figure(
            f"from the crossing call to the last process refusing, p{share * 100:.0f} of {rounds}",
            1000 * _quantile(found, share),
            bar,
            " ms",
        )


def cross(world: Any) -> float:
    """Make the calls that cross the threshold; the moment of the last."""
    world.calls(13)
    return time.monotonic()


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# While the store is away.


def faults(scale: float) -> Iterator[Figure]:
    """Turns of a second each, in random order, so that what the machine does meanwhile is spread over all of them. A p99 of single turns
    differs by a factor of two and more though nothing is different; what that leaves of the figure is told by well against well.
    """
    rounds, rng = max(2, round(30 * scale)), random.Random(7)
    found: dict[str, list[Turn]] = {"well": [], "well again": [], "stopped": [], "killed": []}
    with redis_server() as server, hosts(PROCESSES, server.url, breaker=RULE, budget={}, interval=INTERVAL, timeout=TIMEOUT) as fleet_:
        ways = {"stopped": (server.suspend, server.resume), "killed": (server.kill, server.restart)}
        for _ in range(rounds):
            for phase in rng.sample(list(found), len(found)):
                until(lambda: all(host.do(do.is_connected) for host in fleet_))
                time.sleep(0.3)
                go, come = ways.get(phase, (None, None))
                if go is not None:
                    go()
                found[phase].append(_all(fleet_, timed, 1.0))
                if come is not None:
                    come()
    yield Figure("exceptions in guarded calls", sum(answer[2] for turns in found.values() for turn in turns for answer in turn), 0, "")
    for phase, bar in (("stopped", 1.1), ("killed", 1.1), ("well again", None)):
        ours, theirs = _p99(found[phase], 0), _p99(found[phase], 1)
        calls = sum(len(answer[0]) for turn in found[phase] for answer in turn)
        what = f"p99 of guarded calls with the store {phase} / with it well ({calls} calls in {rounds} turns)"
        yield Figure(what, ours / _p99(found["well"], 0), bar)
        yield Figure("  the same of a local policy beside it, which has no store", theirs / _p99(found["well"], 1))
        yield Figure("  the policy of the fleet / the local one, in the same moments", ours / theirs)
    single = [_p99([turn], 0) for turn in found["well"]]
    yield Figure(f"  for their noise: the highest p99 of {rounds} single turns / the lowest, all well", max(single) / min(single))


# What the processes answer for a turn: how long calls of the fleet's policy took, those of a local one, and how many raised.
Turn = list[tuple[list[float], list[float], int]]


def _p99(turns: list[Turn], which: Literal[0, 1]) -> float:
    return _quantile([duration for turn in turns for answer in turn for duration in answer[which]], 0.99)


def _all(fleet_: list[Host], command: Callable[..., Any], *arguments: Any) -> list[Any]:
    for host in fleet_:
        host.send(command, *arguments)
    return [host.answer() for host in fleet_]


def timed(world: Any, seconds: float) -> tuple[list[float], list[float], int]:
    """What calls took, some hundred a second: of the fleet's policy, and in turns of a local one that is alike."""
    alike = Policy("alike", breaker=Breaker(**RULE), retry=Retry(budget=Budget()), shared=False)
    guarded, local = world.policy(lambda: None), alike(lambda: None)
    found: tuple[list[float], list[float]] = ([], [])
    raised = 0
    end = time.monotonic() + seconds
    pair = [(guarded, found[0]), (local, found[1])]
    while time.monotonic() < end:
        pair.reverse()  # who is first after the pause finds the caches cold
        for _ in range(10):
            for call, durations in pair:
                began = time.perf_counter()
                try:
                    call()
                except Exception:
                    raised += 1
                durations.append(time.perf_counter() - began)
        time.sleep(0.01)
    return *found, raised


# Probes.


def probes(scale: float) -> Iterator[Figure]:
    del scale
    rule = {**RULE, "min_calls": 40, "open_for": 1.0, "max_probes": 5, "probes_to_close": 100}
    with redis_server() as server, hosts(PROCESSES, server.url, breaker=rule, interval=INTERVAL, timeout=TIMEOUT) as fleet_:
        for host in fleet_:
            host.do(do.set_failing, True)
        _all(fleet_, do.calls, 12, 0.02)
        until(lambda: all(host.do(do.state) != "closed" for host in fleet_))
        for host in fleet_:
            host.do(do.set_failing, False, 0.05)
            host.do(_forget_most)
            host.do(do.pump, 50, 0.05)
        until(lambda: any(host.do(do.state) == "closed" for host in fleet_), 60)
        most = max(host.do(_most) for host in fleet_)
    yield Figure("probes in flight at once, 8 processes x 50 threads, max_probes=5", most, 5, "")
    rule = {**rule, "max_probes": 1, "probes_to_close": 1, "open_for": 0.5}
    waits = []
    for _ in range(5):
        with redis_server() as server, hosts(2, server.url, breaker=rule, interval=INTERVAL, timeout=TIMEOUT) as (prober, other):
            for host in (prober, other):
                host.do(do.set_failing, True)
            _all([prober, other], do.calls, 22, 0.01)
            until(lambda host=prober: host.do(do.state) == "half-open")
            prober.do(do.set_failing, False, 60.0)
            prober.do(do.pump)
            until(lambda host=prober: host.do(_probes) == 1)
            other.do(do.set_failing, False)
            other.do(do.pump)
            time.sleep(0.5)
            os.kill(prober.process.pid, signal.SIGKILL)
            killed = time.monotonic()
            until(lambda host=other: host.do(do.state) == "closed")
            waits.append(time.monotonic() - killed)
    yield Figure(
        "a prober killed with -9: until another has probed and closed, the longest of 5; the lease is 2 s", 1000 * max(waits), None, " ms"
    )


def _forget_most(world: Any) -> None:
    world.seen = 0
    ask = world.dependency

    def watched() -> str:
        with world.running.get_lock():
            if world.policy.breaker.state == "half-open":
                world.seen = max(world.seen, world.running.value + 1)
        return str(ask())

    world.dependency = watched


def _most(world: Any) -> int:
    return int(world.seen)


def _probes(world: Any) -> int:
    return int(world.policy.breaker.snapshot()["probes"])


# The budget.


def budget(scale: float) -> Iterator[Figure]:
    each = max(500, round(100_000 * scale) // PROCESSES)
    rule = {"ratio": 0.1, "min_per_second": 1.0, "window": 60}
    for pause, words in ((0.0, "as fast as they go"), (0.001, "up to 1,000 a second each")):
        with redis_server() as server, hosts(PROCESSES, server.url, budget=rule, interval=INTERVAL, timeout=TIMEOUT) as fleet_:
            for host in fleet_:
                host.do(do.set_failing, True)
            began = time.monotonic()
            _all(fleet_, do.calls, each, pause)
            floors = 60 + max(0.0, time.monotonic() - began - 60)
            calls = each * PROCESSES
            made = sum(host.do(do.attempts) for host in fleet_) - calls
        yield _off(f"{calls} failing calls over 8 processes, {words}: retries off the share + floor by", made, 0.1 * calls + floors)


def _off(what: str, made: int, wanted: float) -> Figure:
    return Figure(f"{what} ({made} of {wanted:.0f})", 100 * abs(made - wanted) / wanted, 5.0, " %")


def clients(scale: float) -> Iterator[Figure]:
    """Many small clients: the case in which budgets of their own drift to "retry always", since their floors add up."""
    total, seconds = 1000.0, 100 * scale
    floor, window = 1.0, 10.0

    def make() -> Budget:
        return Budget(ratio=0.1, min_per_second=floor, window=window)

    for number in (10, 100, 1000, 10_000):
        calls, retries = _outage(number, total / number, seconds, make, None)
        yield Figure(
            f"an outage, {number} clients with 1,000 calls a second together, a budget each: attempts per call", 1 + retries / calls
        )
    calls, retries = _outage(1000, 1.0, seconds, lambda: None, None)
    yield Figure("  1,000 clients without a budget: attempts per call", 1 + retries / calls)
    with redis_server() as server:
        store = VirtualStore(server.url)
        calls, retries = _outage(1000, 1.0, seconds, make, store)
        store.close()
    yield Figure("  1,000 clients with one budget for the fleet: attempts per call", 1 + retries / calls)
    yield _off(f"  {calls} calls of 1,000 clients: retries off the share + floor by", retries, 0.1 * calls + floor * (seconds + window))


def _outage(number: int, rate: float, seconds: float, make: Callable[[], Budget | None], store: VirtualStore | None) -> tuple[int, int]:
    """Calls and retries of clients in virtual time, each calling `rate` times a second something that is down."""
    rng, world, made = random.Random(7), virtual.World(1000.0), [0, 0]
    end = 1000.0 + seconds

    def down() -> virtual.Process[None]:
        made[1] += 1
        yield 0.0
        raise ConnectionError

    def client(policy: Policy) -> virtual.Process[None]:
        yield rng.expovariate(rate)
        while world.now() < end:
            made[0] += 1
            with contextlib.suppress(ConnectionError):
                yield from virtual.run(world, policy._plan, down)
            yield rng.expovariate(rate)

    def rounds(process: Process) -> virtual.Process[None]:
        yield rng.random() * INTERVAL
        while world.now() < end:
            process.round(world.now(), hinted=False)
            yield INTERVAL * rng.uniform(0.9, 1.1)

    for _ in range(number):
        budget = make()
        policy = Policy("billing", retry=Retry(attempts=3, backoff=Backoff(base=0.05), budget=budget), shared=False)
        world.spawn(client(policy))
        if store is not None:
            world.spawn(rounds(Process(store, rng, None, budget)))
    world.run(end)
    return made[0], made[1] - made[0]


PARTS = {
    "path": path,
    "commands": commands,
    "latency": latency,
    "faults": faults,
    "probes": probes,
    "budget": budget,
    "clients": clients,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="the figures of holdfast.fleet")
    parser.add_argument("--quick", action="store_true", help="a tenth of the effort: rough, to see that it runs")
    parser.add_argument("--only", choices=PARTS, action="append", help=f"one of {', '.join(PARTS)}; repeatable")
    given = parser.parse_args()
    broken = 0
    for name in given.only or PARTS:
        for figure in PARTS[name](0.1 if given.quick else 1.0):
            broken += not figure.held
            bar = "" if figure.bar is None else f"{figure.bar:g}{figure.unit.replace('x', ' x')}"
            held = "" if figure.bar is None else "yes" if figure.held else "NO"
            measured = f"{figure.measured:.4g}{figure.unit.replace('x', ' x')}"
            print(f"{figure.what:{WIDTH}} {measured:>12} {bar:>10}  {held}", flush=True)
    print(f"{broken} not held" if broken else "all held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
