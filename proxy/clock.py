"""Time as a thing that is handed in, so that tests own it: `RealClock` here, `ManualClock` for
them. And what makes waiting cheap, for a process that does little else."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol


def together(seconds: float) -> float:
    """A time to wait of a second or more, such that it ends with a whole second of the event loop's
    time: the process is woken once for all who wait so. A wake-up costs 0.1 ms in which nothing is
    done, since by then no cache has anything of us; what is done beside something else is cheap."""
    if seconds < 1.0:
        return seconds
    now_s = asyncio.get_running_loop().time()
    return round(now_s + seconds) - now_s


class Clock(Protocol):
    """Where a part that waits or measures gets its time from."""

    def now(self) -> float:
        """Seconds that never go backwards, from an arbitrary start."""

    def wall(self) -> datetime:
        """The time of day, with its zone, for people and for protocols."""

    async def sleep(self, seconds: float) -> None:
        """Return when `seconds` have passed on this clock."""

    async def rest(self, seconds: float) -> None:
        """`sleep`, for whoever can do with some tenths of a second more or less (`together`)."""

    async def wait(self, futures: "Collection[asyncio.Future[Any]]", seconds: float) -> bool:
        """Wait until all of these are done, but no longer than `seconds`; whether they are. They go
        on, whatever comes of this; what they failed by is for others to see."""


class RealClock:
    """The machine's time."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(together(seconds))

    async def wait(self, futures: "Collection[asyncio.Future[Any]]", seconds: float) -> bool:
        if pending := [each for each in futures if not each.done()]:
            await asyncio.wait(pending, timeout=seconds)
        return all(each.done() for each in pending)


class ManualClock:
    """Time that stands still until `advance` is called."""

    # Enough turns of the loop for a woken task, and for what it wakes in turn, to come to rest.
    _TURNS = 10

    def __init__(self, wall: datetime = datetime(2025, 1, 1, tzinfo=UTC)) -> None:
        self._now_s = 0.0
        self._start = wall
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now_s

    def wall(self) -> datetime:
        return self._start + timedelta(seconds=self._now_s)

    async def sleep(self, seconds: float) -> None:
        await self._timer(seconds)

    async def rest(self, seconds: float) -> None:
        await self._timer(seconds)

    async def wait(self, futures: "Collection[asyncio.Future[Any]]", seconds: float) -> bool:
        timer = self._timer(seconds)
        try:
            while (pending := {each for each in futures if not each.done()}) and not timer.done():
                await asyncio.wait({*pending, timer}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        return not pending

    def _timer(self, seconds: float) -> "asyncio.Future[None]":
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._order), woken))
        return woken

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass: sleepers wake in order, each at its own time."""
        await self._settle()  # tasks that were just started go to sleep now, not later
        until = self._now_s + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            at, _, woken = heapq.heappop(self._sleepers)
            self._now_s = max(self._now_s, at)
            if not woken.done():
                woken.set_result(None)
            await self._settle()
        self._now_s = until
        await self._settle()

    async def _settle(self) -> None:
        for _ in range(self._TURNS):
            await asyncio.sleep(0)


class Bell:
    """Rung by anybody on the event loop. Costs a third of a time limit around an `asyncio.Event`,
    which is most of what a wake-up costs that finds nothing to do."""

    def __init__(self) -> None:
        # What changes: whether it was rung since, and who waits.
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._rung = True
        self._let_go()

    def from_threads(self) -> Callable[[], None]:
        """What rings it from any thread."""
        loop = asyncio.get_running_loop()

        def ring() -> None:
            with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
                loop.call_soon_threadsafe(self.ring)

        return ring

    def hush(self) -> None:
        """What it was rung for until now is being done."""
        self._rung = False

    async def wait(self, seconds: float) -> None:
        """Return when it is rung, or was since the last wait or hush; after so long in any case."""
        if not self._rung and seconds > 0:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(seconds, self._let_go)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        self._rung = False

    def _let_go(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
