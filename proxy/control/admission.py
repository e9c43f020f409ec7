"""Room for those that are about to be loaded: others shrink, then leave, until they fit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import structlog

from proxy.clock import Clock
from proxy.control.accounting import Books
from proxy.control.controller import Controller
from proxy.control.headroom import Rooms
from proxy.engine.types import LoadOptions
from proxy.memory.ledger import SHOWN_WITHIN_S
from proxy.memory.watch import MemoryWatch
from proxy.observe.events import EventLog
from proxy.placement.rebalance import Relocation, make_room
from proxy.pool.pool import Pool
from proxy.pool.state import Backend

log = structlog.get_logger()

Needs = Callable[[LoadOptions, Sequence[str]], Awaitable[Mapping[str, int]]]
# Who is busy now may be idle by then.
LOOK_AGAIN_S = 0.5
# Between two looks at a device that has not shown yet what was given back, and how long for.
SHOW_POLL_S = 0.05
SHOW_LIMIT_S = 2 * SHOWN_WITHIN_S


class Newcomers:
    """One for all devices. Called before a backend is started."""

    def __init__(
        self,
        *,
        pool: Pool,
        controller: Controller,
        watch: MemoryWatch,
        rooms: Rooms,
        books: Books,
        needs: Needs,
        perform: Callable[[Sequence[Relocation]], None],
        events: EventLog,
        clock: Clock,
    ) -> None:
        """`needs`: of which devices a model takes how many bytes without its experts. `perform` has
        experts move."""
        self._pool, self._controller, self._watch = pool, controller, watch
        self._rooms, self._books, self._needs, self._perform = rooms, books, needs, perform
        self._events, self._clock = events, clock
        # What changes: when each was started, and the news that somebody is there or gone.
        self._started_s: dict[str, float] = {}
        self._freed = asyncio.Event()

    def welcome(self, backend: Backend) -> float:
        """It is loaded, or gone, and not a newcomer any more; returns since when it may have taken
        memory."""
        self._rooms.promised.pop(backend.id, None)
        self._freed.set()
        return self._started_s.pop(backend.id, self._clock.now())

    async def make_way(self, backend: Backend) -> None:
        """Before `backend` is started: have others shrink, then leave, until it fits; wait while
        they are busy.

        Returns at once where nobody else has what it needs, or where nothing is known: then it
        simply has to try.
        """
        needed: Mapping[str, int] = {}
        try:
            needed = await self._needs(backend.options, self._rooms.devices_for(backend.options))
        except Exception:
            # A model of a kind that nobody has estimated yet: no reason not to load it.
            log.exception("needs_not_known", backend=backend.id)
        if needed:
            # Nobody may grow into what is made free, neither now nor while the newcomer takes it.
            self._rooms.promised[backend.id] = self._rooms.by_domain(needed)
            await self._make_room(backend, needed)
        self._started_s[backend.id] = self._clock.now()

    async def _make_room(self, backend: Backend, needed: Mapping[str, int]) -> None:
        shown_by_s = 0.0
        while True:
            self._freed.clear()
            others = [b for b in self._rooms.serving() if b.id != backend.id]
            first = next(iter(self._rooms.promised), backend.id) == backend.id
            if not others and first:
                return
            await self._watch.fresh()
            self._books.enter(self._rooms.serving())
            domains, leaving = self._rooms.by_domain(needed), self._rooms.leaving()
            # What was given back need not be given again, though the device may show it late.
            rooms = {
                domain: room.with_freed(leaving.get(domain, 0))
                for domain, room in self._rooms.rooms(backend.id).items()
            }
            relocations, missing = make_room(self._rooms.tenants(), domains, rooms)
            self._perform(relocations)
            now = self._clock.now()
            if relocations:
                await self._controller.until_still(others)
                shown_by_s = self._clock.now() + SHOW_LIMIT_S
            elif missing:
                holders = [b for b in others if self._rooms.holds(b, missing)]
                if not holders and first:
                    return
                await self._evict(backend, holders, missing)
                shown_by_s = self._clock.now() + SHOW_LIMIT_S
            elif any(leaving.get(domain) for domain in domains) and now < shown_by_s:
                await self._clock.sleep(SHOW_POLL_S)
            else:
                return

    async def _evict(
        self, newcomer: Backend, holders: list[Backend], missing: Mapping[str, int]
    ) -> None:
        """Unload the idle backend that was not used for the longest time, or wait until there is
        one."""
        idle = sorted((b for b in holders if b.idle), key=lambda b: b.last_used_s)
        self._events.publish(
            "room_missing",
            backend=newcomer.id,
            model=newcomer.options.model,
            missing=dict(missing),
            unloads=idle[0].id if idle else None,
        )
        if idle:
            await self._pool.unload(idle[0].id)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S):
                await self._freed.wait()
