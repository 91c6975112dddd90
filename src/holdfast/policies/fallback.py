"""Fallback: an answer for when there is none.

1. It answers for whatever failure of the named kinds comes out of all the other policies, refusals included.
2. It never answers for cancellation or interrupts, nor for the deadline of somebody further out: that caller is gone.
3. It is not guarded itself: it must be quick and local (a constant, a cache), not another remote call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY
from typing import Final

from holdfast.outcome import Matcher, check_matcher, describe_matcher, matches
from holdfast.validation import Config, config_with_first


class _Unset:
    def __repr__(self) -> str:
        return "<not given>"

    def __reduce__(self) -> str:
        return "_UNSET"  # a copy and what comes out of a pickle is the one there is


_UNSET: Final = _Unset()


@config_with_first
class Fallback(Config):
    """What to answer instead of failing.

    Args:
        call: asked with the exception; its result is the answer. It may be `async def` where the guarded call is.
        value: the answer itself. Exactly one of `call` and `value` is given.
        on: exception types, or a predicate on the exception: which failures it answers for.

    Raises:
        TypeError: both or neither of `call` and `value`, or one is not of its kind.
    """

    call: Callable[[Exception], object] | None = None
    _: KW_ONLY
    value: object = _UNSET
    on: Matcher = Exception

    def __post_init__(self) -> None:
        if (self.call is None) == (self.value is _UNSET):
            raise TypeError("Fallback takes either a callable (asked with the exception) or value=, exactly one of them")
        if self.call is not None and not callable(self.call):
            raise TypeError(f"Fallback.call must be callable, got {self.call!r}; give a constant as value=")
        check_matcher("Fallback.on", self.on)

    def wants(self, error: Exception) -> bool:
        """Whether it answers for this failure."""
        return matches(self.on, error)

    def answer(self, error: Exception) -> object:
        """The answer, or what `call` returned (which may be awaitable)."""
        return self.value if self.call is None else self.call(error)

    def describe(self) -> str:
        """The rules in words, for `Policy.explain`."""
        what = repr(self.value) if self.call is None else f"what {getattr(self.call, '__name__', self.call)!s} says"
        return f"on {describe_matcher(self.on)} answers {what}"
