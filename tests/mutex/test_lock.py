"""The lock's rules in virtual time, on the store in memory."""

from __future__ import annotations

import contextvars
import traceback

import pytest

import holdfast
from holdfast import DeadlineExceeded, LockOverrun, LockTaken, events
from holdfast.drivers import clock
from holdfast.mutex import MemoryStore
from holdfast.testing import FakeClock


@pytest.fixture
def store():
    return MemoryStore()


@pytest.fixture
def time():
    with FakeClock() as fake:
        yield fake


def sleep(seconds):
    clock.current.get().sleep(seconds)


def test_tokens_only_grow(store):
    tokens = []
    for _ in range(5):
        with holdfast.lock("a", 1.0, store) as held:
            tokens.append(held.token)
    assert tokens == sorted(set(tokens))


def test_the_time_left_is_the_deadline_inside(store, time):
    with holdfast.lock("a", 3.0, store) as held:
        sleep(1.0)
        assert held.remaining() == pytest.approx(2.0)
        assert holdfast.remaining() == pytest.approx(2.0 - 0.05), "what obeys it ends inside of the lock"


@pytest.mark.parametrize(("ttl", "margin"), [(0.1, 0.002), (1.0, 0.02), (60.0, 0.05)])
def test_work_that_obeys_the_deadline_is_stopped_before_the_lock_ends_and_has_not_outrun_it(store, time, ttl, margin):
    told = []
    stop = events.subscribe(told.append)
    with pytest.raises(DeadlineExceeded) as caught:  # noqa: PT012
        with holdfast.lock("a", ttl, store) as held:
            sleep(ttl - margin + 0.001)
            assert held.remaining() > 0
            held.check()
            holdfast.check()
    stop()
    assert caught.value.budget == pytest.approx(ttl - margin)
    assert "LockOverran" not in [type(event).__name__ for event in told]


def test_a_tighter_deadline_around_it_stays_the_deadline(store, time):
    with holdfast.deadline(1.0), holdfast.lock("a", 3.0, store):
        assert holdfast.remaining() == pytest.approx(1.0)


def test_of_a_lock_and_a_deadline_around_it_the_one_that_passed_is_told(store, time):
    with pytest.raises(DeadlineExceeded) as caught:  # noqa: PT012
        with holdfast.deadline(1.0), holdfast.lock("a", 3.0, store):
            sleep(1.5)
            holdfast.check()
    assert caught.value.budget == 1.0


def test_work_that_outruns_its_lock_is_told_how_far(store, time):
    with pytest.raises(LockOverrun) as caught:
        with holdfast.lock("a", 3.0, store):
            sleep(5.0)
    assert (caught.value.ran, caught.value.allowed, caught.value.outside) == pytest.approx((5.0, 3.0, 2.0))


def test_the_users_own_exception_is_never_replaced_and_gets_a_note(store, time):
    with pytest.raises(KeyError) as caught:  # noqa: PT012
        with holdfast.lock("a", 3.0, store):
            sleep(5.0)
            raise KeyError("mine")
    assert "outside of the lock" in caught.value.__notes__[0]


def test_work_that_asks_is_stopped_at_the_locks_end(store, time):
    with pytest.raises(LockOverrun) as caught:  # noqa: PT012
        with holdfast.lock("a", 1.0, store):
            sleep(1.5)
            holdfast.check()
    assert isinstance(caught.value.__cause__, DeadlineExceeded)


def test_an_overrun_is_an_event(store, time):
    told = []
    stop = events.subscribe(told.append)
    with pytest.raises(LockOverrun):
        with holdfast.lock("a", 1.0, store):
            sleep(2.0)
    stop()
    assert [type(event).__name__ for event in told if event.policy == "a"] == ["LockTook", "LockOverran"]


def test_a_taken_lock_is_refused_after_the_wait(store, time):
    with holdfast.lock("a", 10.0, store):
        began = clock.now()
        with pytest.raises(LockTaken) as caught:
            holdfast.lock("a", 10.0, store, wait=2.0).__enter__()
        assert clock.now() - began == pytest.approx(2.0)
    assert caught.value.retry_after == pytest.approx(8.0)
    assert isinstance(caught.value, holdfast.Rejected)


def test_the_ambient_deadline_bounds_the_wait(store, time):
    with holdfast.lock("a", 10.0, store), holdfast.deadline(1.0):
        with pytest.raises(DeadlineExceeded):
            holdfast.lock("a", 10.0, store, wait=5.0).__enter__()


def test_a_lock_that_ran_out_is_anothers_and_is_left_alone(store, time):
    first, elsewhere = holdfast.lock("a", 1.0, store), contextvars.copy_context()
    elsewhere.run(first.__enter__)
    sleep(2.0)
    with holdfast.lock("a", 10.0, store) as held:
        with pytest.raises(LockOverrun):
            elsewhere.run(first.__exit__, None, None, None)
        with pytest.raises(LockTaken):
            holdfast.lock("a", 1.0, store).__enter__()
        assert held.remaining() > 9


def test_a_flushed_store_gives_it_to_another_with_a_larger_token(store, time):
    with holdfast.lock("a", 5.0, store) as first:
        store.flush()
        with holdfast.lock("a", 5.0, store) as second:
            assert second.token > first.token


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "lock.name must be"),
        ({"ttl": 0}, "lock.ttl must be > 0"),
        ({"wait": -1}, "lock.wait must be >= 0"),
        ({"store": "http://x"}, "lock.store must be a URL that begins with"),
        ({"max_hold": 5.0}, "lock.max_hold goes with renew"),
        ({"renew": True, "max_hold": 0.5}, "lock.max_hold must be >= ttl"),
    ],
)
def test_bad_arguments_say_which_and_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        holdfast.lock(**{"name": "a", "ttl": 1.0, "store": MemoryStore(), **arguments})


@pytest.mark.parametrize(
    "url",
    ["redis://u:secret/x@h:1", "redis://u:x@h:1?socket_timeout=secret", "postgresql://u:x@h/db?secret=1", "postgresql://u:secret@[h"],
)
def test_a_wrong_url_is_refused_at_once_and_without_being_quoted(url):
    with pytest.raises(ValueError, match=r"lock\.store must be a URL") as caught:
        holdfast.lock("a", 1.0, url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_what_is_no_store_is_a_type_error():
    with pytest.raises(TypeError, match=r"lock\.store"):
        holdfast.lock("a", 1.0, 42)


def test_a_block_is_entered_once_at_a_time(store):
    block = holdfast.lock("a", 1.0, store)
    with block, pytest.raises(RuntimeError, match="entered already"):
        block.__enter__()
    with block:
        pass
