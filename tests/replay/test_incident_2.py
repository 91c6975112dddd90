"""Incident 2: what it takes for the kernel's rule, and how it reads what it saw. `make replay` plays it whole."""

from __future__ import annotations

import pytest

from holdfast.replay.incidents import firewall
from holdfast.replay.incidents.firewall_town import Both, Outcome, given_up, kernel_schedule


def outcome(delay: float | None, ran: float = 1.0, receipts: int = 1, felt: float | None = 1.0) -> Outcome:
    return Outcome(asked=100.0, receipts=[] if delay is None else [100.0 + delay] * receipts, ran=ran, allowed=3.0, felt=felt)


def test_linux_gives_up_after_924_seconds_and_15_retransmissions() -> None:
    """ip-sysctl, tcp_retries2: "the default value of 15 yields a hypothetical timeout of 924.6 seconds"."""
    assert given_up(15) == pytest.approx(924.6)
    assert given_up(5) == pytest.approx(12.6)
    assert kernel_schedule(4) == [0.2, 0.6, 1.4, 3.0]


def test_waits_that_double_show_the_incident_and_others_do_not() -> None:
    run = outcome(13.3, ran=13.3)
    doubling = [(1, 0.3), (2, 0.7), (3, 1.5), (4, 3.1), (5, 6.5)]
    assert [claim.held for claim in firewall._shown(run, doubling, 5)] == [True, True, True]
    even = [(number, float(number)) for number in range(1, 6)]
    assert [claim.held for claim in firewall._shown(run, even, 5)] == [False, True, True]
    assert [claim.held for claim in firewall._shown(outcome(1.0), [], 5)] == [False, False, False]


@pytest.mark.parametrize(
    ("run", "held"),
    [
        (outcome(1.0), [True, True]),
        (outcome(6.0), [False, True]),
        (outcome(None), [False, True]),
        (outcome(1.0, receipts=2), [False, True]),
        (outcome(1.0, ran=3.5), [True, False]),
        (outcome(1.0, ran=0.0), [True, False]),  # nothing was seen to run, so nothing is shown
    ],
)
def test_a_late_a_lost_and_a_second_receipt_break_the_claims(run: Outcome, held: list[bool]) -> None:
    assert [claim.held for claim in firewall._kept(run)] == held


@pytest.mark.parametrize(
    ("run", "held"),
    [
        (outcome(4.5), True),
        (outcome(9.5), False),
        (outcome(4.5, felt=6.0), False),
        (outcome(4.5, felt=None), False),
        (outcome(4.5, receipts=2), False),
        (outcome(4.5, ran=3.1), False),
        (outcome(None), False),
    ],
)
def test_a_fault_is_felt_in_time_and_over_in_time(run: Outcome, held: bool) -> None:
    assert firewall._felt("link down", Both(lasted=4.0, unprotected=outcome(4.0), protected=run)).held is held


def test_a_lock_that_could_not_be_given_back_is_waited_for() -> None:
    run = Outcome(asked=0.0, receipts=[33.0], ran=1.0, allowed=30.0, felt=2.0)
    assert firewall._felt("link down", Both(lasted=4.0, unprotected=run, protected=run)).held
