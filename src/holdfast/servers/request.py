"""A request as the parts see it: the same for WSGI and ASGI, for functions of the user's that look at one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any


class Headers(Mapping[str, str]):
    """Headers by name in any case. One that came several times is joined by ", "; `all` has them one by one."""

    __slots__ = ("_by_name",)

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._by_name: dict[str, list[str]] = {}
        for name, value in pairs:
            self._by_name.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._by_name[name.lower()])

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def all(self, name: str) -> list[str]:
        """Every value of the header; empty where it did not come."""
        return list(self._by_name.get(name.lower(), ()))


class Request(Mapping[str, Any]):
    """What came in, apart from the body.

    As a mapping it is what the server gave: WSGI's environ, ASGI's scope.

    Args:
        raw: that mapping.
        method: upper case.
        path: as the client wrote it, where the server tells; with the mount point.
        query: without the question mark.
        headers: of the request.
    """

    __slots__ = ("headers", "method", "path", "query", "raw")

    def __init__(self, raw: Mapping[str, Any], method: str, path: str, query: str, headers: Headers) -> None:
        self.raw = raw
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers

    def __getitem__(self, name: str) -> Any:
        return self.raw[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.path}>"


def from_environ(environ: Mapping[str, Any]) -> Request:
    """A WSGI request."""
    pairs = [(name[5:].replace("_", "-"), str(value)) for name, value in environ.items() if name.startswith("HTTP_")]
    pairs += [(name.replace("_", "-"), str(environ[name])) for name in ("CONTENT_TYPE", "CONTENT_LENGTH") if environ.get(name)]
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    return Request(environ, str(environ["REQUEST_METHOD"]).upper(), path, str(environ.get("QUERY_STRING", "")), Headers(pairs))


def from_scope(scope: MutableMapping[str, Any]) -> Request:
    """An ASGI request."""
    pairs = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in scope["headers"]]
    raw_path = scope.get("raw_path")
    path = bytes(raw_path).decode("latin-1") if raw_path else str(scope["path"])
    return Request(scope, str(scope["method"]).upper(), path, bytes(scope.get("query_string", b"")).decode("latin-1"), Headers(pairs))
