"""Which deadlines threads and tasks work under: whether anybody still works for a request that is over.

Cancelling an asyncio task does not stop a thread that it waits for, nor the tasks that it began. But whoever starts one for a request
(`asyncio.to_thread`, anyio, asgiref, `create_task`) has it run in a copy of the request's context, and there is its deadline. The
interpreter shows the frames of all threads, and theirs have that context at hand; a task refers to its own.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator
from contextvars import Context
from functools import partial
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any

from holdfast.deadlines import ambient

if TYPE_CHECKING:
    from types import FrameType

    from holdfast.deadlines import Deadline


def at_work() -> set[Deadline]:
    """The deadlines of all contexts that other threads, and other tasks of this loop, run in, with those that they are nested in."""
    mine, current = threading.get_ident(), asyncio.current_task()
    contexts = [_context_of_task(task) for task in asyncio.all_tasks() if task is not current]
    for ident, frame in sys._current_frames().items():
        if ident != mine:
            contexts += _contexts_on(frame)
    limits = (context.get(ambient) for context in contexts if context is not None)
    return {link for limit in limits if limit is not None for link in limit.around()}


def _context_of_task(task: asyncio.Task[Any]) -> Context | None:
    if sys.version_info >= (3, 12):
        return task.get_context()
    return next((found for found in gc.get_referents(task) if type(found) is Context), None)


def _contexts_on(frame: FrameType | None) -> Iterator[Context | None]:
    while frame is not None:
        for value in list(frame.f_locals.values()):
            yield _context_of(value)
        frame = frame.f_back


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
