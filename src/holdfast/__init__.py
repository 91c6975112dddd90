"""holdfast keeps a service standing while what it calls fails, and keeps it from knocking over what it calls."""

from typing import TYPE_CHECKING

from holdfast import events
from holdfast.backoff import Backoff
from holdfast.errors import (
    BreakerOpen,
    BulkheadFull,
    DeadlineExceeded,
    HoldfastError,
    LockOverrun,
    LockTaken,
    Overloaded,
    RateLimited,
    Rejected,
    StoreUnavailable,
)
from holdfast.policies.breaker import Breaker
from holdfast.policies.budget import Budget
from holdfast.policies.bulkhead import Bulkhead
from holdfast.policies.retry import Retry
from holdfast.policy import Policy, require
from holdfast.scope import carry, check, deadline, install, remaining, shield, uninstall

if TYPE_CHECKING:
    from holdfast.mutex import lock
    from holdfast.policies.adaptive import AdaptiveLimit
    from holdfast.policies.fallback import Fallback
    from holdfast.policies.hedge import Hedge
    from holdfast.policies.ratelimit import RateLimit

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
    "LockTaken",
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
    "lock",
    "remaining",
    "require",
    "shield",
    "uninstall",
]


# What few programs need is loaded when it is asked for.
_LATER = {
    "AdaptiveLimit": "holdfast.policies.adaptive",
    "Fallback": "holdfast.policies.fallback",
    "Hedge": "holdfast.policies.hedge",
    "RateLimit": "holdfast.policies.ratelimit",
    "fleet": "holdfast.fleet",
    "lock": "holdfast.mutex",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    from importlib import import_module

    module = import_module(_LATER[name])
    found = globals()[name] = getattr(module, name, module)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
