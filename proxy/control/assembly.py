"""Puts the control loop together: the one place where its parts know each other."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.catalog.gguf import GgufError
from proxy.catalog.headers import header_at
from proxy.clock import Clock
from proxy.control.accounting import LedgerSync
from proxy.control.admission import Admission
from proxy.control.balancer import Balancer
from proxy.control.cache_pressure import CachePressure
from proxy.control.controller import Controller
from proxy.control.desired import DesiredStates
from proxy.control.headroom import Headroom
from proxy.control.host_pressure import HostPressure
from proxy.control.ports import Memory, Pool
from proxy.control.speed_learned import learned_floor
from proxy.control.warm_keeper import WarmKeeper
from proxy.control.worker_devices import WorkerDevices
from proxy.engine.types import Device, LoadOptions, Mode
from proxy.engine.warm import WarmWorkers
from proxy.errors import Hangs
from proxy.memory.ledger import Ledger
from proxy.observe.events import EventLog
from proxy.placement.footprint import footprint
from proxy.policy.model import ModelPolicy, Policies
from proxy.pool.hooks import Hooks, Step
from proxy.pool.state import Backend
from proxy.routing.batch_size import Capacity
from proxy.tasks import Loops, spawn
from proxy.threads import MODELS

Footprint = Callable[[LoadOptions, Sequence[str]], Awaitable[Mapping[str, int]]]
Measured = Callable[[LoadOptions, Sequence[Device]], Awaitable[int | None]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the control loop stands on."""

    pool: Pool
    hooks: Hooks
    memory: Memory
    ledger: Ledger
    workers: WorkerDevices
    warm: WarmWorkers
    policies: Callable[[], Policies]
    # What holds for a model, its manifest counted in.
    policy_of: Callable[[str], ModelPolicy]
    # What a model would be loaded with now, if its experts can move or, by the last argument,
    # cannot.
    options_for: Callable[[str, Mode, bool], Awaitable[LoadOptions]]
    capacity: Capacity
    use: Callable[[Backend], float]  # a backend's tokens a second
    events: EventLog
    loops: Loops
    clock: Clock


@dataclass(frozen=True, slots=True)
class ControlLoop:
    """The parts that others speak to."""

    desired: DesiredStates
    headroom: Headroom
    controller: Controller
    balancer: Balancer
    warm: WarmKeeper


def assemble(on: Surroundings, *, footprint_of: Footprint, measured: Measured) -> ControlLoop:
    """`footprint_of`: of which devices a model takes how many bytes without its experts.
    `measured`: the layers that "auto" leaves on the CPU, as `moe-proxy bench` measured."""
    desired = DesiredStates(on.policies)
    accounting = LedgerSync(ledger=on.ledger, desired=desired, clock=on.clock)
    headroom = Headroom(
        pool=on.pool,
        desired=desired,
        memory=on.memory,
        ledger=on.ledger,
        accounting=accounting,
        policies=on.policies,
        use=on.use,
        answers=on.workers.answers,
        clock=on.clock,
    )
    controller = Controller(
        pool=on.pool,
        desired=desired,
        headroom=headroom,
        policies=on.policies,
        policy_of=on.policy_of,
        options_for=on.options_for,
        events=on.events,
        clock=on.clock,
    )
    admission = Admission(
        pool=on.pool,
        desired=desired,
        memory=on.memory,
        headroom=headroom,
        accounting=accounting,
        footprint=footprint_of,
        relocate=controller.relocate,
        answers=on.workers.answers,
        events=on.events,
        clock=on.clock,
    )
    balancer = Balancer(
        controller=controller,
        desired=desired,
        memory=on.memory,
        ledger=on.ledger,
        accounting=accounting,
        headroom=headroom,
        admission=admission,
        workers=on.workers,
        measured=measured,
        clock=on.clock,
    )
    host_pressure = HostPressure(
        memory=on.memory,
        events=on.events,
        split_of=controller.policy_split,
        capacity=on.capacity,
    )
    caches = CachePressure(
        pool=on.pool,
        headroom=headroom,
        policies=on.policies,
        events=on.events,
        clock=on.clock,
    )
    warm = WarmKeeper(warm=on.warm, pool=on.pool, policies=on.policies, clock=on.clock)
    # Called in this order.
    on.hooks.subscribe(before_start=_aside(host_pressure.check))
    on.hooks.subscribe(before_start=admission.admit)
    on.hooks.subscribe(ready=controller.ready, idle=controller.idle, gone=controller.gone)
    on.hooks.subscribe(ready=balancer.ready, gone=balancer.gone)
    on.hooks.subscribe(gone=caches.gone)
    on.hooks.subscribe(ready=warm.pool_changed, gone=warm.pool_changed)
    on.memory.subscribe(on.loops.guarded(warm.look, name="warm workers"))
    on.memory.subscribe(on.loops.guarded(balancer.reconcile, name="balancer"))
    on.memory.subscribe(on.loops.guarded(caches.look, name="expert caches"))
    on.memory.subscribe(on.loops.guarded(host_pressure.look, name="host pressure"))
    return ControlLoop(desired, headroom, controller, balancer, warm)


def _aside(check: Step) -> Step:
    """A step of which no load waits for the end: it only tells."""

    async def begin(backend: Backend) -> None:
        spawn(check(backend), name=f"{backend.id}:check")

    return begin


async def footprint_by_header(options: LoadOptions, devices: Sequence[str]) -> dict[str, int]:
    """What a model takes of each device before its experts come; nothing where its file does not
    tell."""
    if options.engine != "hosted":
        return {}
    try:
        return await MODELS.run(_footprint, options, devices)
    except Hangs:  # it is not loaded anyway, and says why
        return {}


def _footprint(options: LoadOptions, devices: Sequence[str]) -> dict[str, int]:
    try:
        return footprint(header_at(options.path), options, devices)
    except (GgufError, OSError):
        return {}


def floor_by_speed(policies: Callable[[], Policies], clock: Clock) -> Measured:
    """What `moe-proxy bench` and use have shown on these devices, read anew each time."""

    async def measured(options: LoadOptions, devices: Sequence[Device]) -> int | None:
        state, now_s = policies().catalog.state, clock.wall().timestamp()
        try:
            return await MODELS.run(learned_floor, state, options, devices, now_s)
        except Hangs:
            return None

    return measured
