"""The pool's shell: tells the scheduler what happens, does what it answers, and lends out backends.

Everything runs on one event loop and the scheduler never waits: one writer, no lock. Three
lifetimes are kept apart: a request's (its own task; cancelling it only takes it off the list), a
process's (`proxy.pool.process_run`, which no request can cancel) and the proxy's (`drain`).
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import structlog

from proxy.clock import Clock
from proxy.engine.files import files_now
from proxy.engine.types import Engine, LoadOptions
from proxy.errors import ProxyError
from proxy.observe.events import EventLog
from proxy.pool import selection
from proxy.pool.effects import (
    Changed,
    Effect,
    Fail,
    Grant,
    Idle,
    NotYet,
    Refuse,
    SetTimer,
    Start,
    Stop,
)
from proxy.pool.events import (
    Abort,
    Acquire,
    Drain,
    Event,
    Hangs,
    MatchPolicy,
    NotServing,
    Pin,
    Released,
    Replace,
    StartFailed,
    TimerFired,
    Unload,
)
from proxy.pool.failures import Failure
from proxy.pool.hooks import Hooks
from proxy.pool.lease import Lease
from proxy.pool.lines import Lines
from proxy.pool.process_run import Look, ProcessRun
from proxy.pool.refusals import error_of
from proxy.pool.scheduler import Scheduler
from proxy.pool.state import Backend, BackendState, Name
from proxy.pool.timers import Timers
from proxy.pool.work import Work

log = structlog.get_logger()

STOP_GRACE_S = 10.0
ABORT_GRACE_S = 2.0
HANGS_GRACE_S = 0.5
USUAL = MatchPolicy()


class Pool:
    """All backends, and the requests that use or await them."""

    def __init__(
        self,
        make_engine: Callable[[str, LoadOptions], Engine],
        *,
        hooks: Hooks,
        max_queue: int,
        clock: Clock,
        events: EventLog,
        files: Look = files_now,
    ) -> None:
        """`hooks` are told of each backend, and prepare its start. `files` tells what a load would
        read."""
        self.hooks = hooks
        self._make_engine, self._files = make_engine, files
        self._clock = clock
        self._events = events
        self._requests = itertools.count(1)
        # What changes:
        self._scheduler = Scheduler(max_queue=max_queue)
        self._inbox: deque[Event] = deque()
        self._answers: dict[int, asyncio.Future[Backend | ProxyError]] = {}
        self._runs: dict[Name, ProcessRun] = {}
        self.lines = Lines(self._scheduler.backends, clock)
        self._timers = Timers(clock, lambda name: self._tell(TimerFired(*name)))
        self._changed: asyncio.Event | None = None  # there while somebody waits for a change
        self._telling = False
        self._grace_s = STOP_GRACE_S

    def __repr__(self) -> str:
        backends = " ".join(map(repr, self.backends())) or "empty"
        draining = " draining" if self._scheduler.draining else ""
        return f"<Pool {backends} queue={self.queue_length}/{self.max_queue}{draining}>"

    @property
    def max_queue(self) -> int:
        """How many requests may wait for a backend."""
        return self._scheduler.waiting.most

    def limit_queue(self, requests: int) -> None:
        """From now on so many may wait; who waits already does so on."""
        self._scheduler.waiting.most = requests

    @property
    def queue_length(self) -> int:
        return len(self._scheduler.waiting)

    @property
    def draining(self) -> bool:
        return self._scheduler.draining

    def backends(self) -> list[Backend]:
        """All backends, oldest first; those that failed are among them, with their error."""
        return list(self._scheduler.backends.values())

    def can_serve(self, options: LoadOptions, matching: MatchPolicy) -> bool:
        """Whether something that is loaded, or loads, would serve these options. Things may be
        otherwise a moment later: only for what is merely a waste of time if so."""
        return selection.might_serve(self.backends(), options, matching)

    async def acquire(
        self,
        options: LoadOptions,
        *,
        keep_alive_s: float | None = None,
        matching: MatchPolicy = USUAL,
        insists: bool = False,
        work: Work | None = None,
    ) -> Lease:
        """A lease on a backend that serves `options`; one is loaded if there is none.

        `keep_alive_s` is how long the backend stays once idle: None as it was, 0 not at all,
        infinity for ever. What needs `work` in slots waits for its turn. Raises Busy (queue full,
        or draining), LoadFailed, and LoadRefused where it failed a moment ago; who `insists` has it
        tried all the same. Cancelling this leaves nothing behind, and never ends a load.

        It waits without a bound of its own: for a load, which the engine ends when it hangs, and
        for answers before it. The client's leaving ends the wait, and so does a drain.
        """
        files = None
        if not insists and self._scheduler.failures.wait_s(options, self._clock.now()):
            files = await self._files(options)
        request = next(self._requests)
        answer = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        try:
            self._tell(Acquire(request, options, keep_alive_s, matching, files, insists, work))
            backend = await answer
        except BaseException:
            # It may have been granted in the very step in which it was cancelled.
            self._tell(Released(request))
            raise
        finally:
            del self._answers[request]
        if isinstance(backend, ProxyError):
            raise backend
        return Lease.of(request, backend, self._tell)

    def failure_of(self, backend: Backend) -> Failure | None:
        """What is held against the next start of what `backend` is loaded with."""
        return self._scheduler.failures.of(backend.options)

    def retry_at(self, backend: Backend) -> datetime | None:
        """The time of day before which requests do not start it again; None: they do now."""
        wait_s = self._scheduler.failures.wait_s(backend.options, self._clock.now())
        return self._clock.wall() + timedelta(seconds=wait_s) if wait_s else None

    async def load(self, options: LoadOptions, *, matching: MatchPolicy = USUAL) -> Backend:
        """Have a backend for `options` loaded, and kept. Raises as `acquire` does."""
        async with await self.acquire(options, matching=matching) as lease:
            return lease.backend

    async def unload(self, target: str) -> int:
        """Unload the backend with this id, or all of this model; returns how many, once they are
        gone.

        Running requests are finished first, however long they take, unless it hangs
        (`end_hanging`); a process that does not end after that is given up
        (`proxy.pool.process_run`). Cancelling this does not undo it.
        """
        named = [b for b in self.backends() if target in (b.id, b.options.model)]
        going = [b for b in named if b.state is not BackendState.GONE]
        for backend in named:
            self._tell(Unload(backend.id))
        await self._until(lambda: all(b.state is BackendState.GONE for b in going))
        return len(going)

    def pin(self, backend_id: str, *, pinned: bool, by_policy: bool = False) -> None:
        """Have a backend stay loaded, or not any more; nothing where there is none of this id."""
        self._tell(Pin(backend_id, pinned, by_policy))

    async def replace(self, backend_id: str, options: LoadOptions) -> None:
        """Load `options` beside this backend, which serves until that is ready, then drains and
        stops.

        Returns when that is decided, which takes as long as the load: a hanging one the engine
        ends. If the new one cannot be loaded the old one stays, with `last_error`.
        """
        self._tell(Replace(backend_id, options))
        new = [b for b in self.backends() if b.options == options]
        await self._until(lambda: all(b.state is not BackendState.STARTING for b in new))

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests, finish those that are here, waiting ones too, then stop everything.

        What is left after `timeout_s` is ended. Returns when no process is left; one that does not
        even end when it is killed is given up after a minute.
        """
        for run in self._runs.values():
            run.hurry()
        self._tell(Drain())
        try:
            await asyncio.wait_for(self._until(lambda: not self._runs), timeout_s)
        except TimeoutError:
            log.warning("drain_timeout", after_s=timeout_s)
            self._grace_s = ABORT_GRACE_S
            self._tell(Abort())
            await self._until(lambda: not self._runs)

    async def kill(self) -> None:
        """End every process at once, whatever it is at, and refuse all requests. Returns when no
        process is left, but for one that does not end within a minute."""
        self._grace_s = 0.0
        self._tell(Drain())
        self._tell(Abort())
        for run in self._runs.values():
            run.kill()  # also one that is ending already, and takes its time
        await self._until(lambda: not self._runs)

    def give_up(self, backend: Backend, why: str) -> None:
        """Nobody can reach `backend`, though its process lives: it is ended, and whoever asks next
        gets a new one. Without effect where it is on its way out already."""
        log.warning("backend_given_up", backend=backend.id, why=why)
        self._tell(NotServing(*backend.name, why))

    def end_hanging(self, backend: Backend, why: str) -> None:
        """`backend` hangs: its process is ended, whatever it is at, and `why` stays to be seen."""
        log.error("backend_hangs", backend=backend.id, pid=backend.engine.pid, why=why)
        self._tell(Hangs(*backend.name, why))

    async def until_left(self, backend: Backend, timeout_s: float) -> bool:
        """Wait until `backend` takes no requests any more; False if it does after `timeout_s`. A
        connection breaks a moment before the end of the process behind it is known here."""
        with suppress(TimeoutError):
            left = self._until(lambda: backend.state is not BackendState.READY)
            await asyncio.wait_for(left, timeout_s)
        return backend.state is not BackendState.READY

    async def _until(self, true: Callable[[], bool]) -> None:
        """Has no bound: whoever calls it has one, or says why it needs none."""
        while not true():
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()

    def _tell(self, event: Event) -> None:
        """The one way in. What a listener tells us meanwhile waits for its turn."""
        self._inbox.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._inbox:
                for effect in self._scheduler.handle(self._inbox.popleft(), self._clock.now()):
                    self._perform(effect)
        finally:
            self._telling = False
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Grant(request, backend, generation):
                self._answer(request, self._runs[backend, generation].backend)
            case Refuse(request) | NotYet(request) | Fail(request):
                self._answer(request, error_of(effect))
            case Start(backend, generation):
                self._start(self._scheduler.backends[backend])
            case Stop(backend, generation):
                self._runs[backend, generation].stop()
            case SetTimer(backend, generation, at_s):
                self._timers.set(self._runs[backend, generation].backend, at_s)
            case Idle(backend, generation):
                self.hooks.idle(self._runs[backend, generation].backend)
            case Changed():
                self._say(effect)

    def _answer(self, request: int, answer: Backend | ProxyError) -> None:
        # Cancelled in this very step: its task will say that it has left.
        if not self._answers[request].done():
            self._answers[request].set_result(answer)

    def _start(self, backend: Backend) -> None:
        run = ProcessRun(
            backend,
            self._tell,
            hooks=self.hooks,
            files=self._files,
            # One that hangs is not going to make use of it.
            grace_s=lambda: min(self._grace_s, HANGS_GRACE_S) if backend.fault else self._grace_s,
            clock=self._clock,
        )
        if self.draining:
            run.hurry()
        self._runs[backend.name] = run
        self._events.publish(
            "backend_starting",
            backend=backend.id,
            generation=backend.generation,
            model=backend.options.model,
        )
        try:
            backend.engine = self._make_engine(backend.id, backend.options)
        except Exception as error:
            log.exception("engine_not_made", backend=backend.id)
            self._tell(StartFailed(*backend.name, str(error)))
        else:
            run.begin()

    def _say(self, change: Changed) -> None:
        run = self._runs.get((change.backend, change.generation))
        if run is None:
            return  # it was to be started later, and is not needed any more
        backend = run.backend
        self._events.publish(
            f"backend_{change.new}",
            backend=backend.id,
            generation=backend.generation,
            model=backend.options.model,
            was=change.old,
            why=change.why,
        )
        if change.new == BackendState.READY:
            self.hooks.ready(backend)
        elif change.new == BackendState.GONE:
            del self._runs[backend.name]
            self._timers.forget(backend.name)
            self.hooks.gone(backend)
