"""One start of a backend, from before its process to the end of it."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from proxy.clock import Clock
from proxy.engine.files import Files
from proxy.engine.types import LoadOptions
from proxy.errors import LoadFailed
from proxy.pool.events import Exited, Started, StartFailed
from proxy.pool.hooks import Hooks, Step
from proxy.pool.state import Backend, BackendState
from proxy.tasks import spawn

log = structlog.get_logger()

# A process that was killed needs this long at most, beyond its grace: to free a hundred gigabytes
# takes seconds. One that is there even then is stuck in the kernel, where no signal reaches it.
STUCK_AFTER_S = 60.0
STUCK = "the worker did not end, though it was killed"
# A server that gets SIGTERM may also end as if it were done. What crashes ends otherwise.
ENDED_FROM_OUTSIDE = (0, -signal.SIGKILL, -signal.SIGTERM)

# What a load would read, as it is now; None: not known.
Look = Callable[[LoadOptions], Coroutine[Any, Any, Files | None]]
Tell = Callable[[Started | StartFailed | Exited], None]


class ProcessRun:
    """Reports on the process of `backend`, whose engine is set before it begins. Whatever that
    process does, a stop is followed by the report of its end."""

    def __init__(
        self,
        backend: Backend,
        tell: Tell,
        *,
        hooks: Hooks,
        files: Look,
        grace_s: Callable[[], float],
        clock: Clock,
    ) -> None:
        """`hooks` have what is to be done before there is a process, when it has loaded, and before
        it is told to end. `grace_s`: how long a process may take to end, as of when it is told
        to."""
        self.backend = backend
        self._tell, self._hooks, self._grace_s = tell, hooks, grace_s
        self._clock, self._look = clock, files
        # What changes: the one task that reports, the step that it or a stop waits for, how far it
        # has come, and whether nothing may be waited for any more that can be done without.
        self._running: asyncio.Task[None] | None = None
        self._step: asyncio.Task[None] | None = None
        self._started = self._serves = self._hurried = False
        self._files: Files | None = None

    def begin(self) -> None:
        self._running = spawn(self._run(), name=self._task("run"))

    def stop(self) -> None:
        """Give the start up, or tell the process to end; the report of that follows."""
        if self._step is not None:
            self._step.cancel()
        spawn(self._leave(), name=self._task("stop"))

    def hurry(self) -> None:
        """From now on nothing is done of what a process that runs could be without."""
        self._hurried = True
        if self._step is not None and self._started:
            self._step.cancel()

    def kill(self) -> None:
        """End the process at once, if there is one."""
        self.hurry()
        spawn(self._end(0.0), name=self._task("kill"))

    def _task(self, what: str) -> str:
        return f"{self.backend.id}.{self.backend.generation}:{what}"

    async def _run(self) -> None:
        """Never cancelled: the process ends it, by itself or by `stop`."""
        backend, engine = self.backend, self.backend.engine
        try:
            if not await self._prepare():
                self._tell(StartFailed(*backend.name, "it was stopped before it was started"))
                return
            await engine.start()
        except LoadFailed as error:
            await self._stop_engine(self._grace_s())
            self._tell(StartFailed(*backend.name, error.message, error.killed, self._files))
            return
        except Exception as error:
            log.exception("engine_start_crashed", backend=backend.id)
            await self._stop_engine(self._grace_s())
            why = f"{type(error).__name__}: {error}"
            self._tell(StartFailed(*backend.name, why, files=self._files))
            return
        self._started = True
        if not self._unwanted():
            await self._do(self._hooks.loaded, "loaded")
        self._serves = True
        self._tell(Started(*backend.name, self._files))
        if self._unwanted():
            # The order to stop may have come before there was anything to stop.
            await self._stop_engine(self._grace_s())
        status = await engine.wait_exit()
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        # llama.cpp aborts where a device on another machine goes.
        lost_device = status == -signal.SIGABRT and bool(backend.options.rpc)
        killed = status in ENDED_FROM_OUTSIDE or lost_device
        because = f": {engine.cause}" if engine.cause else ""
        self._tell(Exited(*backend.name, f"the worker ended by itself ({how}){because}", killed))

    async def _prepare(self) -> bool:
        """Whether the process is to be started now: not if it was stopped meanwhile."""
        if self._unwanted():
            return False
        await self._do(self._look_and_make_room, "prepare")
        # Stopped meanwhile: also where that came too late to cancel anything.
        return not self._unwanted()

    async def _look_and_make_room(self, backend: Backend) -> None:
        # Begun first, so that a file that is replaced while others make room counts as another one.
        looking = spawn(self._look(backend.options), name=self._task("look"))
        try:
            await self._hooks.before_start(backend)
            self._files = await looking
        finally:
            looking.cancel()

    async def _do(self, step: Step, what: str) -> None:
        """Await `step`, which may be cancelled; raises what it raises otherwise."""
        if self._started and self._hurried:
            return
        doing = self._step = spawn(step(self.backend), name=self._task(what))
        try:
            await asyncio.wait((doing,))
        finally:
            self._step = None
        if not doing.cancelled():
            doing.result()

    def _unwanted(self) -> bool:
        return self.backend.state is BackendState.STOPPING

    async def _leave(self) -> None:
        """Have the process end, once what was to be done before is done."""
        if self._serves:
            await self._do(self._hooks.before_stop, "leave")
        await self._end(self._grace_s())

    async def _end(self, grace_s: float) -> None:
        """Have the process end. If `_run` has not seen that in time it is given up: whoever waits
        for its end, and who wants its place, goes on without it."""
        if self._running is None:
            return
        spawn(self.backend.engine.stop(grace_s), name=self._task("end"))
        if not await self._within(self._running, grace_s + STUCK_AFTER_S):
            self._tell(Exited(*self.backend.name, STUCK))

    async def _stop_engine(self, grace_s: float) -> None:
        stopping = spawn(self.backend.engine.stop(grace_s), name=self._task("end"))
        await self._within(stopping, grace_s + STUCK_AFTER_S)

    async def _within(self, end: "asyncio.Task[Any]", seconds: float) -> bool:
        """Wait for `end`; False if it has not come in time, which is told."""
        patience = spawn(self._clock.sleep(seconds), name=self._task("patience"))
        await asyncio.wait((end, patience), return_when=asyncio.FIRST_COMPLETED)
        patience.cancel()
        if not end.done():
            log.error("worker_stuck", backend=self.backend.id, pid=self.backend.engine.pid)
        return end.done()
