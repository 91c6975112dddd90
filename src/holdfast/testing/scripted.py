"""A dependency that does what it is told, for tests of policies and of the code around them."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.drivers.clock import current
from holdfast.scope import check, remaining
from holdfast.validation import wait_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One answer: after so many seconds, a result or an error.

    Args:
        after: how long it takes, >= 0 seconds.
        result: what it returns.
        error: what it raises instead.
    """

    after: float = 0.0
    result: object = None
    error: BaseException | None = None

    def __post_init__(self) -> None:
        wait_seconds("Step.after", self.after)


class Scripted:
    """Answers call after call from a script; when the script is over, its last step goes on.

    It obeys the deadline as a well-behaved client does: blocking it stops waiting at it and raises DeadlineExceeded.

    Args:
        steps: a `Step` each, or an exception to raise, or anything else to return. At least one.
    """

    def __init__(self, *steps: object) -> None:
        if not steps:
            raise ValueError("Scripted needs at least one step")
        self._steps = [_as_step(step) for step in steps]
        self.began: list[float] = []

    @property
    def calls(self) -> int:
        """How often it was called."""
        return len(self.began)

    def next_step(self) -> Step:
        """Count a call, and say how it is to go."""
        self.began.append(current.get().now())
        return self._steps[min(self.calls, len(self._steps)) - 1]

    def __call__(self, *_args: object, **_kwargs: object) -> object:
        """Answer the next step."""
        step = self.next_step()
        left = remaining()
        current.get().sleep(min(step.after, left))
        if step.after >= left:
            check()
        return _end(step)

    async def acall(self, *_args: object, **_kwargs: object) -> object:
        """The same for async code: it waits in `asyncio.sleep`, and a deadline cancels it there."""
        import asyncio

        step = self.next_step()
        await asyncio.sleep(step.after)
        return _end(step)


def _as_step(step: object) -> Step:
    if isinstance(step, Step):
        return step
    if isinstance(step, BaseException):
        return Step(error=step)
    return Step(result=step)


def _end(step: Step) -> object:
    if step.error is not None:
        raise step.error
    return step.result
