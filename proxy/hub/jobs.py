"""Work that several clients may ask for at once is done once, and told to all of them."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Final

from proxy.errors import Interrupted
from proxy.hub.progress import Line, Report, in_stream
from proxy.tasks import spawn

ENDED: Final = "the proxy is shutting down; ask again later, and it goes on where it was"
ENDED_RETRY_AFTER_S: Final = 10.0


class _Listener:
    """What one client has not been told yet; of one blob's progress only the newest."""

    def __init__(self, told: dict[str, Line]) -> None:
        self._pending = dict(told)
        self._news = asyncio.Event()
        self._ended = False

    def tell(self, key: str, line: Line) -> None:
        self._pending[key] = line
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def lines(self) -> AsyncGenerator[Line, None]:
        while self._pending or not self._ended:
            while self._pending:
                yield self._pending.pop(next(iter(self._pending)))
            self._news.clear()
            if not self._ended:
                await self._news.wait()


class _Job:
    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.error: Exception | None = None
        self.listeners: set[_Listener] = set()
        self._told: dict[str, Line] = {}

    def report(self, line: Line) -> None:
        key = in_stream(line) or f"#{len(self._told)}"
        self._told[key] = line
        for listener in self.listeners:
            listener.tell(key, line)

    def listen(self) -> _Listener:
        listener = _Listener(self._told)
        self.listeners.add(listener)
        return listener


class Jobs:
    """Running work by name."""

    def __init__(self) -> None:
        # What changes: the work in progress.
        self._running: dict[Any, _Job] = {}

    def __repr__(self) -> str:
        return f"<Jobs running={len(self._running)}>"

    async def follow(
        self, key: Any, work: Callable[[Report], Awaitable[None]]
    ) -> AsyncGenerator[Line, None]:
        """The lines of the work called `key`, which is begun unless it is under way.

        Raises what the work raises, after its lines. When the last one who follows leaves, the work
        is cancelled.
        """
        job = self._running.get(key) or self._start(key, work)
        listener = job.listen()
        try:
            async with aclosing(listener.lines()) as lines:
                async for line in lines:
                    yield line
        finally:
            job.listeners.discard(listener)
            if not job.listeners:
                await self._stop(key, job)
        if job.error:
            raise job.error

    async def close(self) -> None:
        """End everything; whoever follows is told that it is not done."""
        for key, job in list(self._running.items()):
            job.error = Interrupted(ENDED, retry_after_s=ENDED_RETRY_AFTER_S)
            await self._stop(key, job)

    def _start(self, key: Any, work: Callable[[Report], Awaitable[None]]) -> _Job:
        job = self._running[key] = _Job()
        job.task = spawn(self._run(key, job, work), name=f"hub {key}")
        return job

    async def _run(self, key: Any, job: _Job, work: Callable[[Report], Awaitable[None]]) -> None:
        try:
            await work(job.report)
        except Exception as error:
            job.error = error
        finally:
            if self._running.get(key) is job:
                del self._running[key]
            for listener in job.listeners:
                listener.end()

    async def _stop(self, key: Any, job: _Job) -> None:
        # Whoever comes now begins anew.
        if self._running.get(key) is job:
            del self._running[key]
        if job.task and not job.task.done():
            job.task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.shield(job.task)
