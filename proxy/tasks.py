"""How background work is done: a task has a name, is kept alive, and its crash is logged; a loop
that fails is begun again, and it is known that it failed."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

import structlog

from proxy.clock import Clock

log = structlog.get_logger()
T = TypeVar("T")

# Before a loop is begun again: longer each time that it fails again.
FIRST_WAIT_S: Final = 0.5
MOST_WAIT_S: Final = 10.0
# A loop that has gone on for so long since it failed is well.
WELL_S: Final = 60.0

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


@dataclass(frozen=True, slots=True)
class Failure:
    """A loop that has failed lately: since when it does, and why it did last."""

    loop: str
    since: datetime
    error: str
    wait_s: float  # from then on until it was begun again
    well_s: float  # when it counts as well again, by the clock


class Loops:
    """Keeps loops going that are meant to run as long as the proxy does, and tells which of them
    do not do well."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # What changes: the last failure of each loop that ever had one.
        self._failures: dict[str, Failure] = {}

    def degraded(self) -> list[Failure]:
        """The loops that have failed, and have not gone on for WELL_S since."""
        now_s = self._clock.now()
        return [failure for failure in self._failures.values() if now_s < failure.well_s]

    @asynccontextmanager
    async def background(
        self, run: Callable[[], Coroutine[Any, Any, None]], *, name: str
    ) -> AsyncIterator[None]:
        """Have `run`, which goes on until cancelled, going for the length of the block; when it
        fails or ends by itself, that is logged and it is begun again."""
        task = spawn(self._keep(run, name), name=name)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def guarded(self, step: Callable[[T], None], *, name: str) -> Callable[[T], None]:
        """`step` for whoever calls it again and again: its failures are told of like a loop's."""

        def call(argument: T) -> None:
            try:
                step(argument)
            except Exception as error:
                degraded = any(failure.loop == name for failure in self.degraded())
                self._failed(name, error)
                if not degraded:  # else the log would have a trace each time
                    log.exception("loop_failed", loop=name)

        return call

    async def _keep(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        task = asyncio.current_task()
        while True:
            try:
                await run()
                raise RuntimeError("it has ended by itself")
            except (Exception, asyncio.CancelledError) as error:
                # A cancellation that is not ours is one of what it waited for.
                if task is not None and task.cancelling():
                    raise  # it failed while it came to its end, which is not to keep it going
                failure = self._failed(name, error)
                log.exception("loop_failed", loop=name, again_in_s=failure.wait_s)
            await self._clock.sleep(failure.wait_s)

    def _failed(self, name: str, error: BaseException) -> Failure:
        now_s = self._clock.now()
        last = self._failures.get(name)
        if last is None or now_s >= last.well_s:
            since, wait_s = self._clock.wall(), FIRST_WAIT_S
        else:
            since, wait_s = last.since, min(2 * last.wait_s, MOST_WAIT_S)
        failure = Failure(name, since, repr(error), wait_s, now_s + wait_s + WELL_S)
        self._failures[name] = failure
        return failure
