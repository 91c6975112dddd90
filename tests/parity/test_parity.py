"""The three drivers are the same: random scenarios end alike in threads, in asyncio and in virtual time.

Alike means: each call's result or error with all that it says, when it ended, every event in between, and what the policy's parts say
at the end. Each scenario is made from its number, so a failing one is run again by its number.
"""

import asyncio
import dataclasses
import random

import pytest

import holdfast
from holdfast import Backoff, Breaker, Budget, Bulkhead, Fallback, Hedge, Policy, RateLimit, Retry
from holdfast.deadlines import Deadline
from holdfast.drivers import virtual
from holdfast.testing import FakeClock, Scripted, Step

ERRORS = (ConnectionError, TimeoutError, ValueError)


@dataclasses.dataclass
class Scenario:
    seed: int
    make: object  # builds the policy: each driver gets one of its own, drawing the same random numbers
    steps: list
    calls: list  # (pause before it, deadline around it or None)


def scenario(seed, *, concurrent=False):
    draw = random.Random(seed)

    def some(value, share=0.5):
        return value if draw.random() < share else None

    def time(low, high):
        # Odd milliseconds against round ones: two things at the very same moment have no order that drivers could share.
        return round(draw.uniform(low, high), 2) + 0.0007 * draw.randint(1, 9)

    parts = {
        "deadline": some(draw.choice([0.5, 1.0, 2.0])),
        "attempt_timeout": some(draw.choice([0.1, 0.3, 0.7])),
        "breaker": some(
            Breaker(
                min_calls=draw.randint(1, 6),
                failure_rate=draw.choice([0.2, 0.5, 1.0]),
                window=draw.choice([1.0, 5.0, 60.0]),
                consecutive=some(draw.randint(2, 4), 0.3),
                slow_after=0.35 if (slow := draw.random() < 0.3) else None,
                slow_rate=0.5 if slow else None,
                open_for=draw.choice([0.5, 2.0]),
                open_for_max=8.0,
                probe_share=draw.choice([0.05, 0.5, 1.0]),
                max_probes=draw.randint(1, 3),
                probes_to_close=draw.randint(1, 3),
                ignore=(ValueError,) if draw.random() < 0.3 else (),
            ),
            0.7,
        ),
        "rate_limit": some(RateLimit(draw.choice([2.0, 10.0]), burst=draw.randint(1, 3), wait=draw.choice([0.0, 0.33])), 0.3),
        "bulkhead": some(Bulkhead(draw.randint(1, 3), queue=draw.randint(0, 3), wait=draw.choice([0.0, 0.23])), 0.5),
        "fallback": some(Fallback(value="instead", on=ERRORS), 0.2),
    }
    budget = (
        {"ratio": draw.choice([0.0, 0.1, 0.5]), "min_per_second": draw.choice([0.0, 0.3]), "window": 10.0} if draw.random() < 0.4 else None
    )
    retry = {
        "attempts": draw.randint(1, 4),
        "on": draw.choice([(ConnectionError, TimeoutError), (Exception,)]),
        "on_result": (lambda result: result == "again") if draw.random() < 0.3 else None,
        "backoff": Backoff(base=0.05, cap=0.4, jitter=draw.choice(["none", "full", "equal", "decorrelated"])),
    }
    kind = draw.choice(["retry", "retry", "hedge" if concurrent else "retry", "neither"])
    hedge = {"after": draw.choice([0.0503, 0.2003]), "extra": draw.randint(1, 2)}

    def make():
        shared = Budget(**budget) if budget else None
        recovery = {}
        if kind == "retry":
            recovery["retry"] = Retry(**retry, budget=shared)
        elif kind == "hedge":
            recovery["hedge"] = Hedge(**hedge, budget=shared)
        policy = Policy("dependency", **parts, **recovery)
        policy._plan.rng.seed(seed)
        return policy

    steps = [
        Step(after=time(0.0, 0.9) if draw.random() < 0.5 else time(0.0, 0.05), **draw.choice(
            [{"result": "fine"}, {"result": "fine"}, {"result": "again"}, {"error": draw.choice(ERRORS)("no")}]
        ))
        for _ in range(draw.randint(1, 12))
    ]  # fmt: skip
    steps.append(Step(after=time(0.0, 0.9), result="fine"))  # it goes on, and one exception raised twice would be one object
    calls = [
        (time(0.0, 0.12) if draw.random() < 0.8 else time(1.0, 3.0), some(time(0.05, 1.5) + 0.00003, 0.3))
        for _ in range(draw.randint(1, 15))
    ]
    return Scenario(seed, make, steps, calls)


def outcome(clock, start, result=None, error=None):
    if error is None:
        return (round(clock.now() - start, 5), "returned", result)
    facts = {
        name: getattr(error, name) for name in ("policy", "retry_after", "started", "attempt", "what", "budget") if hasattr(error, name)
    }
    notes = [note.split(" in ")[0] + note.rpartition(":")[2] for note in getattr(error, "__notes__", ())]
    return (round(clock.now() - start, 5), type(error).__name__, rounded(facts), notes)


def rounded(record):
    return {
        name: round(value, 5) if isinstance(value, float) else kind(value) if isinstance(value, BaseException) else value
        for name, value in record.items()
    }


def final(policy, outcomes):
    # What was beaten may have had timers for later, so each driver's own time may be past the end; and rounding has to fall alike.
    with FakeClock(1000.01 + max(ended for ended, *_ in outcomes)):
        return policy.snapshot()


def kind(error):
    return "cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else type(error).__name__


class Heard(list):
    def __call__(self, event):
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        self.append((type(event).__name__, rounded(fields)))


def observed(run):
    heard = Heard()
    stop = holdfast.events.subscribe(heard)
    try:
        return (*run(), list(heard))
    finally:
        stop()


def in_threads(case):
    def run():
        outcomes = []
        with FakeClock() as clock:
            start, policy, dependency = clock.now(), case.make(), Scripted(*case.steps)
            guarded = policy(dependency)
            for pause, limit in case.calls:
                clock.advance(pause)
                try:
                    with holdfast.deadline(float("inf") if limit is None else limit):
                        result = guarded()
                except Exception as error:
                    outcomes.append(outcome(clock, start, error=error))
                else:
                    outcomes.append(outcome(clock, start, result))
            return outcomes, final(policy, outcomes), [round(began - start, 5) for began in dependency.began]

    return observed(run)


def in_asyncio(case, *, concurrent=False):
    async def one(clock, start, guarded, limit, outcomes, number):
        try:
            # `with`, so that only the policy's own driver cuts: two cancellations at one moment would be asyncio's to order.
            with holdfast.deadline(float("inf") if limit is None else limit):
                result = await guarded()
        except Exception as error:
            outcomes[number] = outcome(clock, start, error=error)
        else:
            outcomes[number] = outcome(clock, start, result)

    async def main(clock):
        start, policy, dependency = clock.now(), case.make(), Scripted(*case.steps)
        guarded = policy(dependency.acall)
        outcomes = [None] * len(case.calls)
        async with asyncio.TaskGroup() as group:
            for number, (pause, limit) in enumerate(case.calls):
                await asyncio.sleep(pause)
                work = one(clock, start, guarded, limit, outcomes, number)
                if concurrent:
                    group.create_task(work)
                else:
                    await work
        return outcomes, final(policy, outcomes), [round(began - start, 5) for began in dependency.began]

    clock = FakeClock()
    return observed(lambda: clock.run(main(clock)))


def in_virtual_time(case, *, concurrent=False):
    def dependency_of(world, script, began):
        def dependency():
            began.append(world.now())
            step = script[min(len(began), len(script)) - 1]
            yield step.after
            if step.error is not None:
                raise step.error
            return step.result

        return dependency

    def one(world, start, plan, dependency, limit, outcomes, number):
        outer = None if limit is None else Deadline(world.now() + limit, limit, None, None)
        try:
            result = yield from virtual.run(world, plan, dependency, outer)
        except Exception as error:
            outcomes[number] = outcome(world, start, error=error)
        else:
            outcomes[number] = outcome(world, start, result)

    def users(world, start, plan, dependency, outcomes):
        for number, (pause, limit) in enumerate(case.calls):
            yield pause
            work = one(world, start, plan, dependency, limit, outcomes, number)
            if concurrent:
                world.spawn(work)
            else:
                yield from work

    def run():
        world = virtual.World(1000.0)
        began, outcomes = [], [None] * len(case.calls)
        policy = case.make()
        dependency = dependency_of(world, case.steps, began)
        world.spawn(users(world, world.now(), policy._plan, dependency, outcomes))
        world.run()
        return outcomes, final(policy, outcomes), [round(moment - 1000.0, 5) for moment in began]

    return observed(run)


def assert_alike(seed, name, ours, theirs):
    for what, mine, other in zip(("outcomes", "snapshot", "attempts", "events"), ours, theirs, strict=True):
        if isinstance(mine, list):
            for index, (left, right) in enumerate(zip(mine, other, strict=False)):
                assert left == right, f"scenario {seed}, {name}: {what}[{index}]"
            assert len(mine) == len(other), f"scenario {seed}, {name}: {what}"
        else:
            assert flat(mine) == flat(other), f"scenario {seed}, {name}: {what}"


def flat(snapshot):
    return {part: rounded(value) if isinstance(value, dict) else value for part, value in snapshot.items()}


BLOCKS = 20


@pytest.mark.parametrize("block", range(BLOCKS))
def test_threads_asyncio_and_virtual_time_end_alike_over_600_scenarios(block):
    for seed in range(block, 600, BLOCKS):
        case = scenario(seed)
        expected = in_virtual_time(case)
        assert_alike(seed, "threads", in_threads(case), expected)
        assert_alike(seed, "asyncio", in_asyncio(case), expected)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_asyncio_and_virtual_time_end_alike_over_400_scenarios_of_concurrent_callers(block):
    for seed in range(10_000 + block, 10_400, BLOCKS):
        case = scenario(seed, concurrent=True)
        expected = in_virtual_time(case, concurrent=True)
        assert_alike(seed, "asyncio", in_asyncio(case, concurrent=True), expected)


def test_the_scenarios_reach_what_they_are_for():
    seen = set()
    for seed in range(200):
        for name, _ in in_virtual_time(scenario(seed))[3]:
            seen.add(name)
    for seed in range(10_000, 10_060):
        for name, _ in in_virtual_time(scenario(seed, concurrent=True), concurrent=True)[3]:
            seen.add(name)
    assert seen >= {"AttemptEnded", "Retrying", "GaveUp", "Refused", "BreakerChanged", "Hedged", "FellBack"}
