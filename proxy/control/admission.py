"""Room for those that are about to be loaded: others shrink, then leave, until they fit."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from proxy.clock import Clock
from proxy.control.accounting import LedgerSync
from proxy.control.desired import DesiredStates
from proxy.control.headroom import Headroom
from proxy.control.ports import Memory, Pool
from proxy.engine.types import LoadOptions
from proxy.memory.ledger import SHOWN_WITHIN_S
from proxy.observe.events import EventLog
from proxy.placement.rebalance import Relocation, make_room
from proxy.pool.state import Backend
from proxy.tasks import spawn

log = structlog.get_logger()

Footprint = Callable[[LoadOptions, Sequence[str]], Awaitable[Mapping[str, int]]]
# Who is busy now may be idle by then.
LOOK_AGAIN_S = 0.5
# Between two looks at a device that has not shown yet what was given back, and how long for.
SHOW_POLL_S = 0.05
SHOW_LIMIT_S = 2 * SHOWN_WITHIN_S


@dataclass(slots=True)
class _Newcomer:
    """A backend that waits for room."""

    backend: Backend
    needed: Mapping[str, int]  # by device
    # Until when it is waited for devices to show what was given back.
    shown_by_s: float = float("-inf")
    # What was published last of what is missing: only news are.
    told: object = None
    # What was to move for it before. Who is asked for the same again did not move.
    tried: frozenset[tuple[str, int]] = frozenset()
    immovable: frozenset[str] = frozenset()


class Admission:
    """One for all devices. Called before a backend is started."""

    def __init__(
        self,
        *,
        pool: Pool,
        desired: DesiredStates,
        memory: Memory,
        headroom: Headroom,
        accounting: LedgerSync,
        footprint: Footprint,
        relocate: Callable[[Sequence[Relocation], str], None],
        answers: Callable[[Backend], bool],
        events: EventLog,
        clock: Clock,
    ) -> None:
        """`footprint`: of which devices a model takes how many bytes without its experts.
        `relocate` has experts move, for the model that is named. `answers`: whether a backend's
        worker does."""
        self._pool, self._desired, self._memory = pool, desired, memory
        self._headroom, self._accounting = headroom, accounting
        self._footprint, self._relocate = footprint, relocate
        self._answers, self._events, self._clock = answers, events, clock
        # What changes: the news that somebody is there or gone.
        self._freed = asyncio.Event()

    def settle(self, backend: Backend) -> None:
        """It is loaded, or gone, and not a newcomer any more."""
        self._headroom.release(backend)
        self._freed.set()

    async def admit(self, backend: Backend) -> None:
        """Before `backend` is started: have others shrink, then leave, until it fits; wait while
        they are busy.

        Returns at once where nobody else has what it needs, or where nothing is known: then it
        simply has to try. It may be cancelled; call `settle` in any case.
        """
        needed: Mapping[str, int] = {}
        try:
            devices = self._headroom.devices_for(backend.options)
            needed = await self._footprint(backend.options, devices)
        except Exception:
            # A model of a kind that nobody has estimated yet: no reason not to load it.
            log.exception("needs_not_known", backend=backend.id)
        if needed:
            # Nobody may grow into what is made free, neither now nor while the newcomer takes it.
            self._headroom.reserve(backend, needed)
            newcomer = _Newcomer(backend, needed)
            while await self._is_to_wait(newcomer):
                pass
        self._accounting.begin(backend)

    async def _is_to_wait(self, newcomer: _Newcomer) -> bool:
        """One look: have something done about what is missing, and wait for what comes of it.
        False: it may start."""
        self._freed.clear()
        backend = newcomer.backend
        others = [b for b in self._headroom.serving() if b.id != backend.id]
        first = self._headroom.is_first(backend)
        if not others and first:
            return False
        await self._memory.fresh()
        domains, outbound = self._headroom.by_domain(newcomer.needed), self._headroom.outbound()
        # What was given back need not be given again, though the device may show it late.
        budgets = {
            domain: budget.with_freed(outbound.get(domain, 0))
            for domain, budget in self._headroom.budgets(backend).items()
        }
        tenants = [t for t in self._headroom.tenants() if t.id not in newcomer.immovable]
        relocations, missing = make_room(tenants, domains, budgets)
        self._relocate(relocations, backend.options.model)
        if relocations:
            moving = {move.tenant for move in relocations}
            again = {
                move.tenant for move in relocations if (move.tenant, move.layer) in newcomer.tried
            }
            newcomer.immovable |= again
            newcomer.tried |= {(move.tenant, move.layer) for move in relocations}
            await self._until_moved([b for b in others if b.id in moving])
            newcomer.shown_by_s = self._clock.now() + SHOW_LIMIT_S
            return True
        if missing:
            # One that is pinned makes nobody wait for its end: then the newcomer has to try.
            leaving = (b for b in others if not b.pinned)
            holders = [b for b in leaving if self._headroom.holds(b, missing)]
            if not holders and first:
                return False
            await self._evict(newcomer, holders, missing)
            newcomer.shown_by_s = self._clock.now() + SHOW_LIMIT_S
            return True
        if any(map(outbound.get, domains)) and self._clock.now() < newcomer.shown_by_s:
            await self._clock.sleep(SHOW_POLL_S)
            return True
        return False

    async def _until_moved(self, backends: Sequence[Backend]) -> None:
        """Wait until none of these has a move under way, but for those that do not answer: such a
        move may have no end."""
        idle = spawn(self._desired.wait_idle(backends), name="moves for a newcomer")
        try:
            while not await self._clock.wait((idle,), LOOK_AGAIN_S):
                if not any(self._desired.moving(b) and self._answers(b) for b in backends):
                    return
        finally:
            idle.cancel()

    async def _evict(
        self, newcomer: _Newcomer, holders: list[Backend], missing: Mapping[str, int]
    ) -> None:
        """Unload the idle backend that was not used for the longest time, or wait until there is
        one."""
        idle = sorted((b for b in holders if b.idle), key=lambda b: b.last_used_s)
        unloads = idle[0].id if idle else None
        if newcomer.told != (news := (frozenset(missing), unloads)):
            newcomer.told = news
            self._events.publish(
                "room_missing",
                backend=newcomer.backend.id,
                model=newcomer.backend.options.model,
                missing=dict(missing),
                unloads=unloads,
            )
        if unloads is not None:
            await self._pool.unload(unloads)
            return
        freed = spawn(self._freed.wait(), name=f"{newcomer.backend.id}:room")
        try:
            await self._clock.wait((freed,), LOOK_AGAIN_S)
        finally:
            freed.cancel()
