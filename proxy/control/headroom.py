"""What the balancer looks at: the cards and their room, what comes and goes, and who is there.

Devices that show the same card (two RPC servers that a test points at one) are one *domain*: they
share its memory.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from proxy.clock import Clock
from proxy.control.controller import Controller
from proxy.engine.types import CPU, Device, LoadOptions
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.placement.assign import projected
from proxy.placement.rebalance import Tenant
from proxy.placement.room import Room
from proxy.policy.model import Policies
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.split import AUTO, cpu_layers

SERVING = (BackendState.READY, BackendState.DRAINING)


@dataclass(slots=True)
class Domain:
    """What is remembered of one card."""

    short_at_s: float = float("-inf")  # when memory was short last
    failed_at_s: float = float("-inf")  # when it could not be had though there seemed to be room
    shrinking: bool = False  # it was short, and the reserve is not free again yet
    recovering: bool = False  # since then not all has come back
    traded_at_s: float = float("-inf")


class Rooms:
    """One for all devices. Answers questions; what it remembers is told to it."""

    def __init__(
        self,
        *,
        pool: Pool,
        controller: Controller,
        watch: MemoryWatch,
        ledger: Ledger,
        policies: Callable[[], Policies],
        use: Callable[[str], float],
        clock: Clock,
    ) -> None:
        """`use`: a backend's tokens a second."""
        self._pool, self._controller, self._watch, self._ledger = pool, controller, watch, ledger
        self._policies, self._use, self._clock = policies, use, clock
        # What changes: devices by backend, what was promised to those that are being loaded (by
        # domain, the one that began first before the others), and the domains.
        self.known: dict[str, tuple[Device, ...]] = {}
        self.promised: dict[str, dict[str, int]] = {}
        self._domains: dict[str, Domain] = {}

    def devices(self) -> dict[str, Device]:
        """Every device that a worker has reported, by name."""
        return {device.name: device for devices in self.known.values() for device in devices}

    def devices_for(self, options: LoadOptions) -> list[str]:
        """The devices that a backend with these options will use, among those that are known."""
        servers = set(options.rpc)
        return [
            device.name
            for device in self.devices().values()
            if not device.name.startswith("RPC") or device.description in servers
        ]

    def domain(self, name: str) -> Domain:
        """What is remembered of a domain."""
        return self._domains.setdefault(name, Domain())

    def domain_of(self, device: str) -> str:
        """The card that a device is on, or the device itself where nothing more is known of it."""
        reading = self._watch.latest().devices.get(device)
        return reading.source if reading is not None and ":" in reading.source else device

    def by_domain(self, needed: Mapping[str, int]) -> dict[str, int]:
        """The same sizes by domain as by device."""
        domains: dict[str, int] = {}
        for device, size in needed.items():
            domain = self.domain_of(device)
            domains[domain] = domains.get(domain, 0) + size
        return domains

    def serving(self) -> list[Backend]:
        """The backends that have memory, and may be asked."""
        return [backend for backend in self._pool.backends() if backend.state in SERVING]

    def rooms(self, newcomer: str | None = None) -> dict[str, Room]:
        """Domain -> its room. Of several devices on one card the pessimist's view of each
        counts. For a newcomer, what was promised to later ones does not."""
        policies, now = self._policies().devices, self._clock.now()
        rooms: dict[str, Room] = {}
        coming = self.coming()
        for backend, domains in self.promised.items():
            if backend == newcomer:
                break
            for domain, size in domains.items():
                coming[domain] = coming.get(domain, 0) + size
        for name in self.devices():
            domain = self.domain_of(name)
            rules, memory = policies.for_device(name), self.domain(domain)
            # What is on its way back is not short any more, though nothing may be promised of it
            # yet.
            free = self._ledger.free(name)
            quiet = now - memory.short_at_s >= policies.settle_s
            ours = self._ledger.ours(name)
            room = Room(
                free_bytes=free,
                reserve_bytes=rules.reserve_bytes,
                # Once it is short, enough is what brings the reserve back: moves change what is
                # needed to compute, so the first go may fall short of it.
                low_bytes=rules.reserve_bytes if memory.shrinking else policies.low_bytes,
                over_limit_bytes=None if rules.limit_bytes is None else ours - rules.limit_bytes,
                promised_bytes=coming.get(domain, 0),
                growth="frozen" if not quiet else "step" if memory.recovering else "bulk",
                may_preempt=now - memory.traded_at_s >= policies.settle_s,
                experts=rules.experts,
            )
            rooms[domain] = rooms[domain].merge(room) if domain in rooms else room
        return rooms

    def spare(self, *, by_number: bool) -> dict[str, int | None]:
        """Domain -> bytes that experts may still take there; None: not known.

        `by_number`: for a number that somebody named, who need not wait until memory has settled,
        but for memory that could not be had: another try would be in vain, and what is missing
        comes by itself.
        """
        found: dict[str, int | None] = {}
        failed_since_s = self._clock.now() - self._policies().devices.settle_s
        for domain, room in self.rooms().items():
            failed = self.domain(domain).failed_at_s > failed_since_s
            if failed or (room.growth == "frozen" and not by_number):
                found[domain] = 0
            else:
                known = room.spare_bytes is not None
                found[domain] = room.available_bytes if known else None
        return found

    def coming(self, *, but_one: bool = False) -> dict[str, int]:
        """Domain -> bytes of experts that are being copied there. `but_one`: without the largest
        layer of each backend, since one has its memory already while it is copied."""
        sums: dict[str, int] = {}
        for backend in self.serving():
            goal = self._controller.goal(backend) or {}
            sizes: dict[str, list[int]] = {}
            for layer in backend.engine.known().layers:
                place = goal.get(layer.index, layer.experts)
                if place not in (CPU, layer.experts):
                    sizes.setdefault(self.domain_of(place), []).append(layer.experts_bytes)
            for domain, found in sizes.items():
                taken = max(found) if but_one else 0
                sums[domain] = sums.get(domain, 0) + sum(found) - taken
        return sums

    def leaving(self) -> dict[str, int]:
        """Domain -> bytes of experts that are about to leave it, or have left and are not shown
        yet."""
        sums: dict[str, int] = {}
        for name in self.devices():
            domain = self.domain_of(name)
            sums[domain] = sums.get(domain, 0) + self._ledger.pending_free(name)
        for backend in self.serving():
            goal = self._controller.goal(backend) or {}
            for layer in backend.engine.known().layers:
                if layer.experts not in (CPU, goal.get(layer.index, layer.experts)):
                    domain = self.domain_of(layer.experts)
                    sums[domain] = sums.get(domain, 0) + layer.experts_bytes
        return sums

    def tenants(self) -> list[Tenant]:
        """Who has experts that may move, and where they are, by domain."""
        found = []
        for backend in self.serving():
            asked = self._controller.asked(backend.id)
            if asked is None or not backend.engine.live_moves:
                continue
            # A layer that is on its way counts as where it will be.
            status = projected(backend.engine.known(), self._controller.goal(backend) or {})
            found.append(
                Tenant(
                    id=backend.id,
                    layers=[
                        replace(
                            layer,
                            experts=self._place(layer.experts),
                            attention_device=self._place(layer.attention_device),
                        )
                        for layer in status.layers
                    ],
                    pinned_cpu=cpu_layers(
                        self._controller.floors.get(backend.id, 0) if asked == AUTO else asked,
                        status.block_count,
                    ),
                    auto=asked == AUTO,
                    busy=backend.in_flight > 0,
                    use=self._use(backend.id),
                    last_used_s=backend.last_used_s,
                    moving=self._controller.moving(backend),
                    expert_only=frozenset(map(self.domain_of, self._controller.extra(backend))),
                )
            )
        return found

    def holds(self, backend: Backend, domains: Collection[str]) -> bool:
        """Whether a backend has something in one of these domains, or may have: a foreign server
        does not tell."""
        held = backend.engine.known().held
        return not held or any(
            self.domain_of(device) in domains and any(kinds.values())
            for device, kinds in held.items()
        )

    def _place(self, place: str) -> str:
        return place if place == CPU else self.domain_of(place)
