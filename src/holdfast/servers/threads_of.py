"""Whether threads still work for a request that is over.

Cancelling an asyncio task does not stop a thread that it waits for, and from then on nobody waits for that thread. But whoever starts
one for a request (`asyncio.to_thread`, anyio, asgiref) has it run in a copy of the request's context, and there is its deadline. The
interpreter shows the frames of all threads, and theirs have that context at hand.
"""

from __future__ import annotations

import sys
import threading
from contextvars import Context
from functools import partial
from types import BuiltinMethodType
from typing import TYPE_CHECKING

from holdfast.deadlines import ambient

if TYPE_CHECKING:
    from types import FrameType

    from holdfast.deadlines import Deadline


def work_for(limit: Deadline) -> bool:
    """Whether a thread other than this one runs in a context whose deadline is `limit`, or is nested in it."""
    mine = threading.get_ident()
    return any(_runs_under(frame, limit) for ident, frame in sys._current_frames().items() if ident != mine)


def _runs_under(frame: FrameType | None, limit: Deadline) -> bool:
    while frame is not None:
        for value in list(frame.f_locals.values()):
            context = _context_of(value)
            found = None if context is None else context.get(ambient)
            if found is not None and any(link is limit for link in found.around()):
                return True
        frame = frame.f_back
    return False


def _context_of(value: object) -> Context | None:
    """A context, or that of something that runs in one: anyio has the context itself, others its `run`, alone, in a partial, or in a
    work item of an executor.
    """
    # By the type alone: anything else that a variable holds may be a proxy, which runs code when it is asked what it is.
    if type(value).__name__ == "_WorkItem":
        value = value.fn  # type: ignore[attr-defined]  # concurrent.futures
    if type(value) is partial:
        value = next((part for part in (value.func, *value.args) if type(part) is BuiltinMethodType), None)
    if type(value) is BuiltinMethodType:
        value = getattr(value, "__self__", None)
    context: object = value if type(value) is Context else None
    return context if isinstance(context, Context) else None  # the type checkers' question: they do not narrow alike
