"""What belongs to a route: the entry of the longest path prefix, by whole segments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Routes(Generic[T]):
    """A value per path prefix. "/checkout" holds for /checkout and all below it and not for /checkouts; "/" for everything.

    Slashes that are doubled or stand at the end make no difference, since most routers see none either.

    Args:
        field: its name in errors.
        given: one value for every path, or a mapping of prefix to value.
        check: what makes a value of what was given; raises where it is none.

    Raises:
        ValueError: a prefix does not begin with "/".
    """

    __slots__ = ("_by_prefix", "_depth", "_first", "_root", "everywhere")

    def __init__(self, field: str, given: object, check: Callable[[str, object], T]) -> None:
        by_prefix: Mapping[object, object] = given if isinstance(given, Mapping) else {"/": given}
        self._by_prefix: dict[str, tuple[str, T]] = {}
        for prefix, value in by_prefix.items():
            if not isinstance(prefix, str) or not prefix.startswith("/"):
                raise ValueError(f'{field} takes path prefixes that begin with "/", got {prefix!r}')
            name = _clean(prefix)
            self._by_prefix[name] = (name or "/", check(field if name == "" else f"{field}[{prefix!r}]", value))
        self._depth = max((name.count("/") for name in self._by_prefix), default=0)
        # Most requests are decided by their first segment: no entry begins with it.
        self._first = {name[: name.find("/", 1)] if name.count("/") > 1 else name for name in self._by_prefix}
        self._root = self._by_prefix.get("")
        # The entry of all paths, where none has one of its own: the usual case, which costs nothing.
        self.everywhere: tuple[str, T] | None = self._root if self._depth == 0 else None

    def find(self, path: str) -> tuple[str, T] | None:
        """The prefix and its value; None where no prefix fits."""
        if self.everywhere is not None:
            return self.everywhere
        if "//" in path:
            path = re.sub("//+", "/", path)
        end = path.find("/", 1)
        if (path if end < 0 else path[:end]) not in self._first:
            return self._root
        # No more segments than the longest prefix has: behind them may be thousands.
        segments = path.split("/", self._depth + 1)[1 : self._depth + 1]
        if segments and not segments[-1]:
            segments.pop()
        while segments:
            found = self._by_prefix.get("/" + "/".join(segments))
            if found is not None:
                return found
            segments.pop()
        return self._root

    def values(self) -> list[tuple[str, T]]:
        """Every prefix and its value."""
        return list(self._by_prefix.values())


def _clean(path: str) -> str:
    """Without doubled slashes and the one at the end; "" for the root."""
    return "".join(f"/{part}" for part in path.split("/") if part)
