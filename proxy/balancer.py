"""The eye on memory: what the devices show, and who has to move because of it.

Counterparts: proxy.placement.balance decides, proxy.memory reads, the controller moves. Devices
that show the same card (two RPC servers that a test points at one) are one *domain*: they share its
memory.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import structlog

from proxy.clock import Clock
from proxy.controller import Controller
from proxy.engine.types import CPU, Device, LoadOptions, Status
from proxy.errors import ProxyError
from proxy.memory.ledger import SHOWN_WITHIN_S, Ledger
from proxy.memory.picture import Snapshot
from proxy.memory.watch import MemoryWatch
from proxy.observe.events import EventLog
from proxy.placement.balance import Changes, Room, Tenant, balance, make_way
from proxy.placement.split import ahead
from proxy.policy.model import Policies
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.split import AUTO, cpu_layers
from proxy.tasks import spawn

log = structlog.get_logger()

Measured = Callable[[LoadOptions, Sequence[Device]], Awaitable[int | None]]
SERVING = (BackendState.READY, BackendState.DRAINING)
# Who is busy now may be idle by then.
LOOK_AGAIN_S = 0.5
# Between two looks at a device that has not shown yet what was given back, and how long for.
SHOW_POLL_S = 0.05
SHOW_LIMIT_S = 2 * SHOWN_WITHIN_S

Needs = Callable[[LoadOptions, Sequence[str]], Awaitable[Mapping[str, int]]]


@dataclass(slots=True)
class _Domain:
    """What is remembered of one card."""

    short_at_s: float = float("-inf")  # when memory was short last
    shrinking: bool = False  # it was short, and the reserve is not free again yet
    recovering: bool = False  # since then not all has come back
    traded_at_s: float = float("-inf")


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
        self._pool, self._controller, self._watch, self._ledger = pool, controller, watch, ledger
        self._policies, self._needs, self._use = policies, needs, use
        self._measured = measured
        self._events, self._clock = events, clock
        # The mutable state: devices by backend; what was promised to those that are being loaded,
        # by domain, and since when; when each backend's books were kept last, and when it last
        # had no move under way; the domains.
        self._devices: dict[str, tuple[Device, ...]] = {}
        self._newcomers: dict[str, dict[str, int]] = {}
        self._started_s: dict[str, float] = {}
        self._booked_s: dict[str, float] = {}
        self._still_s: dict[str, float] = {}
        self._domains: dict[str, _Domain] = {}
        self._freed = asyncio.Event()
        controller.spare, controller.card_of = self.spare, self._domain_of
        controller.on_short = self._was_short
        pool.on_ready.insert(0, self._ready)
        pool.on_gone.append(self._gone)
        watch.subscribe(self._look)

    # --- what there is ---

    def devices(self) -> dict[str, Device]:
        """Every device that a worker has reported, by name."""
        return {device.name: device for devices in self._devices.values() for device in devices}

    async def ask_workers(self) -> list[Device]:
        """The devices as workers report them now: for those whose memory only they know."""
        found: dict[str, Device] = {}
        for backend in self._serving():
            try:
                found |= {device.name: device for device in await backend.engine.devices()}
            except ProxyError:
                continue  # it is about to be gone
        return list(found.values())

    def spare(self) -> dict[str, int | None]:
        """Domain -> bytes that experts may still take there; None: not known."""
        self._book()
        found: dict[str, int | None] = {}
        for domain, room in self._rooms().items():
            if room.pace == "stand":
                # Not even what is asked for: it comes by itself once memory has settled, and what
                # could not be had would only be tried in vain.
                found[domain] = 0
            else:
                known = room.free is not None or room.over_limit is not None
                found[domain] = room.spare if known else None
        return found

    def _domain_of(self, device: str) -> str:
        """The card that a device is on, or the device itself where nothing more is known of it."""
        reading = self._watch.latest().devices.get(device)
        return reading.source if reading is not None and ":" in reading.source else device

    def _serving(self) -> list[Backend]:
        return [backend for backend in self._pool.backends() if backend.state in SERVING]

    def _rooms(self, newcomer: str | None = None) -> dict[str, Room]:
        """Domain -> its room. Of several devices on one card the pessimist's view of each
        counts. For a newcomer, what was promised to later ones does not."""
        policies, now = self._policies().devices, self._clock.now()
        rooms: dict[str, Room] = {}
        coming = self._coming()
        for backend, domains in self._newcomers.items():
            if backend == newcomer:
                break
            for domain, size in domains.items():
                coming[domain] = coming.get(domain, 0) + size
        for name in self.devices():
            domain = self._domain_of(name)
            rules, memory = policies.for_device(name), self._domains.setdefault(domain, _Domain())
            # What is on its way back is not short any more, though nothing may be promised of it
            # yet.
            free = self._ledger.free(name)
            quiet = now - memory.short_at_s >= policies.settle_s
            ours = self._ledger.ours(name)
            room = Room(
                free=free,
                reserve=rules.reserve_bytes,
                # Once it is short, enough is what brings the reserve back: moves change what is
                # needed to compute, so the first go may fall short of it.
                low=rules.reserve_bytes if memory.shrinking else policies.low_bytes,
                over_limit=None if rules.limit_bytes is None else ours - rules.limit_bytes,
                promised=coming.get(domain, 0),
                pace="stand" if not quiet else "one" if memory.recovering else "fill",
                trade=now - memory.traded_at_s >= policies.settle_s,
                experts=rules.experts,
            )
            rooms[domain] = _stricter(rooms[domain], room) if domain in rooms else room
        return rooms

    def _coming(self, *, but_one: bool = False) -> dict[str, int]:
        """Domain -> bytes of experts that are being copied there. `but_one`: without the largest
        layer of each backend, since one has its memory already while it is copied."""
        sums: dict[str, int] = {}
        for backend in self._serving():
            goal = self._controller.goal(backend) or {}
            sizes: dict[str, list[int]] = {}
            for layer in backend.engine.known().layers:
                place = goal.get(layer.index, layer.experts)
                if place not in (CPU, layer.experts):
                    sizes.setdefault(self._domain_of(place), []).append(layer.experts_bytes)
            for domain, found in sizes.items():
                taken = max(found) if but_one else 0
                sums[domain] = sums.get(domain, 0) + sum(found) - taken
        return sums

    def _leaving(self) -> dict[str, int]:
        """Domain -> bytes of experts that are about to leave it, or have left and are not shown
        yet."""
        sums: dict[str, int] = {}
        for name in self.devices():
            domain = self._domain_of(name)
            sums[domain] = sums.get(domain, 0) + self._ledger.due(name)
        for backend in self._serving():
            goal = self._controller.goal(backend) or {}
            for layer in backend.engine.known().layers:
                if layer.experts not in (CPU, goal.get(layer.index, layer.experts)):
                    domain = self._domain_of(layer.experts)
                    sums[domain] = sums.get(domain, 0) + layer.experts_bytes
        return sums

    def _tenants(self) -> list[Tenant]:
        found = []
        for backend in self._serving():
            asked = self._controller.asked(backend.id)
            if asked is None or not backend.engine.live_moves:
                continue
            # A layer that is on its way counts as where it will be.
            status = ahead(backend.engine.known(), self._controller.goal(backend) or {})
            found.append(
                Tenant(
                    id=backend.id,
                    layers=[
                        replace(
                            layer,
                            experts=self._place(layer.experts),
                            home=self._place(layer.home),
                        )
                        for layer in status.layers
                    ],
                    wish=cpu_layers(
                        self._controller.floors.get(backend.id, 0) if asked == AUTO else asked,
                        status.block_count,
                    ),
                    auto=asked == AUTO,
                    busy=backend.in_flight > 0,
                    use=self._use(backend.id),
                    last_used_s=backend.last_used_s,
                    moving=self._controller.moving(backend),
                    extra=frozenset(map(self._domain_of, self._controller.extra(backend))),
                )
            )
        return found

    def _place(self, place: str) -> str:
        return place if place == CPU else self._domain_of(place)

    # --- news ---

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
        self._devices[backend.id] = tuple(d for d in devices if d.kind != "cpu")
        # From here on it is in the book: with all that it took since it was started, so that
        # readings which show that already are not taken for more room than there is.
        started_s = self._started_s.pop(backend.id, self._clock.now())
        self._booked_s[backend.id] = self._still_s[backend.id] = started_s
        self._welcome(backend)
        self._watch.set_devices(self.devices().values())
        self._watch.set_pids([b.engine.pid for b in self._serving() if b.engine.pid is not None])
        # Whoever is "auto" is placed by what the devices show, which nobody knew before.
        await self._watch.fresh()
        await self._controller.learned(backend, [d.name for d in self._devices[backend.id]])

    def _was_short(self, device: str) -> None:
        """An allocation failed though there seemed to be room: do not try again before it has
        settled."""
        memory = self._domains.setdefault(self._domain_of(device), _Domain())
        memory.short_at_s, memory.recovering = self._clock.now(), True

    def _welcome(self, backend: Backend) -> None:
        """It is not a newcomer any more."""
        self._newcomers.pop(backend.id, None)
        self._freed.set()

    def _gone(self, backend: Backend) -> None:
        self._welcome(backend)
        self._started_s.pop(backend.id, None)
        self._still_s.pop(backend.id, None)
        if self._booked_s.pop(backend.id, None) is not None:
            self._ledger.forget(backend.id, at_s=self._clock.now())
        # What devices there are stays known: the next backend will find the same ones.
        self._watch.set_pids([b.engine.pid for b in self._serving() if b.engine.pid is not None])

    def _book(self) -> None:
        """Enter what every backend holds now."""
        now = self._clock.now()
        for backend in self._serving():
            # What changed since the last look began to change after the look before it; only what
            # a move brings has its memory from that move's beginning on.
            since = self._booked_s.get(backend.id)
            if since is None:
                continue
            status: Status = backend.engine.known()
            still_s = self._still_s[backend.id]
            self._ledger.hold(backend.id, status.held, at_s=since, taken_s=still_s)
            self._booked_s[backend.id] = now
            if not self._controller.moving(backend):
                self._still_s[backend.id] = now

    def _look(self, snapshot: Snapshot) -> None:
        """After each poll: give what has to be given, take what may be taken."""
        self._ledger.observe(snapshot.devices.values())
        self._book()
        rooms, leaving, now = self._rooms(), self._leaving(), self._clock.now()
        coming = self._coming(but_one=True)
        for domain, room in rooms.items():
            gained = leaving.get(domain, 0)
            if coming.get(domain, 0):
                # Nothing more comes while this does; only whether all of it still may, is asked.
                rooms[domain] = room = _with(room, -coming[domain])
            if gained:
                # Counted once: as free for the question whether more has to leave, as not there
                # otherwise.
                rooms[domain] = replace(_with(room, gained), pace="stand")
            memory, short = self._domains[domain], rooms[domain].short > 0
            memory.shrinking = short or (memory.shrinking and gained > 0)
            if short:
                memory.short_at_s, memory.recovering = now, True
        changes = balance(self._tenants(), rooms)
        self._perform(changes)
        for domain, room in rooms.items():
            # All that was given is back once nobody has anything more to take.
            if room.pace == "one" and not changes.moves:
                self._domains[domain].recovering = False
        if "use" in changes.why.values():
            for domain in rooms:
                self._domains[domain].traded_at_s = now

    def _perform(self, changes: Changes) -> None:
        backends = {backend.id: backend for backend in self._serving()}
        for name, moves in changes.moves.items():
            backend = backends[name]
            homes = {layer.index: layer.home for layer in backend.engine.known().layers}
            extra = self._controller.extra(backend)
            places = {i: self._device_of(place, homes[i], extra) for i, place in moves.items()}
            why = changes.why[name]
            log.info("balance", backend=name, why=why, layers=len(places), to=set(places.values()))
            self._controller.shift(backend, places, why)

    def _device_of(self, place: str, home: str, extra: Sequence[str]) -> str:
        """A domain is no place: of the devices in it, the layer's own, or one for experts only."""
        if place in (CPU, self._domain_of(home)):
            return CPU if place == CPU else home
        return next((name for name in extra if self._domain_of(name) == place), home)

    # --- newcomers ---

    async def make_way(self, backend: Backend) -> None:
        """Before `backend` is started: have others shrink, then leave, until it fits; wait while
        they are busy.

        Returns at once where nobody else has what it needs, or where nothing is known: then it
        simply has to try.
        """
        needed: Mapping[str, int] = {}
        try:
            needed = await self._needs(backend.options, self._devices_for(backend.options))
        except Exception:
            # A model of a kind that nobody has estimated yet: no reason not to load it.
            log.exception("needs_not_known", backend=backend.id)
        if needed:
            # Nobody may grow into what is made free, neither now nor while the newcomer takes it.
            self._newcomers[backend.id] = self._by_domain(needed)
            await self._make_room(backend, needed)
        self._started_s[backend.id] = self._clock.now()

    async def _make_room(self, backend: Backend, needed: Mapping[str, int]) -> None:
        shown_by_s = 0.0
        while True:
            self._freed.clear()
            others = [b for b in self._serving() if b.id != backend.id]
            first = next(iter(self._newcomers)) == backend.id
            if not others and first:
                return
            await self._watch.fresh()
            self._book()
            domains, leaving = self._by_domain(needed), self._leaving()
            # What was given back need not be given again, though the device may show it late.
            rooms = {
                domain: _with(room, leaving.get(domain, 0))
                for domain, room in self._rooms(backend.id).items()
            }
            changes, missing = make_way(self._tenants(), domains, rooms)
            self._perform(changes)
            now = self._clock.now()
            if changes.moves:
                await self._controller.until_still(others)
                shown_by_s = self._clock.now() + SHOW_LIMIT_S
            elif missing:
                holders = [b for b in others if self._holds(b, missing)]
                if not holders and first:
                    return
                await self._evict(backend, holders, missing)
                shown_by_s = self._clock.now() + SHOW_LIMIT_S
            elif any(leaving.get(domain) for domain in domains) and now < shown_by_s:
                await self._clock.sleep(SHOW_POLL_S)
            else:
                return

    def _by_domain(self, needed: Mapping[str, int]) -> dict[str, int]:
        domains: dict[str, int] = {}
        for device, size in needed.items():
            domain = self._domain_of(device)
            domains[domain] = domains.get(domain, 0) + size
        return domains

    def _devices_for(self, options: LoadOptions) -> list[str]:
        """The devices that a backend with these options will use, among those that are known."""
        servers = set(options.rpc)
        return [
            device.name
            for device in self.devices().values()
            if not device.name.startswith("RPC") or device.description in servers
        ]

    def _holds(self, backend: Backend, domains: Collection[str]) -> bool:
        """Whether a backend has something in one of these domains, or may have: a foreign server
        does not tell."""
        held = backend.engine.known().held
        return not held or any(
            self._domain_of(device) in domains and any(kinds.values())
            for device, kinds in held.items()
        )

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


def _with(room: Room, gained: int) -> Room:
    """The room once what is about to leave has left."""
    free = None if room.free is None else room.free + gained
    over = None if room.over_limit is None else room.over_limit - gained
    return replace(room, free=free, over_limit=over)


def _stricter(one: Room, other: Room) -> Room:
    """The room on a card of which two devices tell."""
    frees = [room.free for room in (one, other) if room.free is not None]
    overs = [room.over_limit for room in (one, other) if room.over_limit is not None]
    return replace(
        one,
        free=min(frees, default=None),
        reserve=max(one.reserve, other.reserve),
        over_limit=max(overs, default=None),
        experts=one.experts and other.experts,
    )
