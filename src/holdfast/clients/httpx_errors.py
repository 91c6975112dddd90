"""httpcore's errors, as httpx and httpx2 expect them from the network below."""

from __future__ import annotations

from typing import Any


class Mapped:
    """A block whose timeout and failure become the client's own errors, with ours as their cause."""

    __slots__ = ("_failure", "_timeout")

    def __init__(self, timeout: type[Exception], failure: type[Exception]) -> None:
        self._timeout = timeout
        self._failure = failure

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        if isinstance(error, TimeoutError):
            raise self._timeout(str(error)) from error
        if isinstance(error, OSError):
            raise self._failure(str(error)) from error


class Core:
    """httpcore, or httpcore2, and its errors.

    Args:
        library: the module.
    """

    __slots__ = ("connecting", "library", "reading", "writing")

    def __init__(self, library: Any) -> None:
        self.library = library
        self.connecting = Mapped(library.ConnectTimeout, library.ConnectError)
        self.reading = Mapped(library.ReadTimeout, library.ReadError)
        self.writing = Mapped(library.WriteTimeout, library.WriteError)
