"""Reads plain data, as JSON has it, back into dataclasses by their annotations; what does not fit is an error that says where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

_PLAIN: Mapping[object, tuple[tuple[type, ...], str]] = {
    str: ((str,), "text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    NoneType: ((NoneType,), "null"),
}


def read(kind: type[T], value: object, where: str) -> T:
    """Build a dataclass from a mapping. Keys that it does not have are left alone: newer files may say more.

    Args:
        kind: the dataclass; a field's metadata may have its "key" there, where that is not its name.
        value: what json.loads made.
        where: what the errors call it: "incidents[0]".

    Raises:
        ValueError: something is missing or of another kind; the message names the field, what it must be and what it is.
    """
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    hints = get_type_hints(kind)
    given: dict[str, object] = {}
    for field in fields(kind):  # type: ignore[arg-type]  # kind is a dataclass
        key = field.metadata.get("key", field.name)
        inside = f"{where}.{key}".removeprefix(".")
        if key in value:
            given[field.name] = _read(hints[field.name], value[key], inside)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{inside} is missing")
    return kind(**given)


def _read(kind: Any, value: object, where: str) -> object:
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return read(cast("type[object]", kind), value, where)
    if origin is Sequence:
        return tuple(_read(inner[0], one, f"{where}[{number}]") for number, one in enumerate(_items(value, where)))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object", value)
        return {str(name): _read(inner[1], one, f"{where}.{name}") for name, one in value.items()}
    if origin is tuple:
        items = _items(value, where)
        if len(items) != len(inner):
            raise _wrong(where, f"a list of {len(inner)}", value)
        return tuple(_read(one, item, f"{where}[{number}]") for number, (one, item) in enumerate(zip(inner, items, strict=True)))
    if origin is Literal:
        if value not in inner:
            raise _wrong(where, f"one of {', '.join(map(str, inner))}", value)
        return value
    return _read_plain(inner if origin in {Union, UnionType} else (kind,), value, where)


def _read_plain(kinds: Sequence[object], value: object, where: str) -> object:
    for kind in kinds:
        # A bool is an int to isinstance, and a figure is neither true nor false.
        if isinstance(value, _PLAIN[kind][0]) and (kind is bool or not isinstance(value, bool)):
            return value
    words = [_PLAIN[kind][1] for kind in kinds if not (kind is int and float in kinds)]
    raise _wrong(where, " or ".join(words), value)


def _items(value: object, where: str) -> Sequence[object]:
    if isinstance(value, (list, tuple)):
        return value
    raise _wrong(where, "a list", value)


def _wrong(where: str, must: str, value: object) -> ValueError:
    shown = repr(value)
    return ValueError(f"{where or 'the file'} must be {must}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")
