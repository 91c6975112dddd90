"""The peers, set up the way their manuals do. They are imported by name, since the lint runs where they are not installed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

Work = Callable[[int], int]
AsyncWork = Callable[[int], Awaitable[int]]


def _pyresilience(**more: Any) -> Any:
    lib = import_module("pyresilience")
    return lib.resilient(
        retry=lib.RetryConfig(max_attempts=3, delay=0.1, retry_on=(ConnectionError, TimeoutError)),
        circuit_breaker=lib.CircuitBreakerConfig(),
        bulkhead=lib.BulkheadConfig(max_concurrent=64),
        **more,
    )


def pyresilience(fn: Work) -> Work:
    """Retry, breaker (failures in a row, its default and its cheapest) and bulkhead; its deadline would be a thread pool."""
    guarded: Work = _pyresilience()(fn)
    return guarded


def pyresilience_window(fn: Work) -> Work:
    """The same with a failure rate over the last 100 calls, which is nearer to what holdfast counts."""
    lib = import_module("pyresilience")
    guarded: Work = lib.resilient(
        retry=lib.RetryConfig(max_attempts=3, delay=0.1, retry_on=(ConnectionError, TimeoutError)),
        circuit_breaker=lib.CircuitBreakerConfig(sliding_window_size=100, minimum_calls=100),
        bulkhead=lib.BulkheadConfig(max_concurrent=64),
        retry_budget=lib.RetryBudgetConfig(),
    )(fn)
    return guarded


def pyresilience_async(fn: AsyncWork) -> AsyncWork:
    """All five."""
    lib = import_module("pyresilience")
    guarded: AsyncWork = _pyresilience(timeout=lib.TimeoutConfig(seconds=2.0), retry_budget=lib.RetryBudgetConfig())(fn)
    return guarded


def pyresilience_open(fn: Work) -> tuple[Work, type[Exception]]:
    """A breaker that has opened, and what it raises."""
    lib = import_module("pyresilience")

    def fails(value: int) -> int:
        if value:
            return fn(value)
        raise ConnectionError

    guarded: Work = lib.resilient(
        circuit_breaker=lib.CircuitBreakerConfig(failure_threshold=1, recovery_timeout=1e6),
        bulkhead=lib.BulkheadConfig(max_concurrent=64),
    )(fails)
    _fail_once(guarded)
    refusal: type[Exception] = lib.CircuitOpenError
    return guarded, refusal


def tenacity_pybreaker(fn: Work) -> Work:
    """A retry around a breaker: the usual pair."""
    tenacity, pybreaker = import_module("tenacity"), import_module("pybreaker")
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=30)
    retry = tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_exponential_jitter(0.1),
        retry=tenacity.retry_if_exception_type((ConnectionError, TimeoutError)),
        reraise=True,
    )
    guarded: Work = retry(breaker(fn))
    return guarded


def tenacity(fn: Any) -> Any:
    """A retry alone, of blocking or of async code."""
    lib = import_module("tenacity")
    return lib.retry(
        stop=lib.stop_after_attempt(3),
        wait=lib.wait_exponential_jitter(0.1),
        retry=lib.retry_if_exception_type((ConnectionError, TimeoutError)),
        reraise=True,
    )(fn)


def stamina(fn: Any) -> Any:
    """A retry alone, of blocking or of async code."""
    return import_module("stamina").retry(on=(ConnectionError, TimeoutError), attempts=3)(fn)


def pybreaker_open(fn: Work) -> tuple[Work, type[Exception]]:
    """A breaker that has opened, and what it raises."""
    lib = import_module("pybreaker")
    breaker = lib.CircuitBreaker(fail_max=1, reset_timeout=10**6)
    guarded: Work = breaker(fn)
    breaker.open()
    refusal: type[Exception] = lib.CircuitBreakerError
    return guarded, refusal


def _fail_once(guarded: Work) -> None:
    with suppress(ConnectionError):
        guarded(0)
