"""The time at which each idle backend has to go."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from proxy.clock import Clock
from proxy.pool.state import Backend, Name
from proxy.tasks import spawn


class Timers:
    """One task for each backend that has been idle. A request puts the time off without a new
    one: the task looks when it wakes."""

    def __init__(self, clock: Clock, fired: Callable[[Name], None]) -> None:
        """`fired` is told when the time of a start has come."""
        self._clock, self._fired = clock, fired
        # What changes:
        self._tasks: dict[Name, asyncio.Task[None]] = {}
        self._wakes: dict[Name, float] = {}  # when each task wakes; what is due then may be later
        self._due: dict[Name, float] = {}

    def set(self, backend: Backend, at_s: float | None) -> None:
        """Have it fire at `at_s` (monotonic) instead of whatever was set before; None: not at
        all."""
        name, task = backend.name, self._tasks.get(backend.name)
        backend.expires_at = None
        if at_s is None:
            # One in use will be idle again: its task sleeps on, and looks when it wakes.
            self._due.pop(name, None)
            return
        backend.expires_at = self._clock.wall() + timedelta(seconds=at_s - self._clock.now())
        self._due[name] = at_s
        if task is not None and self._wakes.get(name, at_s) > at_s:
            self._end(name)
            task = None
        if task is None:
            self._tasks[name] = spawn(self._wait(name), name=f"{backend.id}:keep_alive")

    def forget(self, name: Name) -> None:
        """It is gone, in use or not: nothing of it is left to wait for."""
        self._due.pop(name, None)
        self._end(name)

    def _end(self, name: Name) -> None:
        if (task := self._tasks.pop(name, None)) is not None:
            task.cancel()
        self._wakes.pop(name, None)

    async def _wait(self, name: Name) -> None:
        """Sleep until the time that counts when it is there: requests put it off all the while."""
        while (at_s := self._due.get(name)) is not None:
            # A sleep may end a hair too soon, and the scheduler would not take the word of that.
            if (left_s := at_s - self._clock.now()) <= 0:
                break
            self._wakes[name] = at_s
            await self._clock.sleep(left_s)
        del self._tasks[name]
        self._wakes.pop(name, None)
        if self._due.pop(name, None) is not None:
            self._fired(name)
