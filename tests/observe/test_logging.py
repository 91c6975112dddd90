"""Log lines: one for what matters, bounded, readable by machines, and without what users sent."""

import json
import logging as standard

import pytest

from holdfast import Backoff, Breaker, Budget, Bulkhead, Fallback, Policy, Retry, events, records
from holdfast.observe import logging
from holdfast.testing import FakeClock, Scripted

PLAIN = {*vars(standard.makeLogRecord({})), "message"}


class Kept(standard.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    @property
    def lines(self):
        return [record.getMessage() for record in self.records]

    @property
    def extras(self):
        return [{name: value for name, value in vars(record).items() if name not in PLAIN} for record in self.records]


@pytest.fixture
def kept():
    handler = Kept()
    logger = standard.getLogger("test.holdfast")
    logger.addHandler(handler)
    logger.setLevel(standard.DEBUG)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)


@pytest.fixture
def logged(kept):
    stop = logging.install("test.holdfast")
    yield kept
    stop()


def quietly(policy, *outcomes):
    try:
        policy.call(Scripted(*outcomes))
    except Exception as error:
        return error
    return None


def test_a_success_writes_nothing(logged):
    Policy("billing", retry=Retry(), breaker=Breaker(), bulkhead=Bulkhead(1)).call(int)
    assert logged.lines == []


def test_what_matters_is_one_line_each_with_its_level(logged):
    billing = Policy("billing", retry=Retry(attempts=2, backoff=Backoff(base=0.1, jitter="none")), breaker=Breaker(consecutive=2))
    with FakeClock():
        quietly(billing, ConnectionError("a"), ConnectionError("b"))
        quietly(billing, "ok")
    assert logged.lines == [
        "billing: attempt 1 failed (ConnectionError), the next in 0.1 s",
        "billing: breaker closed -> open: 2 failures in a row, probes in 30 s",
        "billing: gave up after 2 attempts (ConnectionError): no attempts left",
        "billing: refused (BreakerOpen)",
    ]
    assert [record.levelname for record in logged.records] == ["INFO", "WARNING", "WARNING", "WARNING"]


def test_values_are_attributes_that_json_knows(logged):
    quietly(Policy("billing", retry=Retry(attempts=1)), ConnectionError("x"))
    quietly(Policy("billing", fallback=Fallback(value=1)), ConnectionError("x"))
    assert [json.loads(json.dumps(extra)) for extra in logged.extras] == [
        {
            "holdfast_event": "gave_up",
            "holdfast_policy": "billing",
            "holdfast_attempts": 1,
            "holdfast_reason": "no attempts left",
            "holdfast_error": "ConnectionError",
        },
        {"holdfast_event": "fell_back", "holdfast_policy": "billing", "holdfast_error": "ConnectionError"},
    ]


def test_no_text_of_an_error_is_written(logged):
    secret = "postgres://user:hunter2@db/orders"
    billing = Policy("billing", retry=Retry(backoff=Backoff(base=0.0)), fallback=Fallback(value=0))
    quietly(billing, *[ConnectionError(secret)] * 3)
    assert logged.records
    assert "hunter2" not in "".join(logged.lines) + repr(logged.extras)


def test_a_name_cannot_begin_a_line_of_its_own(logged):
    quietly(Policy("a\nERROR root: all is lost\x1b[31m", retry=Retry(attempts=1)), ConnectionError())
    assert "\n" not in logged.lines[0]
    assert "\x1b" not in logged.lines[0]


def test_an_outage_does_not_flood_the_log_and_the_next_line_says_what_was_left_out(kept):
    stop = logging.install("test.holdfast", burst=3, every=1.0)
    shut = Policy("shut", breaker=Breaker())
    other = Policy("other", breaker=Breaker())
    with FakeClock() as clock:
        shut.breaker.force_open()
        for _ in range(1000):
            quietly(shut, 1)
        assert kept.lines.count("shut: refused (BreakerOpen)") == 3
        other.breaker.force_open()
        quietly(other, 1)  # another policy has lines of its own
        assert kept.lines[-1] == "other: refused (BreakerOpen)"
        clock.advance(1.0)
        quietly(shut, 1)
        assert kept.lines[-1] == "shut: refused (BreakerOpen) (997 more like it were left out)"
        assert kept.extras[-1]["holdfast_left_out"] == 997
        quietly(shut, 1)
        assert kept.lines[-1] == "shut: refused (BreakerOpen) (997 more like it were left out)"
    stop()


def test_many_names_share_one_rate(kept):
    stop = logging.install("test.holdfast", burst=1, every=1000, max_policies=5)
    for number in range(100):
        quietly(Policy(f"user-{number}", retry=Retry(attempts=1)), ConnectionError())
    assert len(kept.lines) == 6
    stop()


def test_a_handler_that_calls_through_a_policy_does_not_write_for_ever(logged):
    logs = Policy("logs", retry=Retry(attempts=1))

    class Sending(standard.Handler):
        def emit(self, record):
            quietly(logs, ConnectionError())

    handler = Sending()
    logger = standard.getLogger("test.holdfast")
    logger.addHandler(handler)
    try:
        quietly(Policy("billing", retry=Retry(attempts=1)), ConnectionError())
    finally:
        logger.removeHandler(handler)
    assert [line.split(":")[0] for line in logged.lines] == ["billing"]


def test_what_the_logger_would_not_write_costs_no_rate(kept):
    stop = logging.install("test.holdfast", burst=1)
    billing = Policy("billing", retry=Retry(attempts=2, budget=Budget(), backoff=Backoff(base=0.0)))
    logger = standard.getLogger("test.holdfast")
    logger.setLevel(standard.WARNING)
    quietly(billing, ConnectionError(), "ok")
    assert kept.lines == []
    logger.setLevel(standard.INFO)
    quietly(billing, ConnectionError(), "ok")
    assert len(kept.lines) == 1
    stop()


def test_deadlines_that_were_outrun_are_told_also_those_of_blocks(logged):
    import holdfast

    with FakeClock() as clock:
        Policy("report", deadline=1.0).call(clock.advance, 1.5)
        with holdfast.deadline(1.0):
            clock.advance(1.25)
    assert logged.lines == [
        "report: ran 0.5 s past its deadline of 1 s",
        "a deadline block: ran 0.25 s past its deadline of 1 s",
    ]


def test_locks_and_the_fleet_have_lines_and_a_lock_has_no_name_in_them(logged):
    events.publish(
        [
            records.LockTook("order:42", 0.3, 7),
            records.LockOverran("order:42", 33.0, 30.0, 3.0),
            records.LockLost("order:42", "somebody else has it"),
            records.FleetLost("", "no answer\nin 0.2 s"),
            records.FleetBack("", 12.0),
        ]
    )
    assert logged.lines == [
        "a lock: work ran 33 s, 30 s were allowed, 3 s of it outside of the lock",
        "a lock: lost (somebody else has it)",
        "fleet: the store cannot be asked, this process goes on alone (no answer?in 0.2 s)",
        "fleet: the store answers again, after 12 s",
    ]
    assert "order" not in repr(logged.extras)


def test_any_number_of_locks_shares_one_rate(kept):
    stop = logging.install("test.holdfast", burst=2, every=1000)
    for number in range(50):
        events.publish([records.LockLost(f"order:{number}", "gone")])
    assert len(kept.lines) == 2
    stop()


def test_installing_twice_writes_once_and_undoing_ends_it(kept):
    before = list(events.listeners)
    stop = logging.install("test.holdfast")
    logging.install(standard.getLogger("test.holdfast"))
    billing = Policy("billing", retry=Retry(attempts=1))
    quietly(billing, ConnectionError())
    assert len(kept.lines) == 1
    stop()
    stop()
    assert events.listeners == before
    quietly(billing, ConnectionError())
    assert len(kept.lines) == 1


def test_only_the_chosen_policies(kept):
    billing, other = (Policy(name, retry=Retry(attempts=1)) for name in ("billing", "other"))
    stop = logging.install("test.holdfast", policies=[billing])
    quietly(billing, ConnectionError())
    quietly(other, ConnectionError())
    assert [line.split(":")[0] for line in kept.lines] == ["billing"]
    with pytest.raises(ValueError, match="other policies"):
        logging.install("test.holdfast", policies=[other])
    stop()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"burst": 0}, ValueError, "burst must be a whole number >= 1, got 0"),
        ({"every": 0}, ValueError, "every must be > 0 seconds and finite, got 0"),
        ({"max_policies": 0}, ValueError, "max_policies must be a whole number >= 1, got 0"),
        ({"logger": 3}, TypeError, "logger must be a logging.Logger or a name, got 3"),
    ],
)
def test_wrong_arguments_name_themselves(arguments, error, message):
    with pytest.raises(error, match=message):
        logging.install(**arguments)
