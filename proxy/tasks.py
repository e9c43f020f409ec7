"""The one way to start a background task: it has a name, is kept alive, and its crash is logged."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()
T = TypeVar("T")

# asyncio keeps only weak references to tasks; these are the strong ones.
_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start `coroutine` as a task called `name`. Whoever needs its result may await the task.

    It has a context of its own: what it logs is not the doing of the request that happened to start
    it.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(coroutine, name=name, context=contextvars.Context())
    _running.add(task)
    task.add_done_callback(_finished)
    return task


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task_crashed", task=task.get_name(), exc_info=error)
