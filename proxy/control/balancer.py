"""The eye on memory: what the devices show, and who has to move because of it.

Counterparts: `headroom` knows what there is, proxy.placement.rebalance decides, the controller
moves; `admission` has others make way for a model that is about to be loaded.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import structlog

from proxy.clock import Clock
from proxy.control.accounting import LedgerSync
from proxy.control.admission import Admission
from proxy.control.controller import Controller
from proxy.control.desired import DesiredStates
from proxy.control.headroom import SERVING, Headroom
from proxy.control.ports import Memory
from proxy.control.worker_devices import WorkerDevices
from proxy.engine.types import FLEET, Device, LoadOptions
from proxy.memory.ledger import Ledger
from proxy.memory.snapshot import Snapshot
from proxy.placement.device_budget import DeviceBudget
from proxy.placement.rebalance import rebalance
from proxy.pool.state import Backend
from proxy.tasks import spawn

log = structlog.get_logger()

Measured = Callable[[LoadOptions, Sequence[Device]], Awaitable[int | None]]
# Until a worker that did not say which devices it has is asked again.
PROBE_AGAIN_S = 1.0


class Balancer:
    """One for all devices. Told of each reading of memory, and of who comes and goes."""

    def __init__(
        self,
        *,
        controller: Controller,
        desired: DesiredStates,
        memory: Memory,
        ledger: Ledger,
        accounting: LedgerSync,
        headroom: Headroom,
        admission: Admission,
        workers: WorkerDevices,
        measured: Measured,
        clock: Clock,
    ) -> None:
        """`measured`: the layers that "auto" leaves on the CPU, as `moe-proxy bench` measured."""
        self._controller, self._desired, self._memory = controller, desired, memory
        self._ledger, self._accounting, self._headroom = ledger, accounting, headroom
        self._admission, self._workers = admission, workers
        self._measured, self._clock = measured, clock

    # --- who comes and goes ---

    def ready(self, backend: Backend) -> None:
        """It is loaded: find out what devices it has, and place its experts."""
        spawn(self._probe(backend), name=f"{backend.id}:devices")

    def gone(self, backend: Backend) -> None:
        self._admission.settle(backend)
        self._accounting.remove(backend)
        self._workers.forget(backend)
        # What devices there are stays known: the next backend will find the same ones, but for
        # those that were lent to this one.
        if FLEET in backend.options.rpc:
            self._headroom.forget_lent(backend)
            self._memory.set_devices(self._headroom.devices().values())
        self._set_pids()

    async def _probe(self, backend: Backend) -> None:
        self._set_pids()
        while backend.state in SERVING:
            if (devices := await self._workers.ask(backend)) is not None:
                await self._learn(backend, devices)
                return
            log.warning("devices_not_known", backend=backend.id)
            # Nobody waits for what may never be known. What it has taken is shown by now.
            self._admission.settle(backend)
            await self._controller.devices_known(backend, ())
            await self._clock.sleep(PROBE_AGAIN_S)

    async def _learn(self, backend: Backend, found: Sequence[Device]) -> None:
        names: list[str] = []
        floor = None
        try:
            floor = await self._measured(backend.options, found)
            if backend.state not in SERVING:
                return
            devices = tuple(device for device in found if device.kind != "cpu")
            names = [device.name for device in devices]
            self._headroom.note_devices(backend, devices)
            self._memory.set_devices(self._headroom.devices().values())
            # Whoever is "auto" is placed by what the devices show, which nobody knew before.
            await self._memory.fresh()
            if backend.state in SERVING:
                self._accounting.register(backend)
        finally:
            # It is a newcomer no more in the moment in which the ledger has it, and is placed in
            # the same one: before anybody grows into what it has left of its room.
            self._admission.settle(backend)
            await self._controller.devices_known(backend, names, floor or 0)

    def _set_pids(self) -> None:
        pids = [backend.engine.pid for backend in self._headroom.serving()]
        self._memory.set_pids([pid for pid in pids if pid is not None])

    # --- what the devices show ---

    def reconcile(self, snapshot: Snapshot) -> None:
        """After each reading: give what has to be given, take what may be taken."""
        self._ledger.observe(snapshot.devices.values())
        budgets = self._expected()
        relocations = rebalance(self._headroom.tenants(), budgets)
        self._controller.relocate(relocations)
        for domain, budget in budgets.items():
            # All that was given is back once nobody has anything more to take.
            if budget.growth == "step" and not relocations:
                self._headroom.state_of(domain).recovering = False
        for domain in {move.domain for move in relocations if move.why == "use"}:
            self._headroom.state_of(domain).preempted_at_s = self._clock.now()
        self._check_movers()

    def _expected(self) -> Mapping[str, DeviceBudget]:
        """The budgets, with what is on its way counted once; remembers where memory is short."""
        budgets, outbound = self._headroom.budgets(), self._headroom.outbound()
        inbound, now = self._headroom.inbound(but_one=True), self._clock.now()
        reserved = self._headroom.reserved()
        for domain, budget in budgets.items():
            gained = outbound.get(domain, 0)
            if inbound.get(domain, 0):
                # Nothing more comes while this does; only whether all of it still may, is asked.
                budgets[domain] = budget = budget.with_freed(-inbound[domain])
            if gained:
                # As free for the question whether more has to leave, as not there otherwise.
                budgets[domain] = replace(budget.with_freed(gained), growth="frozen")
            if domain in reserved:
                # What a newcomer takes is an estimate, and so is what was freed for it: what seems
                # to be left over comes back when it is loaded.
                budgets[domain] = replace(budgets[domain], growth="frozen")
            state, short = self._headroom.state_of(domain), budgets[domain].deficit_bytes > 0
            state.shrinking = short or (state.shrinking and gained > 0)
            if short:
                state.short_at_s, state.recovering = now, True
        return budgets

    def _check_movers(self) -> None:
        """Whose move takes its time is asked whether it answers: others do not wait for one that
        hangs, and nothing is expected of it."""
        for backend in self._headroom.serving():
            if self._desired.moving(backend) or not self._workers.answers(backend):
                self._workers.check(backend)
