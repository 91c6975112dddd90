"""Checks of what users configure: each error names the field, the allowed range and what was given."""

from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, dataclass_transform

if TYPE_CHECKING:
    from datetime import timedelta

C = TypeVar("C", bound="Config")


class Config:
    """Base of what users configure: a dataclass that is frozen, slotted, and compared and shown by its fields.

    `@dataclass(frozen=True)` says the same, and generates and compiles six methods for each class: a quarter of the time of
    `import holdfast`. Here they are written once.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        # Only __init__ finds a slot empty.
        if hasattr(self, name) or name not in self.__dataclass_fields__:  # type: ignore[attr-defined]  # the decorator's
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _key(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self) if field.compare)  # type: ignore[arg-type]  # it is a dataclass

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __repr__(self) -> str:
        shown = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.repr)  # type: ignore[arg-type]  # see above
        return f"{type(self).__name__}({', '.join(shown)})"

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # type: ignore[attr-defined]  # see above

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[C]) -> type[C]:
    """Class decorator: the annotated fields become keyword arguments."""
    return dataclass(slots=True, kw_only=True, eq=False, repr=False, match_args=False)(cls)


@dataclass_transform(frozen_default=True)
def config_with_first(cls: type[C]) -> type[C]:
    """The same for a class whose first field may be given without its name; `_: KW_ONLY` stands below it."""
    return dataclass(slots=True, eq=False, repr=False, match_args=False)(cls)


# A length of time at the public edge: seconds, a timedelta, or text like "250ms". Inside it is float seconds.
Seconds: TypeAlias = "float | timedelta | str"

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_TEXT = r"([0-9]+(?:\.[0-9]+)?) ?(us|ms|s|m|h)"  # compiled when the first text is read, not at import


def to_seconds(field: str, value: object) -> float:
    """Read a length of time.

    Args:
        field: its name in the error, like `Breaker.window`.
        value: a number of seconds, a timedelta, or text: a number and one of us, ms, s, m, h.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        match = re.fullmatch(_TEXT, value)
        if match:
            return float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return _as_float(value)
    elif hasattr(value, "total_seconds"):  # without importing datetime, which few need and is slow to import
        return float(value.total_seconds())  # pyright: ignore[reportAttributeAccessIssue]
    raise ValueError(f'{field} must be seconds, a timedelta or text like "250ms", got {value!r}')


def positive_seconds(field: str, value: object) -> float:
    """A length of time above 0 and finite."""
    return _in_range(field, to_seconds(field, value), value, "> 0 seconds and finite", low=0.0, low_open=True)


def wait_seconds(field: str, value: object) -> float:
    """A length of time of 0 or more, and finite."""
    return _in_range(field, to_seconds(field, value), value, ">= 0 seconds and finite", low=0.0)


def share(field: str, value: object, *, zero: bool = False) -> float:
    """A share of something, in (0, 1], or in [0, 1] with `zero`."""
    text = "in [0, 1]" if zero else "in (0, 1]"
    return _in_range(field, _number(field, value, text), value, text, low=0.0, low_open=not zero, high=1.0)


def number(field: str, value: object, *, low: float, low_open: bool = False) -> float:
    """A finite number from `low` up."""
    text = f"{'>' if low_open else '>='} {low:g} and finite"
    return _in_range(field, _number(field, value, text), value, text, low=low, low_open=low_open)


def count(field: str, value: object, *, low: int = 1, high: int | None = None) -> int:
    """A whole number from `low` up, to `high` where something is kept for each."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{field} must be a whole number >= {low}, got {value!r}")
    if high is not None and value > high:
        raise ValueError(f"{field} must be <= {high}, got {value!r}")
    return value


def choice(field: str, value: str, allowed: tuple[str, ...]) -> str:
    """One of a few words."""
    if value not in allowed:
        raise ValueError(f"{field} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _number(field: str, value: object, text: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{field} must be {text}, got {value!r}")  # noqa: TRY004  (bad values are ValueErrors, whatever is bad)
    return _as_float(value)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond what a float can hold
        return math.inf if value > 0 else -math.inf


def _in_range(
    field: str,
    checked: float,
    given: object,
    text: str,
    *,
    low: float,
    low_open: bool = False,
    high: float = math.inf,
) -> float:
    inside = low < checked if low_open else low <= checked
    if not inside or checked > high or not math.isfinite(checked):  # NaN is inside of nothing
        raise ValueError(f"{field} must be {text}, got {given!r}")
    return checked
