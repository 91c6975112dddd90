"""Admission and Requires around applications, on asyncio, trio and threads, without a server."""

import asyncio
import json
import threading
import time

import pytest
import trio

import holdfast
from holdfast import AdaptiveLimit, Breaker, Bulkhead, Policy, events, priority
from holdfast.servers import Admission, Deadline, Requires
from holdfast.servers.asgi import Shield


class Asked:
    """One ASGI request and what came back."""

    def __init__(self, path="/", headers=()):
        self.scope = {"type": "http", "method": "GET", "path": path, "headers": list(headers), "client": ("203.0.113.7", 5)}
        self.sent = []

    async def of(self, app):
        await app(self.scope, self.never, self.send)
        return self

    async def send(self, message):
        self.sent.append(message)

    async def never(self):
        await asyncio.Event().wait()

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def problem(self):
        return json.loads(self.sent[1]["body"])["code"]


class Work:
    """An application whose requests last until they are let go."""

    def __init__(self):
        self.begun = []
        self.ended = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.begun.append(scope["path"])
        await self.ended.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def test_who_finds_no_place_and_no_room_is_refused_at_once():
    async def main():
        work = Work()
        app = Admission(limit=1, queue=0).asgi(work)
        first = asyncio.create_task(Asked().of(app))
        await settle()
        second = await Asked().of(app)
        work.ended.set()
        return (await first).status, second

    first, second = asyncio.run(main())
    assert first == 200
    assert (second.status, second.problem) == (503, "overloaded")
    assert second.headers["content-type"] == "application/problem+json"
    assert int(second.headers["retry-after"]) >= 1


def test_who_waits_gets_the_place_that_comes_free_the_most_important_first():
    async def main():
        work = Work()
        app = Admission(limit=1, queue=5, priority={"/": "normal", "/buy": "critical"}).asgi(work)
        tasks = []
        for path in ("/a", "/b", "/buy"):
            tasks.append(asyncio.create_task(Asked(path).of(app)))
            await settle()
        work.ended.set()
        return [one.status for one in await asyncio.gather(*tasks)], work.begun

    assert asyncio.run(main()) == ([200, 200, 200], ["/a", "/buy", "/b"])


def test_a_place_is_never_lost_when_those_who_wait_are_cancelled():
    async def main():
        work = Work()
        admission = Admission(limit=2, queue=50, wait=10.0)
        app = admission.asgi(work)
        tasks = [asyncio.create_task(Asked().of(app)) for _ in range(30)]
        await settle()
        for task in tasks[::3]:
            task.cancel()
        work.ended.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return admission.snapshot()["/"]

    assert asyncio.run(main()) == {"limit": 2, "running": 0, "waiting": 0}


@pytest.mark.realtime
def test_the_deadline_ends_the_wait_for_a_place():
    async def main():
        work = Work()
        admission = Admission(limit=1, queue=5, wait=10.0)
        app = Deadline(0.2).asgi(admission.asgi(work))
        tasks = [asyncio.create_task(Asked().of(app)) for _ in range(2)]
        answers = await asyncio.gather(*tasks)
        return [one.status for one in answers], work.begun, admission.snapshot()["/"]

    # It gave up a moment before its deadline or at it; either way nobody worked on it, and no place is lost.
    statuses, begun, places = asyncio.run(main())
    assert statuses[0] == 504
    assert statuses[1] in {503, 504}
    assert begun == ["/"]
    assert places == {"limit": 1, "running": 0, "waiting": 0}


@pytest.mark.realtime
def test_it_works_on_trio_too():
    async def main():
        begun, statuses = [], []

        async def work(scope, receive, send):
            begun.append(scope["path"])
            await trio.sleep(0.05)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

        app = Shield(work, deadline=5.0, admission=Admission(limit=1, queue=1))

        async def one(path):
            asked = Asked(path)
            asked.never = trio.sleep_forever
            statuses.append((await asked.of(app)).status)

        async with trio.open_nursery() as nursery:
            for path in ("/a", "/b", "/c"):
                nursery.start_soon(one, path)
        return sorted(statuses), len(begun)

    assert trio.run(main) == ([200, 200, 503], 2)


def environ(path="/"):
    return {"REQUEST_METHOD": "GET", "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "", "REMOTE_ADDR": "203.0.113.7"}


def call(app, path="/"):
    begun = []
    body = app(environ(path), lambda status, headers, exc_info=None: begun.append(int(status[:3])))
    return begun, body


@pytest.mark.realtime
def test_threads_wait_for_places_and_nobody_works_beside_the_limit():
    lock, running, most, statuses, full = threading.Lock(), 0, 0, [], threading.Event()

    def work(environ, start_response):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if most == 3:
                full.set()
        full.wait(5)
        time.sleep(0.01)
        with lock:
            running -= 1
        start_response("200 OK", [])
        return [b"ok"]

    app = Admission(limit=3, queue=100, wait=5.0).wsgi(work)
    threads = [threading.Thread(target=lambda: statuses.extend(call(app)[0])) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3
    # Those may leave who have been overtaken for longer than a tenth of a second.
    assert len(statuses) == 20
    assert statuses.count(200) >= 3
    assert set(statuses) <= {200, 503}


def test_a_response_that_is_made_piece_by_piece_keeps_its_place_until_it_is_closed():
    def pieces():
        yield b"a"
        yield b"b"

    def work(environ, start_response):
        start_response("200 OK", [])
        return pieces()

    admission = Admission(limit=1, queue=0)
    app = admission.wsgi(work)
    _, body = call(app)
    assert next(iter(body)) == b"a"
    assert call(app)[0] == [503]
    body.close()
    body.close()
    assert call(app)[0] == [200]
    assert admission.snapshot()["/"]["running"] == 1  # of the last, which is not closed


def test_a_place_comes_back_when_the_application_raises():
    def work(environ, start_response):
        raise ValueError("broken")

    admission = Admission(limit=1, queue=0)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            call(admission.wsgi(work))
    assert admission.snapshot()["/"]["running"] == 0


def test_an_adaptive_limit_learns_from_requests():
    def work(environ, start_response):
        if environ["PATH_INFO"] == "/bad":
            raise TimeoutError
        start_response("200 OK", [])
        return [b"ok"]

    admission = Admission(limit=AdaptiveLimit(algorithm="aimd", initial=10, min_limit=2))
    app = admission.wsgi(work)
    for _ in range(5):
        with pytest.raises(TimeoutError):
            call(app, "/bad")
    assert admission.snapshot()["/"]["limit"] < 10
    assert admission.snapshot()["/"]["running"] == 0


def test_places_may_be_the_machines(tmp_path, monkeypatch):
    monkeypatch.setenv("HOLDFAST_RUN_DIR", str(tmp_path))
    inner = []

    def work(environ, start_response):
        if environ["PATH_INFO"] == "/outer":
            inner.extend(call(app, "/inner")[0])
        start_response("200 OK", [])
        return [b"ok"]

    app = Admission(limit=Bulkhead(1, across="host")).wsgi(work)
    assert call(app, "/outer")[0] == [200]
    assert inner == [503]
    assert call(app, "/outer")[0] == [200]


def test_the_priority_is_known_inside_and_forgotten_outside():
    seen = []

    def work(environ, start_response):
        seen.append(priority.ambient.get())
        start_response("200 OK", [])
        return [b"ok"]

    app = Admission(priority={"/": "normal", "/buy": "critical"}).wsgi(work)
    call(app, "/buy")
    call(app, "/")
    assert seen == [priority.CRITICAL, None]
    assert priority.ambient.get() is None


def test_a_route_whose_dependency_is_down_is_refused_before_anything_runs():
    billing = Policy("billing", breaker=Breaker(open_for=30.0, min_calls=1, consecutive=1))
    ran, heard = [], []

    def work(environ, start_response):
        ran.append(environ["PATH_INFO"])
        start_response("200 OK", [])
        return [b"ok"]

    app = Requires({"/checkout": [billing]}).wsgi(work)
    assert call(app, "/checkout")[0] == [200]
    with pytest.raises(ZeroDivisionError):
        billing.call(lambda: 1 / 0)
    headers = {}
    stop = events.subscribe(heard.append)
    try:
        body = app(environ("/checkout"), lambda status, given, exc_info=None: headers.update(given, status=status))
    finally:
        stop()
    assert headers["status"].startswith("503")
    assert 28 <= int(headers["Retry-After"]) <= 30
    assert json.loads(b"".join(body))["code"] == "dependency-down"
    assert call(app, "/other")[0] == [200]
    assert ran == ["/checkout", "/other"]
    assert [(event.policy, event.kind) for event in heard] == [("/checkout", "BreakerOpen")]


def test_refusals_say_nothing_about_the_inside():
    billing = Policy("billing-of-customer-42", breaker=Breaker())
    billing.breaker.force_open()
    asked = asyncio.run(Asked("/x").of(Requires({"/": billing}).asgi(None)))
    assert asked.status == 503
    assert b"billing" not in asked.sent[1]["body"]
    assert "retry-after" not in asked.headers  # forced open: nobody can tell


async def in_a_task_of_its_own(work):
    task = asyncio.create_task(asyncio.to_thread(work))  # nobody cancels it
    await asyncio.sleep(5)
    await task


def in_an_executor(work):
    return asyncio.get_running_loop().run_in_executor(None, holdfast.carry(work))


@pytest.mark.realtime
@pytest.mark.parametrize("start", [asyncio.to_thread, in_an_executor, in_a_task_of_its_own])
def test_work_that_cannot_be_stopped_is_reported_when_it_ends_and_only_then(start):
    heard, go_on = [], threading.Event()

    async def main():
        async def work(scope, receive, send):
            await start(lambda: go_on.wait(20))

        async def quick(scope, receive, send):
            await asyncio.sleep(5)

        await asyncio.gather(Asked().of(Deadline(0.15).asgi(work)), Asked().of(Deadline(0.15).asgi(quick)))
        await asyncio.sleep(0.3)
        before = list(heard)
        go_on.set()
        await asyncio.sleep(0.3)
        return before

    stop = events.subscribe(heard.append)
    began = time.monotonic()
    try:
        assert asyncio.run(main()) == []
    finally:
        stop()
    assert [type(event).__name__ for event in heard] == ["DeadlineOutrun"]
    assert 0.3 <= heard[0].outside <= time.monotonic() - began - 0.15


def stamped(seconds):
    return [(b"x-request-start", f"t={time.time() - seconds:.3f}".encode())]


def test_asgi_a_request_that_waited_too_long_is_refused_and_what_others_waited_counts():
    left = []

    async def work(scope, receive, send):
        left.append(holdfast.remaining())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    async def main():
        app = Shield(work, deadline=10.0)
        late = await Asked(headers=stamped(11)).of(app)
        # The caller waits for 2 s in all, and 3 s are over.
        left_behind = await Asked(headers=[*stamped(3), (b"x-request-timeout-ms", b"2000")]).of(app)
        waited = await Asked(headers=stamped(4)).of(app)
        future = await Asked(headers=stamped(-1000)).of(app)
        return late, left_behind, waited, future

    late, left_behind, waited, future = asyncio.run(main())
    assert (late.status, late.problem) == (left_behind.status, left_behind.problem) == (503, "waited-too-long")
    assert (waited.status, future.status) == (200, 200)
    assert 5.0 < left[0] <= 6.01
    assert 9.0 < left[1] <= 10.0


def test_a_shield_around_a_route_that_nobody_bounds_has_a_maximum():
    async def main():
        async def slow(scope, receive, send):
            await asyncio.sleep(10)

        return (await Asked("/b", [(b"x-request-timeout-ms", b"60000")]).of(Shield(slow, deadline={"/a": 1.0}, max_deadline=0.1))).status

    assert asyncio.run(main()) == 504


def test_holdfast_itself_is_not_changed_by_a_request_that_is_over():
    async def main():
        async def work(scope, receive, send):
            await asyncio.sleep(5)

        await Asked().of(Deadline(0.05).asgi(work))
        return holdfast.remaining()

    assert asyncio.run(main()) == float("inf")
