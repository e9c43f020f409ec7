"""What there is of each device's memory for whom: what may still be taken, what comes and goes, and
who holds what.

Devices that show the same memory (two RPC servers on one card) are one *memory domain*. Answers
questions; what it remembers is told to it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from proxy.clock import Clock
from proxy.control.accounting import LedgerSync
from proxy.control.desired import DesiredStates
from proxy.control.ports import Backends, Readings
from proxy.engine.types import CPU, Device, Layer, LoadOptions, Status
from proxy.memory.ledger import Ledger
from proxy.placement.assign import Placement, projected
from proxy.placement.device_budget import DeviceBudget
from proxy.placement.rebalance import Tenant
from proxy.policy.model import Policies
from proxy.pool.state import Backend, BackendState, Name
from proxy.split import AUTO, cpu_layers

SERVING = (BackendState.READY, BackendState.DRAINING)


@dataclass(slots=True)
class DomainState:
    """What is remembered of one memory domain."""

    short_at_s: float = float("-inf")  # when memory was short last
    failed_at_s: float = float("-inf")  # when it could not be had though there seemed to be room
    shrinking: bool = False  # it was short, and the reserve is not free again yet
    recovering: bool = False  # since then not all has come back
    preempted_at_s: float = float("-inf")


class Headroom:
    """One for all devices."""

    def __init__(
        self,
        *,
        pool: Backends,
        desired: DesiredStates,
        memory: Readings,
        ledger: Ledger,
        accounting: LedgerSync,
        policies: Callable[[], Policies],
        use: Callable[[Backend], float],
        answers: Callable[[Backend], bool],
        clock: Clock,
    ) -> None:
        """`use`: a backend's tokens a second. `answers`: whether its worker does, so that its
        experts can move."""
        self._pool, self._desired, self._memory = pool, desired, memory
        self._ledger, self._accounting = ledger, accounting
        self._policies, self._use, self._answers = policies, use, answers
        self._clock = clock
        # What changes: devices by backend, what of them is reserved for those that are being loaded
        # (the one that began first before the others), and what is remembered of domains.
        self._devices: dict[str, tuple[Device, ...]] = {}
        self._reserved: dict[Name, Mapping[str, int]] = {}
        self._domains: dict[str, DomainState] = {}
        # What was made of each backend's experts, and of what: most looks find nothing new.
        self._leaving: dict[str, tuple[Status, Placement, list[Layer]]] = {}
        self._placed: dict[str, tuple[Status, Placement, list[str], list[Layer]]] = {}

    # --- what it is told ---

    def note_devices(self, backend: Backend, devices: tuple[Device, ...]) -> None:
        """A worker has reported its devices. They stay known when it is gone: the next one will
        find the same, until others tell of all of them."""
        self._devices[backend.id] = devices
        there = {other.id for other in self._pool.backends()}
        for memory in (self._leaving, self._placed):
            for old in [old for old in memory if old not in there]:
                del memory[old]
        for old in [old for old in self._devices if old not in there]:
            elsewhere = {
                d.name for key, found in self._devices.items() if key != old for d in found
            }
            if all(device.name in elsewhere for device in self._devices[old]):
                del self._devices[old]

    def forget_lent(self, backend: Backend) -> None:
        """What the fleet has lent to it is there no more."""
        own = tuple(d for d in self._devices.pop(backend.id, ()) if not d.name.startswith("RPC"))
        if own:
            self._devices[backend.id] = own

    def note_failed(self, device: str) -> None:
        """An allocation failed though there seemed to be room: it is not tried again before it has
        settled."""
        state = self.state_of(self.domain_of(device))
        state.failed_at_s = state.short_at_s = self._clock.now()
        state.recovering = True

    def reserve(self, newcomer: Backend, needed: Mapping[str, int]) -> None:
        """Nobody else may grow into these bytes, by device, before `release`."""
        self._reserved[newcomer.name] = needed

    def release(self, newcomer: Backend) -> None:
        self._reserved.pop(newcomer.name, None)

    def reserved(self) -> set[str]:
        """The domains of which something is reserved for somebody."""
        return {domain for domain, _ in self._reserved_before(None)}

    def is_first(self, newcomer: Backend) -> bool:
        """Whether no other newcomer has reserved memory before this one."""
        return next(iter(self._reserved), newcomer.name) == newcomer.name

    def state_of(self, domain: str) -> DomainState:
        """What is remembered of a domain, for the balancer to change."""
        return self._domains.setdefault(domain, DomainState())

    # --- devices and domains ---

    def devices(self) -> dict[str, Device]:
        """Every device that a worker has reported, by name."""
        return {device.name: device for found in self._devices.values() for device in found}

    def devices_of(self, backend: Backend) -> tuple[Device, ...]:
        """The devices that a backend has, as far as it has said so."""
        return self._devices.get(backend.id, ())

    def devices_for(self, options: LoadOptions) -> list[str]:
        """The devices that a backend with these options will use, among those that are known."""
        servers = set(options.rpc)
        return [
            device.name
            for device in self.devices().values()
            if not device.name.startswith("RPC") or device.description in servers
        ]

    def domain_of(self, device: str) -> str:
        """The memory that a device shares, or the device itself where nothing more is known."""
        reading = self._memory.latest().devices.get(device)
        return reading.source if reading is not None and ":" in reading.source else device

    def by_domain(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The same sizes by domain as by device."""
        return _sums((self.domain_of(device), size) for device, size in sizes.items())

    def serving(self) -> list[Backend]:
        """The backends that have memory, and may be asked."""
        return serving(self._pool)

    # --- what there is ---

    def budgets(self, newcomer: Backend | None = None) -> dict[str, DeviceBudget]:
        """Domain -> its budget, as of now. Of several devices in one domain the pessimist's view
        of each counts. For a newcomer, what is reserved for later ones does not."""
        self._accounting.sync(self.serving())
        promised = _sums((*self.inbound().items(), *self._reserved_before(newcomer)))
        taken = _sums((self.domain_of(d), self._ledger.pending_taken(d)) for d in self.devices())
        budgets: dict[str, DeviceBudget] = {}
        for name in self.devices():
            domain = self.domain_of(name)
            beside = taken[domain] - self._ledger.pending_taken(name)
            budget = self._budget(name, domain, promised.get(domain, 0), beside)
            budgets[domain] = budgets[domain].merge(budget) if domain in budgets else budget
        return budgets

    def _budget(self, device: str, domain: str, promised: int, beside: int) -> DeviceBudget:
        """`beside`: bytes taken by way of other devices in the domain, and not shown yet."""
        policies, now = self._policies().devices, self._clock.now()
        rules, state = policies.for_device(device), self.state_of(domain)
        quiet = now - state.short_at_s >= policies.settle_s
        limit, free = rules.limit_bytes, self._ledger.free(device)
        return DeviceBudget(
            # What is on its way back is not short any more, though nothing may be promised of it
            # yet.
            free_bytes=None if free is None else max(free - beside, 0),
            reserve_bytes=rules.reserve_bytes,
            # Once it is short, enough is what brings the reserve back: moves change what is needed
            # to compute, so the first go may fall short of it.
            low_bytes=rules.reserve_bytes if state.shrinking else policies.low_bytes,
            over_limit_bytes=None if limit is None else self._ledger.ours(device) - limit,
            promised_bytes=promised,
            growth="frozen" if not quiet else "step" if state.recovering else "bulk",
            may_preempt=now - state.preempted_at_s >= policies.settle_s,
            experts=rules.experts,
        )

    def _reserved_before(self, newcomer: Backend | None) -> Iterable[tuple[str, int]]:
        for name, sizes in self._reserved.items():
            if newcomer is not None and name == newcomer.name:
                return
            # By the domains of now: where a device's memory is read may change meanwhile.
            yield from self.by_domain(sizes).items()

    def available(self, *, by_number: bool) -> dict[str, int | None]:
        """Domain -> bytes that experts may still take there; None: not known.

        `by_number`: for a number that somebody named, who need not wait until memory has settled,
        but for memory that could not be had: another try would be in vain, and what is missing
        comes by itself.
        """
        found: dict[str, int | None] = {}
        failed_since_s = self._clock.now() - self._policies().devices.settle_s
        for domain, budget in self.budgets().items():
            failed = self.state_of(domain).failed_at_s > failed_since_s
            if failed or (budget.growth == "frozen" and not by_number):
                found[domain] = 0
            else:
                known = budget.spare_bytes is not None
                found[domain] = budget.available_bytes if known else None
        return found

    def inbound(self, *, but_one: bool = False) -> dict[str, int]:
        """Domain -> bytes of experts that are being copied there. `but_one`: without the largest
        layer of each backend, since one has its memory already while it is copied."""
        sums: dict[str, int] = {}
        for backend in self.serving():
            goal = self._desired.goal(backend)
            sizes: dict[str, list[int]] = {}
            for layer in self._to_move(backend, goal):
                if (place := goal[layer.index]) != CPU:
                    sizes.setdefault(self.domain_of(place), []).append(layer.experts_bytes)
            for domain, found in sizes.items():
                taken = max(found) if but_one else 0
                sums[domain] = sums.get(domain, 0) + sum(found) - taken
        return sums

    def outbound(self) -> dict[str, int]:
        """Domain -> bytes of experts that are about to leave it, or have left and are not shown
        yet. Of a worker that does not answer nothing is expected."""
        shown_late = ((self.domain_of(d), self._ledger.pending_free(d)) for d in self.devices())
        leaving = (
            (self.domain_of(layer.experts), layer.experts_bytes)
            for backend in filter(self._answers, self.serving())
            for layer in self._to_move(backend, self._desired.goal(backend))
            if layer.experts != CPU
        )
        return _sums((*shown_late, *leaving))

    def _to_move(self, backend: Backend, goal: Placement) -> list[Layer]:
        """The layers whose experts are not where they are to be."""
        status, known = backend.engine.known(), self._leaving.get(backend.id)
        if known is None or known[0] is not status or known[1] is not goal:
            found = [x for x in status.layers if goal.get(x.index, x.experts) != x.experts]
            known = self._leaving[backend.id] = status, goal, found
        return known[2]

    # --- who is there ---

    def tenants(self) -> list[Tenant]:
        """Who has experts that may move, and where they are, by domain."""
        return [
            tenant
            for backend in self.serving()
            if backend.engine.live_moves and self._answers(backend)
            if (tenant := self._tenant(backend)) is not None
        ]

    def _tenant(self, backend: Backend) -> Tenant | None:
        state = self._desired.get(backend)
        # Before its devices are known, the ledger does not know what it took.
        if state is None or not state.devices_known.is_set():
            return None
        auto, status = state.split == AUTO, backend.engine.known()
        return Tenant(
            id=backend.id,
            layers=self._layers_by_domain(backend),
            pinned_cpu=cpu_layers(state.floor if auto else state.split, status.block_count),
            auto=auto,
            busy=backend.in_flight > 0,
            use=self._use(backend),
            last_used_s=backend.last_used_s,
            moving=self._desired.moving(backend),
            expert_only=frozenset(map(self.domain_of, self._desired.expert_only(backend))),
        )

    def _layers_by_domain(self, backend: Backend) -> list[Layer]:
        """Its layers with domains for devices. One that is on its way is where it will be."""
        status, goal = backend.engine.known(), self._desired.goal(backend)
        domains = [self.domain_of(device) for device in self.devices()]
        known = self._placed.get(backend.id)
        if known is None or not (known[0] is status and known[1] is goal and known[2] == domains):
            layers = [
                replace(
                    layer,
                    experts=self._place(layer.experts),
                    attention_device=self._place(layer.attention_device),
                )
                for layer in projected(status, goal).layers
            ]
            known = self._placed[backend.id] = status, goal, domains, layers
        return known[3]

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


def serving(pool: Backends) -> list[Backend]:
    """The backends that have memory, and may be asked."""
    return [backend for backend in pool.backends() if backend.state in SERVING]


def hold_memory(backends: Iterable[Backend]) -> bool:
    """Whether one of these has memory of a device, or may have: a foreign server does not tell."""
    return any(
        not held or any(any(kinds.values()) for device, kinds in held.items() if device != CPU)
        for held in (backend.engine.known().held for backend in backends)
    )


def at_work(backends: Iterable[Backend], moving: Callable[[Backend], bool]) -> bool:
    """Whether one of these computes, or has experts on their way."""
    return any(backend.in_flight or moving(backend) for backend in backends)


def _sums(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, size in sizes:
        sums[key] = sums.get(key, 0) + size
    return sums
