"""Work that may block, on threads where whatever hangs holds up nobody else.

A disk that is gone (a file server, a USB disk) lets a thread wait for ever, and nothing can end
that wait. So work of different kinds has threads of its own, whoever waits for it is freed after a
while, and what hangs is counted and told of (`degraded` in /admin/state).
"""

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from proxy.errors import Hangs

T = TypeVar("T")

# How many threads may do the very same at once.
SAME: Final = 4


@dataclass(eq=False, slots=True)
class _Job:
    call: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    work: Callable[[], Any]
    future: "Future[Any]" = field(default_factory=Future)
    # When a thread has taken it up.
    began_s: float = 0.0
    since: datetime | None = None

    @property
    def what(self) -> str:
        """What it does, and with which file or folder."""
        function, arguments, _ = self.call
        name = getattr(function, "__name__", None) or type(function).__name__
        owner = getattr(function, "__self__", None)
        named = (getattr(each, "path", each) for each in (owner, *arguments))
        paths = [str(each) for each in named if isinstance(each, Path)]
        return " ".join([name.strip("_").replace("_", " "), *paths])


@dataclass(frozen=True, slots=True)
class Stuck:
    """What hangs: work of one lane, since when, and how many threads wait for it."""

    lane: str
    since: datetime
    what: str
    threads: int


class Lane:
    """Threads for work of one kind. They are made when they are needed, and end with the process,
    which does not wait for them."""

    def __init__(
        self,
        name: str,
        *,
        within_s: float,
        threads: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`within_s`: what takes longer hangs. `threads`: how many there are at most."""
        self.name = name
        self._within_s, self._most, self._clock = within_s, threads, clock
        self._waiting: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        # What changes: how many threads there are and how many of them have nothing to do, and
        # what the others do.
        self._lock = threading.Lock()
        self._threads = self._idle = 0
        self._running: set[_Job] = set()

    async def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call it on a thread. Raises what it raises, and Hangs where it takes too long, or would
        only wait with others that do."""
        call = (function, args, kwargs)
        job = _Job(call, partial(contextvars.copy_context().run, function, *args, **kwargs))
        self._refuse(call)
        try:
            async with asyncio.timeout(self._within_s):
                await self._turn(call)
                self._put(job)
                found: T = await asyncio.wrap_future(job.future)
        except TimeoutError:
            if job.future.done() and not job.future.cancelled():
                return cast(T, job.future.result())  # it came just now, or raised one of its own
            raise self._hangs(job.what) from None
        return found

    async def _turn(self, call: tuple[Any, ...]) -> None:
        """Wait while as many threads do the same as may: what hangs for one does so for all, and is
        to leave room for others. Of what is known to hang `_refuse` has decided."""
        while True:
            begun_s = self._clock() - self._within_s
            with self._lock:
                running = [job for job in self._running if job.began_s > begun_s]
            same = [job.future for job in running if job.call == call]
            if len(same) < SAME:
                return
            futures = [asyncio.wrap_future(future) for future in same]
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)

    def stuck(self) -> Stuck | None:
        """What hangs here; what has done so longest."""
        jobs = sorted(self._stuck(), key=lambda job: job.began_s)
        if not jobs or jobs[0].since is None:
            return None
        return Stuck(self.name, jobs[0].since, jobs[0].what, len(jobs))

    def _stuck(self) -> list[_Job]:
        now_s = self._clock()
        with self._lock:
            return [job for job in self._running if now_s - job.began_s >= self._within_s]

    def _refuse(self, call: tuple[Any, ...]) -> None:
        stuck = self._stuck()
        if len(stuck) >= self._most:
            raise self._hangs(stuck[0].what)
        # The same again is tried ever more seldom: each try may cost a thread, and the disk may be
        # back, or not be asked for any more.
        same = [job for job in stuck if job.call == call]
        if same and self._clock() - max(job.began_s for job in same) < self._within_s * (
            1 << (len(same) - 1)
        ):
            raise self._hangs(same[0].what)

    def _hangs(self, what: str) -> Hangs:
        return Hangs(f"{self.name}: no answer within {self._within_s:g} s: {what}")

    def _put(self, job: _Job) -> None:
        with self._lock:
            more = self._waiting.qsize() >= self._idle and self._threads < self._most
            self._threads += more
            number = self._threads
        self._waiting.put(job)
        if more:
            name = f"{self.name} {number}"
            threading.Thread(target=self._work, daemon=True, name=name).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            job = self._waiting.get()
            with self._lock:
                self._idle -= 1
            if not job.future.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            with self._lock:
                job.began_s, job.since = self._clock(), datetime.now(UTC)
                self._running.add(job)
            try:
                result = job.work()
            except BaseException as error:
                self._done(job)
                job.future.set_exception(error)
            else:
                self._done(job)
                job.future.set_result(result)
            del job  # and what it holds

    def _done(self, job: _Job) -> None:
        with self._lock:
            self._running.discard(job)


POLICIES: Final = Lane("files of policies", within_s=30.0)
# They may be large, and their disks asleep.
SCANS: Final = Lane("folders of models", within_s=60.0)
LISTS: Final = Lane("lists of models", within_s=60.0)
MODELS: Final = Lane("files of models", within_s=60.0, threads=64)
STORE: Final = Lane("the store of models", within_s=300.0)
# What reads a whole model, of hundreds of gigabytes, from a disk that may be slow.
WHOLE_MODELS: Final = Lane("whole models", within_s=6 * 3600.0)
LANES: Final = (POLICIES, SCANS, LISTS, MODELS, STORE, WHOLE_MODELS)


def stuck() -> list[Stuck]:
    """What hangs, in all lanes."""
    return [found for lane in LANES if (found := lane.stuck()) is not None]
