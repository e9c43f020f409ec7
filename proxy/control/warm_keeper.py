"""Has as many workers wait for a model as the policies say, where RAM allows and nothing else is to
be done.

What to do is decided by `next_step`, which is pure; `WarmKeeper` does it whenever something has
changed, and sleeps otherwise.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from proxy.clock import Clock
from proxy.control.ports import Backends
from proxy.engine.warm import Kind, WarmWorkers, kind_of
from proxy.errors import Hangs
from proxy.memory.pressure import LOW_BYTES, pressure_of
from proxy.memory.readings import HostReading
from proxy.memory.snapshot import Snapshot
from proxy.policy.model import Policies
from proxy.pool.state import Backend, BackendState
from proxy.threads import MODELS

# After whatever was done: who has just loaded a model is answered first.
QUIET_S: Final = 1.0
# One that dies is replaced after so long, then after twice as long, and so on.
BACK_OFF_S, BACK_OFF_MOST_S = 1.0, 300.0
HANGS_S: Final = 60.0
# What has to be available for one to be started: enough that it is not ended again at once.
ROOM_BYTES: Final = 2 * LOW_BYTES


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is. Times are the clock's."""

    wanted: int
    waiting: int
    host: HostReading
    loading: bool  # whether a model is loaded just now
    changed_s: float  # when anything of the pool or the policies changed last
    died: int = 0  # how many died in a row while they waited
    died_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Step:
    """What to do: how many may stay, whether one more is started, and after how many seconds to
    look again if nothing happens; None: not at all."""

    keep: int
    start: bool = False
    again_s: float | None = None


def next_step(now: Situation, now_s: float) -> Step:
    """What the situation asks for."""
    if pressure_of(now.host) is not None:
        return Step(0)
    available = now.host.available_bytes
    cramped = available is not None and available < ROOM_BYTES
    if now.waiting >= now.wanted or now.loading or cramped:
        return Step(now.wanted)
    wait_s = max(now.changed_s + QUIET_S, now.died_s + back_off_s(now.died)) - now_s
    return Step(now.wanted, again_s=wait_s) if wait_s > 0 else Step(now.wanted, start=True)


def back_off_s(died: int) -> float:
    return min(BACK_OFF_S * 2 ** (died - 1), BACK_OFF_MOST_S) if died else 0.0


class WarmKeeper:
    """Its methods are what the pool's hooks, the memory watch and the policies call."""

    def __init__(
        self,
        *,
        warm: WarmWorkers,
        pool: Backends,
        policies: Callable[[], Policies],
        clock: Clock,
    ) -> None:
        self._warm, self._pool, self._policies, self._clock = warm, pool, policies, clock
        self._news = asyncio.Event()
        warm.subscribe(self._warm_changed)
        # What changes:
        self._host = HostReading()
        self._changed_s = clock.now()
        self._died, self._died_s = 0, float("-inf")

    @property
    def wanted(self) -> int:
        """How many the policies want; none where no model is hosted."""
        policies = self._policies()
        hosted = any(x.engine == "hosted" for x in (policies.defaults, *policies.models.values()))
        return policies.server.warm_workers if hosted else 0

    @property
    def ready(self) -> int:
        return self._warm.ready

    def pool_changed(self, _: Backend) -> None:
        """A backend is ready, or gone."""
        self._changed_s = self._clock.now()
        self._news.set()

    def look(self, snapshot: Snapshot) -> None:
        """After each reading of memory: only what makes a difference is news."""
        before, self._host = _room(self._host), snapshot.host
        if before != _room(self._host):
            self._news.set()

    async def policies_changed(self, *_: Any) -> None:
        self._changed_s = self._clock.now()
        self._news.set()

    async def run(self) -> None:
        """Goes on until cancelled."""
        while True:
            self._news.clear()
            try:
                again_s = await self._look(await MODELS.run(self._kind))
            except Hangs:  # the disk of the libraries: no load finds them either
                again_s = HANGS_S
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), again_s)

    async def _look(self, kind: Kind | None) -> float | None:
        now = Situation(
            wanted=self.wanted if kind is not None else 0,
            waiting=self._warm.count(kind),
            host=self._host,
            loading=any(x.state is BackendState.STARTING for x in self._pool.backends()),
            changed_s=self._changed_s,
            died=self._died,
            died_s=self._died_s,
        )
        step = next_step(now, self._clock.now())
        await self._warm.keep(step.keep, kind)
        if step.start and kind is not None:
            self._warm.start(kind)  # which is news
        return step.again_s

    def _kind(self) -> Kind | None:
        engine = self._policies().engine
        return kind_of(engine.libdir, engine.backends)

    def _warm_changed(self) -> None:
        if self._warm.died != self._died:
            self._died, self._died_s = self._warm.died, self._clock.now()
        self._news.set()


def _room(host: HostReading) -> tuple[bool, bool]:
    available = host.available_bytes
    return pressure_of(host) is None, available is None or available >= ROOM_BYTES
