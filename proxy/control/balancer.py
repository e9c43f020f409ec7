"""The eye on memory: what the devices show, and who has to move because of it.

Counterparts: proxy.control.headroom looks, proxy.placement.rebalance decides, the controller moves;
proxy.control.admission has others make way for a model that is about to be loaded.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import structlog

from proxy.clock import Clock
from proxy.control.accounting import Books
from proxy.control.admission import Needs, Newcomers
from proxy.control.controller import Controller
from proxy.control.headroom import SERVING, Rooms
from proxy.engine.types import CPU, Device, LoadOptions
from proxy.errors import ProxyError
from proxy.memory.ledger import Ledger
from proxy.memory.snapshot import Snapshot
from proxy.memory.watch import MemoryWatch
from proxy.observe.events import EventLog
from proxy.placement.rebalance import Relocation, rebalance
from proxy.policy.model import Policies
from proxy.pool.pool import Pool
from proxy.pool.state import Backend
from proxy.tasks import spawn

log = structlog.get_logger()

Measured = Callable[[LoadOptions, Sequence[Device]], Awaitable[int | None]]


class Balancer:
    """One for all devices. Called by the memory watch after each poll, and before a backend is
    started."""

    def __init__(
        self,
        *,
        pool: Pool,
        controller: Controller,
        watch: MemoryWatch,
        ledger: Ledger,
        policies: Callable[[], Policies],
        needs: Needs,
        measured: Measured,
        use: Callable[[str], float],
        events: EventLog,
        clock: Clock,
    ) -> None:
        """`needs`: of which devices a model takes how many bytes without its experts. `use`: a
        backend's tokens a second."""
        self._controller, self._watch, self._ledger = controller, watch, ledger
        self._measured, self._clock = measured, clock
        self._rooms = Rooms(
            pool=pool,
            controller=controller,
            watch=watch,
            ledger=ledger,
            policies=policies,
            use=use,
            clock=clock,
        )
        self._books = Books(ledger=ledger, controller=controller, clock=clock)
        self._newcomers = Newcomers(
            pool=pool,
            controller=controller,
            watch=watch,
            rooms=self._rooms,
            books=self._books,
            needs=needs,
            perform=self._perform,
            events=events,
            clock=clock,
        )
        controller.spare, controller.card_of = self._spare, self._rooms.domain_of
        controller.on_short = self._was_short
        pool.hooks.subscribe(ready=self._ready, gone=self._gone)
        watch.subscribe(self._look)

    async def make_way(self, backend: Backend) -> None:
        """Before `backend` is started: have others shrink, then leave, until it fits."""
        await self._newcomers.make_way(backend)

    async def ask_workers(self) -> list[Device]:
        """The devices as workers report them now: for those whose memory only they know."""
        found: dict[str, Device] = {}
        for backend in self._rooms.serving():
            try:
                found |= {device.name: device for device in await backend.engine.devices()}
            except ProxyError:
                continue  # it is about to be gone
        return list(found.values())

    def _spare(self, by_number: bool) -> dict[str, int | None]:
        self._books.enter(self._rooms.serving())
        return self._rooms.spare(by_number=by_number)

    def _ready(self, backend: Backend) -> None:
        spawn(self._learn(backend), name=f"{backend.id}:devices")

    async def _learn(self, backend: Backend) -> None:
        try:
            devices = await backend.engine.devices()
        except ProxyError as error:
            log.warning("devices_not_known", backend=backend.id, error=error.message)
            devices = ()
        if backend.state not in SERVING:
            return
        if (floor := await self._measured(backend.options, devices)) is not None:
            self._controller.floors[backend.id] = floor
        known = tuple(device for device in devices if device.kind != "cpu")
        self._rooms.known[backend.id] = known
        self._books.open(backend, at_s=self._newcomers.welcome(backend))
        self._watch.set_devices(self._rooms.devices().values())
        self._set_pids()
        # Whoever is "auto" is placed by what the devices show, which nobody knew before.
        await self._watch.fresh()
        await self._controller.learned(backend, [device.name for device in known])

    def _was_short(self, device: str) -> None:
        """An allocation failed though there seemed to be room: do not try again before it has
        settled."""
        memory = self._rooms.domain(self._rooms.domain_of(device))
        memory.failed_at_s = memory.short_at_s = self._clock.now()
        memory.recovering = True

    def _gone(self, backend: Backend) -> None:
        self._newcomers.welcome(backend)
        self._books.close(backend)
        # What devices there are stays known: the next backend will find the same ones.
        self._set_pids()

    def _set_pids(self) -> None:
        pids = [backend.engine.pid for backend in self._rooms.serving()]
        self._watch.set_pids([pid for pid in pids if pid is not None])

    def _look(self, snapshot: Snapshot) -> None:
        """After each poll: give what has to be given, take what may be taken."""
        self._ledger.observe(snapshot.devices.values())
        self._books.enter(self._rooms.serving())
        rooms, leaving, now = self._rooms.rooms(), self._rooms.leaving(), self._clock.now()
        coming = self._rooms.coming(but_one=True)
        for domain, room in rooms.items():
            gained = leaving.get(domain, 0)
            if coming.get(domain, 0):
                # Nothing more comes while this does; only whether all of it still may, is asked.
                rooms[domain] = room = room.with_freed(-coming[domain])
            if gained:
                # Counted once: as free for the question whether more has to leave, as not there
                # otherwise.
                rooms[domain] = replace(room.with_freed(gained), growth="frozen")
            memory, short = self._rooms.domain(domain), rooms[domain].deficit_bytes > 0
            memory.shrinking = short or (memory.shrinking and gained > 0)
            if short:
                memory.short_at_s, memory.recovering = now, True
        relocations = rebalance(self._rooms.tenants(), rooms)
        self._perform(relocations)
        for domain, room in rooms.items():
            # All that was given is back once nobody has anything more to take.
            if room.growth == "step" and not relocations:
                self._rooms.domain(domain).recovering = False
        for domain in {move.domain for move in relocations if move.why == "use"}:
            self._rooms.domain(domain).traded_at_s = now

    def _perform(self, relocations: Sequence[Relocation]) -> None:
        backends = {backend.id: backend for backend in self._rooms.serving()}
        for name in dict.fromkeys(move.tenant for move in relocations):
            backend = backends[name]
            moves = [move for move in relocations if move.tenant == name]
            attention_devices = {
                layer.index: layer.attention_device for layer in backend.engine.known().layers
            }
            extra = self._controller.extra(backend)
            places = {
                move.layer: self._device_of(move.place, attention_devices[move.layer], extra)
                for move in moves
            }
            why = moves[0].why  # all of one round have the same
            log.info("balance", backend=name, why=why, layers=len(places), to=set(places.values()))
            self._controller.shift(backend, places, why)

    def _device_of(self, place: str, attention_device: str, extra: Sequence[str]) -> str:
        """A domain is no place: of the devices in it, the layer's own, or one for experts only."""
        if place in (CPU, self._rooms.domain_of(attention_device)):
            return CPU if place == CPU else attention_device
        return next(
            (name for name in extra if self._rooms.domain_of(name) == place), attention_device
        )
