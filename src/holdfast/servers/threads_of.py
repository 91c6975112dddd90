"""Whether threads or tasks still work for a request that is over.

Cancelling an asyncio task does not stop a thread that it waits for, nor the tasks that it began. But whoever starts one for a request
(`asyncio.to_thread`, anyio, asgiref, `create_task`) has it run in a copy of the request's context, and there is its deadline. The
interpreter shows the frames of all threads, and theirs have that context at hand; a task refers to its own.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from contextvars import Context
from functools import partial
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any

from holdfast.deadlines import ambient

if TYPE_CHECKING:
    from types import FrameType

    from holdfast.deadlines import Deadline


def work_for(limit: Deadline) -> bool:
    """Whether a thread or a task other than this one runs in a context whose deadline is `limit`, or is nested in it."""
    mine, current = threading.get_ident(), asyncio.current_task()
    return any(_is_of(_context_of_task(task), limit) for task in asyncio.all_tasks() if task is not current) or any(
        _runs_under(frame, limit) for ident, frame in sys._current_frames().items() if ident != mine
    )


def _context_of_task(task: asyncio.Task[Any]) -> Context | None:
    if sys.version_info >= (3, 12):
        return task.get_context()
    return next((found for found in gc.get_referents(task) if type(found) is Context), None)


def _is_of(context: Context | None, limit: Deadline) -> bool:
    found = None if context is None else context.get(ambient)
    return found is not None and any(link is limit for link in found.around())


def _runs_under(frame: FrameType | None, limit: Deadline) -> bool:
    while frame is not None:
        for value in list(frame.f_locals.values()):
            if _is_of(_context_of(value), limit):
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
