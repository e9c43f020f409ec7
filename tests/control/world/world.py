"""A machine with cards, models and requests, and the real control loop, pool and ledger in it.
Nothing of it runs outside this process, and its time is virtual."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from proxy.control.assembly import ControlLoop, Surroundings, assemble
from proxy.control.headroom import serving
from proxy.control.worker_devices import WorkerDevices
from proxy.engine.files import Files
from proxy.engine.types import Device, LoadOptions, Mode
from proxy.engine.warm import WarmWorkers
from proxy.errors import ModelNotFound, ProxyError
from proxy.memory.ledger import Ledger
from proxy.memory.readings import DeviceReading
from proxy.memory.snapshot import Snapshot
from proxy.observe.events import EventLog
from proxy.placement.parallel import most
from proxy.policy.diff import diff
from proxy.policy.load import parse
from proxy.policy.model import Policies
from proxy.policy.sources import Sources
from proxy.pool.events import MatchPolicy
from proxy.pool.hooks import Hooks
from proxy.pool.pool import Pool
from proxy.pool.state import Backend, BackendState
from proxy.split import Split
from proxy.tasks import Loops, spawn
from tests.control.world.card import MIB, Card
from tests.control.world.engine import SimEngine, Spec
from tests.control.world.loop import VirtualClock

POLL_S = 0.5
RESERVE, LOW = 40, 20  # MiB
SETTLE_S = 10.0
HEAD = f"""
[devices]
reserve = "{RESERVE}MiB"
low = "{LOW}MiB"
settle = "{SETTLE_S}s"
"""


def policies_of(text: str) -> Policies:
    loaded = parse(Sources(((Path("/p.toml"), text.encode()),)), {"HOME": "/home"})
    assert loaded.policies is not None, loaded.problems
    return loaded.policies


class SimMemory:
    """Keeps `proxy.control.ports.Memory` for cards. `through_workers`: devices are read through
    workers, as Vulkan's and RPC's are; else by a driver. `takes_s`: how long after a card was read
    others hear of it."""

    def __init__(
        self,
        cards: Sequence[Card],
        workers: WorkerDevices,
        *,
        through_workers: bool,
        takes_s: float,
    ) -> None:
        self._cards, self._workers, self._through_workers = cards, workers, through_workers
        self._takes_s, self._polling = takes_s, asyncio.Lock()
        self._listeners: list[Callable[[Snapshot], None]] = []
        self._wanted: set[str] = set()
        self._snapshot = Snapshot()
        self._told: dict[str, DeviceReading] = {}

    def latest(self) -> Snapshot:
        return self._snapshot

    async def fresh(self) -> Snapshot:
        await asyncio.sleep(0.01)
        await self._poll()
        return self._snapshot

    def subscribe(self, listener: Callable[[Snapshot], None]) -> None:
        self._listeners.append(listener)

    def set_devices(self, devices: Iterable[Device]) -> None:
        self._wanted = {device.name for device in devices}

    def set_pids(self, pids: Collection[int]) -> None:
        pass

    async def run(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            await self._poll()

    async def _poll(self) -> None:
        async with self._polling:
            await self._poll_alone()

    async def _poll_alone(self) -> None:
        now = asyncio.get_running_loop().time()
        heard = None
        if self._through_workers:
            heard = {device.name for device in await self._workers.ask_all()}
        for card in self._cards:
            for reading in card.read(now):
                if reading.name not in self._wanted:
                    continue
                if heard is None or reading.name in heard:
                    self._told[reading.name] = reading
                elif (old := self._told.get(reading.name)) is not None:
                    self._told[reading.name] = replace(old, stale=True)
        if self._takes_s:
            await asyncio.sleep(self._takes_s)
        number = self._snapshot.number + 1
        self._snapshot = Snapshot(devices=dict(self._told), number=number, at_s=now)
        for listener in self._listeners:
            listener(self._snapshot)


@dataclass
class World:
    """What a test works with."""

    cards: Sequence[Card]
    specs: Mapping[str, Spec]
    text: str
    through_workers: bool = False
    poll_takes_s: float = 0.0
    engines: dict[str, SimEngine] = field(default_factory=dict)  # the last one of each model
    cannot_load: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)  # models of which nobody knows any more
    # Requests that ended: (model, None or what they were refused with).
    ended: list[tuple[str, ProxyError | None]] = field(default_factory=list)
    on_promoted: Callable[[SimEngine, str, Mapping[str, int]], None] = lambda *_: None

    def __post_init__(self) -> None:
        self.clock, self.events, self.ledger = VirtualClock(), EventLog(), Ledger()
        self.loops = Loops(self.clock)
        self.policies = policies_of(self.text)
        self.requests: set[asyncio.Task[None]] = set()
        hooks = Hooks()
        self.pool = Pool(
            self._make,
            hooks=hooks,
            max_queue=1000,
            clock=self.clock,
            events=self.events,
            files=_no_files,
        )
        self.workers = WorkerDevices(lambda: serving(self.pool), self.clock)
        self.memory = SimMemory(
            self.cards,
            self.workers,
            through_workers=self.through_workers,
            takes_s=self.poll_takes_s,
        )
        self.control: ControlLoop = assemble(
            Surroundings(
                pool=self.pool,
                hooks=hooks,
                memory=self.memory,
                ledger=self.ledger,
                workers=self.workers,
                warm=WarmWorkers(),
                policies=lambda: self.policies,
                policy_of=lambda name: self.policies.for_model(name),
                options_for=self._options_for,
                capacity=lambda _: (),
                use=lambda backend: float(backend.in_flight),
                events=self.events,
                loops=self.loops,
                clock=self.clock,
            ),
            footprint_of=self._footprint,
            measured=self._measured,
        )

    def _make(self, backend_id: str, options: LoadOptions) -> SimEngine:
        devices = {device: card for card in self.cards for device in card.devices}
        pid, spec = 1000 + len(self.engines), self.specs[options.model]
        engine = SimEngine(backend_id, pid, spec, devices, self.clock)
        engine.cannot_load = options.model in self.cannot_load
        engine.on_promoted = lambda *what: self.on_promoted(*what)
        self.engines[options.model] = engine
        return engine

    async def _footprint(self, options: LoadOptions, devices: Sequence[str]) -> dict[str, int]:
        spec = self.specs[options.model]
        return {spec.home: spec.dense_mib * MIB} if spec.home in devices else {}

    async def _measured(self, options: LoadOptions, devices: Sequence[Device]) -> int | None:
        return None

    async def _options_for(self, model: str, mode: Mode, moves: bool) -> LoadOptions:
        if model in self.lost:
            raise ModelNotFound(f"model {model!r} not found")
        return self.options(model)

    def options(self, model: str) -> LoadOptions:
        policy = self.policies.for_model(model)
        server = self.specs[model].rpc
        return LoadOptions(
            model,
            Path("no.gguf"),
            ctx=policy.ctx,
            parallel=most(policy.parallel),
            rpc=() if server is None else (server,),
        )

    # --- what a test does ---

    def ask(self, model: str, split: Split | None = None, *, for_s: float = 0.0) -> None:
        """A request comes, is answered for so long, and goes."""
        task = spawn(self._request(model, split, for_s), name=f"request {model}")
        self.requests.add(task)
        task.add_done_callback(self.requests.discard)

    async def _request(self, model: str, split: Split | None, for_s: float) -> None:
        policy = self.policies.for_model(model)
        matching = MatchPolicy(policy.keep_alive_s, frozenset({"ctx", "split"}))
        error: ProxyError | None = None
        try:
            async with await self.pool.acquire(self.options(model), matching=matching) as lease:
                if split is not None:
                    await self.control.controller.apply_request(lease.backend, split)
                await asyncio.sleep(for_s)
        except ProxyError as refusal:
            error = refusal
        self.ended.append((model, error))

    def others_take(self, size_mib: int, card: int = 0) -> None:
        """Other programs hold so much of a card from now on."""
        self.cards[card].others_take(size_mib, self.clock.now())

    async def until_answered(self) -> None:
        while self.requests:
            await asyncio.wait(self.requests)

    async def edit(self, text: str) -> None:
        old, self.policies = self.policies, policies_of(text)
        await self.control.controller.policies_changed(old, self.policies, diff(old, self.policies))

    # --- what a test looks at ---

    def backend(self, model: str) -> Backend:
        (found,) = (b for b in self.serving() if b.options.model == model)
        return found

    def serving(self) -> list[Backend]:
        return [b for b in self.pool.backends() if b.state is BackendState.READY]

    def places(self, model: str) -> str:
        """A letter a layer: "c" on the CPU, else the last one of its device's name."""
        engine = self.engines[model]
        return "".join("c" if p == "CPU" else p[-1] for p in engine.places.values())

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [dict(event.fields) for event in self.events.since(0) if event.kind == kind]


@asynccontextmanager
async def living(world: World) -> AsyncIterator[World]:
    """The world goes on for the length of the block."""
    memory = spawn(world.memory.run(), name="memory")
    try:
        yield world
        if memory.done():
            memory.result()
        assert world.loops.degraded() == []
    finally:
        memory.cancel()
        for task in world.requests:
            task.cancel()
        await world.pool.kill()
        await world.control.controller.close()


async def _no_files(_: LoadOptions) -> Files:
    return ()
