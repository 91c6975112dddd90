"""The load is open: requests are sent when they are due, and a latency counts from then."""

import asyncio
import itertools
import os
import time
from random import Random

import pytest

from holdfast.replay.load import Flow, Load, arrivals, generate
from stopwatch import Stopwatch


class Server:
    """Counts connections, answers each after `delay` seconds with `status`; None never answers."""

    def __init__(self, delay=0.0, status=200):
        self.delay, self.status = delay, status
        self.heads = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        try:
            self.heads.append((time.monotonic(), await reader.readuntil(b"\r\n\r\n")))
            await asyncio.sleep(3600 if self.delay is None else self.delay)
            writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok" % self.status)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


async def sent(server, *flows, seconds, seed=1):
    start = time.monotonic() + 0.05
    return start, await generate(flows, start=start, seconds=seconds, seed=seed)


def test_arrivals_are_a_poisson_process():
    drawn = list(arrivals(50.0, 10.0, 210.0, Random(3)))
    assert all(10.0 < at < 210.0 for at in drawn)
    assert drawn == sorted(drawn)
    assert abs(len(drawn) - 10_000) < 4 * 100  # the standard deviation of the count is its root
    gaps = [after - before for before, after in itertools.pairwise(drawn)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert 0.9 < variance / mean**2 < 1.1  # 1 for exponential gaps, 0 for a steady beat


@pytest.mark.realtime
def test_a_server_that_never_answers_gets_every_request_when_it_is_due():
    async def main():
        async with Server(delay=None) as server:
            flow = Flow(name="a", url=server.url, rate=100.0, patience=0.5)
            watch = Stopwatch()
            start, samples = await sent(server, flow, seconds=0.6)
            assert [one.status for one in samples] == [0] * len(samples)
            due = sorted(start + one.at for one in samples)
            assert len(server.heads) == len(due) > 30
            waited = watch.elapsed - watch.took  # for a processor, all in all
            assert all(0 <= at - when < 0.2 + waited for (at, _), when in zip(sorted(server.heads), due, strict=True))
            assert all(0.5 <= one.latency < 0.8 + waited for one in samples)

    asyncio.run(main())


@pytest.mark.realtime
def test_a_latency_counts_from_the_moment_a_request_was_due():
    async def main():
        async with Server() as server:
            flow = Flow(name="a", url=server.url, rate=200.0)
            begun = time.monotonic() - 0.4  # the load should have begun by now: everything due so far is late
            samples = await generate([flow], start=begun, seconds=0.5, seed=1)
            overdue = [one for one in samples if one.at < 0.4]
            assert overdue
            assert all(one.late >= 0.4 - one.at - 1e-3 and one.latency >= one.late for one in overdue)

    asyncio.run(main())


@pytest.mark.realtime
def test_who_tries_again_sends_the_same_id_and_counts_as_one_request():
    async def main():
        async with Server(status=503) as server:
            flow = Flow(name="a", url=server.url + "/{n}", rate=20.0, headers={"X-Id": "{id}"}, again=2, pause=0.05)
            _, samples = await sent(server, flow, seconds=0.5)
            assert samples
            assert all(one.attempts == 3 and one.status == 503 and not one.good and one.latency > 0.1 for one in samples)
            identities = {}
            for _, head in server.heads:
                line, _, rest = head.partition(b"\r\n")
                identities.setdefault(line, set()).add(rest.split(b"X-Id: ")[1].split(b"\r\n")[0])
            assert len(identities) == len(samples)
            assert all(len(ids) == 1 for ids in identities.values())
            assert len(set.union(*identities.values())) == len(samples)

    asyncio.run(main())


@pytest.mark.realtime
def test_one_seed_is_one_load():
    async def main():
        async with Server() as server:
            flow = Flow(name="a", url=server.url, rate=100.0, begin=0.1, end=0.3)
            first, again, other = [(await sent(server, flow, seconds=0.4, seed=seed))[1] for seed in (1, 1, 2)]
            dues = [[round(one.at, 3) for one in samples] for samples in (first, again, other)]
            assert dues[0] == dues[1] != dues[2]
            assert all(0.1 <= at < 0.3 for at in dues[0])

    asyncio.run(main())


@pytest.mark.realtime
def test_it_runs_in_a_process_of_its_own_and_leaves_none(tmp_path):
    load = Load([Flow(name="a", url="http://127.0.0.1:9/", rate=50.0)], seconds=0.3, seed=1, folder=tmp_path)
    with load:
        pid = load._process.pid
        assert pid != os.getpid()
        samples = load.samples()
    assert samples
    assert {one.status for one in samples} == {0}
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_generator_that_fails_is_an_error_with_its_log(tmp_path):
    load = Load([Flow(name="a", url="http://127.0.0.1:9/", rate=50.0, method=7)], seconds=0.1, seed=1, folder=tmp_path)
    with load, pytest.raises(RuntimeError, match="load generator failed"):
        load.samples()
