"""What all tests share: how much Hypothesis tries, what becomes of a test whose server is not here, and one way to say a call that is made
by blocking and by async code.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from holdfast import Policy
from holdfast.replay.parts.process import Unavailable
from holdfast.testing import FakeClock

# The same examples on every run: a red build is about the change in it. `HYPOTHESIS_PROFILE=deep` looks further, with new ones.
_QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("ci", derandomize=True, max_examples=60, stateful_step_count=40, database=None, **_QUIET)
settings.register_profile("deep", max_examples=2000, stateful_step_count=80, **_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@contextmanager
def _skipped_outside_of_ci() -> Generator[None]:
    """CI has everything, so there it is a failure."""
    try:
        yield
    except Unavailable as missing:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """A fixture may raise Unavailable."""
    with _skipped_outside_of_ci():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """So may a test."""
    with _skipped_outside_of_ci():
        return (yield)


class Drive:
    """Calls through a policy under a fake clock, by the driver for threads or the one for async code."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.clock = FakeClock()

    @property
    def is_async(self) -> bool:
        return self.kind == "async"

    def call(self, policy: Policy, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make one call; `fn` is a plain function or a `Scripted`, made async where that is the driver."""
        if not self.is_async:
            with self.clock:
                return policy.call(fn, *args, **kwargs)
        return self.clock.run(policy.acall(self.made(fn), *args, **kwargs))

    def made(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """`fn` as the kind of function that this driver calls."""
        if not self.is_async:
            return fn
        if hasattr(fn, "acall"):
            return fn.acall

        async def made(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        return made

    def look(self, ask: Callable[[], Any]) -> Any:
        """Ask something under the clock, such as a snapshot or a state."""
        with self.clock:
            return ask()

    def outcome(self, policy: Policy, fn: Callable[..., Any], *args: Any) -> Any:
        """What a call returned, or the exception that it raised."""
        try:
            return self.call(policy, fn, *args)
        except Exception as error:
            return error


@pytest.fixture(params=["sync", "async"])
def drive(request: pytest.FixtureRequest) -> Drive:
    """Both drivers, each with a clock of its own."""
    return Drive(request.param)
