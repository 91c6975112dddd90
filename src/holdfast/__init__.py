"""holdfast keeps a service standing while what it calls fails, and keeps it from knocking over what it calls."""

from holdfast import events
from holdfast.backoff import Backoff
from holdfast.errors import (
    BreakerOpen,
    BulkheadFull,
    DeadlineExceeded,
    HoldfastError,
    LockOverrun,
    Overloaded,
    RateLimited,
    Rejected,
    StoreUnavailable,
)
from holdfast.policies.adaptive import AdaptiveLimit
from holdfast.policies.breaker import Breaker
from holdfast.policies.budget import Budget
from holdfast.policies.bulkhead import Bulkhead
from holdfast.policies.fallback import Fallback
from holdfast.policies.hedge import Hedge
from holdfast.policies.ratelimit import RateLimit
from holdfast.policies.retry import Retry
from holdfast.policy import Policy, require
from holdfast.scope import carry, check, deadline, install, remaining, shield, uninstall

__version__ = "0.1.0"

__all__ = [
    "AdaptiveLimit",
    "Backoff",
    "Breaker",
    "BreakerOpen",
    "Budget",
    "Bulkhead",
    "BulkheadFull",
    "DeadlineExceeded",
    "Fallback",
    "Hedge",
    "HoldfastError",
    "LockOverrun",
    "Overloaded",
    "Policy",
    "RateLimit",
    "RateLimited",
    "Rejected",
    "Retry",
    "StoreUnavailable",
    "carry",
    "check",
    "deadline",
    "events",
    "install",
    "remaining",
    "require",
    "shield",
    "uninstall",
]
