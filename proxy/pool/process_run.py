"""One start of a backend, from before its process to the end of it."""

import asyncio
from collections.abc import Callable

import structlog

from proxy.errors import LoadFailed
from proxy.pool.events import Exited, Started, StartFailed
from proxy.pool.hooks import Step
from proxy.pool.state import Backend, BackendState
from proxy.tasks import spawn

log = structlog.get_logger()

Tell = Callable[[Started | StartFailed | Exited], None]


class ProcessRun:
    """Reports on the process of `backend`, whose engine is set before it begins."""

    def __init__(
        self,
        backend: Backend,
        tell: Tell,
        before_start: Step,
        grace_s: Callable[[], float],
    ) -> None:
        """`before_start` is awaited before there is a process. `grace_s`: how long a process may
        take to end, as of when it is told to."""
        self.backend = backend
        self._tell, self._before_start, self._grace_s = tell, before_start, grace_s
        self._preparing: asyncio.Task[None] | None = None  # while there is no process yet

    def begin(self) -> None:
        spawn(self._run(), name=self._task("life"))

    def stop(self) -> None:
        """Give the start up, or tell the process to end; the report of that follows."""
        if self._preparing is not None:
            self._preparing.cancel()
        else:
            spawn(self.backend.engine.stop(self._grace_s()), name=self._task("stop"))

    def kill(self) -> None:
        """End the process at once, if there is one."""
        spawn(self.backend.engine.stop(0.0), name=self._task("kill"))

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
            await engine.stop()
            self._tell(StartFailed(*backend.name, error.message, error.killed))
            return
        except Exception as error:
            log.exception("engine_start_crashed", backend=backend.id)
            await engine.stop()
            self._tell(StartFailed(*backend.name, f"{type(error).__name__}: {error}"))
            return
        self._tell(Started(*backend.name))
        if self._unwanted():
            # The order to stop may have come before there was anything to stop.
            await engine.stop(self._grace_s())
        status = await engine.wait_exit()
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        self._tell(Exited(*backend.name, f"the worker ended by itself ({how})"))

    async def _prepare(self) -> bool:
        """Whether the process is to be started now: not if it was stopped meanwhile."""
        if self._unwanted():
            return False
        preparing = spawn(self._before_start(self.backend), name=self._task("prepare"))
        self._preparing = preparing
        try:
            await asyncio.wait((preparing,))
        finally:
            self._preparing = None
        if not preparing.cancelled():
            preparing.result()
        # Stopped meanwhile: also where that came too late to cancel anything.
        return not self._unwanted()

    def _unwanted(self) -> bool:
        return self.backend.state is BackendState.STOPPING
