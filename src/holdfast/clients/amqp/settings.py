"""What publishers, for blocking and for async code, are told alike."""

from __future__ import annotations

from holdfast.backoff import Backoff
from holdfast.clients.amqp.judging import judge
from holdfast.clients.amqp.liveness import Liveness
from holdfast.clients.operation import Guarding
from holdfast.policies.retry import Retry
from holdfast.policy import Policy
from holdfast.validation import Seconds, positive_seconds, wait_seconds

# Where no policy is given: a broker that is restarted is back within that.
DEADLINE = 10.0


class Settings:
    """Checked arguments of a publisher or consumer; see there.

    Raises:
        ValueError, TypeError: one is out of its range.
    """

    def __init__(self, policy: Policy | None, dead_after: Seconds, confirm_timeout: Seconds, blocked_after: Seconds) -> None:
        self.liveness = Liveness(dead_after)
        self.confirm_timeout = positive_seconds("confirm_timeout", confirm_timeout)
        self.blocked_after = wait_seconds("blocked_after", blocked_after)
        self.policy = default_policy() if policy is None else policy
        self.guarding = Guarding(self.policy, "amqp", judge)


def default_policy() -> Policy:
    """What guards a publisher for which nobody said otherwise."""
    return Policy("amqp", deadline=DEADLINE, retry=Retry(attempts=20, backoff=Backoff(base=0.1, cap=1.0)))
