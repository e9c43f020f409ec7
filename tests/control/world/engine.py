"""An engine without a process: takes memory of cards, moves experts one layer at a time, and may
hang, fail to load or die at any moment. It keeps to what `proxy.engine.types.Engine` promises."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from proxy.clock import Clock
from proxy.engine.types import CPU, Address, Device, Layer, Move, Status
from proxy.errors import BackendDied, Conflict, LoadFailed
from tests.control.world.card import MIB, Card

# An engine gives up on a worker that does not answer.
DEVICES_DEADLINE_S = 3.0
PLACE_DEADLINE_S = 10.0
GATE_S = 0.005


@dataclass(frozen=True)
class Spec:
    """A model as its file has it. Attention of all layers is on `home`."""

    layers: int = 6
    layer_mib: int = 100
    dense_mib: int = 50
    home: str = "G0"
    load_s: float = 1.0
    stage_s: float = 0.2  # to copy one layer
    rpc: str | None = None  # a server that has one client at a time


class SimEngine:
    def __init__(
        self, name: str, pid: int, spec: Spec, cards: Mapping[str, Card], clock: Clock
    ) -> None:
        """`cards`: of each device."""
        self.name, self.spec, self._cards, self._clock = name, spec, cards, clock
        self.pid: int | None = pid
        self.live_moves, self.moves_by_reload = True, False
        self.why_no_moves: str | None = None
        self.confined: str | None = None
        self.cause: str | None = None
        self.address = Address(port=1)
        # What the test decides:
        self.hangs = self.refuses = self.cannot_load = False
        # Infinite: it is stuck in a driver and knows nothing of it, so its engine never gives up.
        self.place_deadline_s = PLACE_DEADLINE_S
        self.on_promoted: Callable[[SimEngine, str, Mapping[str, int]], None] = lambda *_: None
        # What changes:
        self.places = dict.fromkeys(range(spec.layers), CPU)
        self._target = dict(self.places)
        self._order: object = None
        self.running = False
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._status: Status | None = None

    def known(self) -> Status:
        if self._status is None:
            spec, held = self.spec, {self.spec.home: self._row(self.spec.dense_mib)}
            for place in self.places.values():
                if place != CPU:
                    held.setdefault(place, self._row(0))["experts"] += spec.layer_mib * MIB
            layers = (Layer(i, p, spec.layer_mib * MIB, spec.home) for i, p in self.places.items())
            self._status = Status(spec.layers, tuple(layers), held if self.running else {})
        return self._status

    def _row(self, weights: int) -> dict[str, int]:
        return {"weights": weights * MIB, "kv": 0, "compute": 0, "experts": 0}

    async def start(self) -> None:
        await self._clock.sleep(self.spec.load_s)
        self._check_alive()
        home = self._cards[self.spec.home]
        if self.cannot_load or not home.take((self, "dense"), self.spec.dense_mib, self._now()):
            raise LoadFailed(f"{self.name}: out of memory")
        self.running = True
        self._status = None

    async def wait_exit(self) -> int:
        return await asyncio.shield(self._ended)

    async def stop(self, grace_s: float = 10.0) -> None:
        await self._clock.sleep(GATE_S)
        self.die(0)

    def die(self, status: int = -9) -> None:
        """The process is gone, and what it held is given back."""
        for card in set(map(id, self._cards.values())):
            found = next(c for c in self._cards.values() if id(c) == card)
            for owner in [owner for owner in found.ours if owner[0] is self]:  # type: ignore[index]
                found.give_back(owner, self._now())
        self.running, self._status = False, None
        if not self._ended.done():
            self._ended.set_result(status)

    async def devices(self, tell: Callable[[], None] | None = None) -> Sequence[Device]:
        await self._answers(0.001, DEVICES_DEADLINE_S)
        cards = self._cards.items()
        return [Device("CPU", "cpu", "cpu", None, None)] + [
            Device(name, name, "gpu", card.total * MIB, card.free * MIB) for name, card in cards
        ]

    async def pulse(self) -> int:
        await self._answers(0.001, DEVICES_DEADLINE_S)
        return 0

    async def place(self, placement: Mapping[int, str], *, settle_s: float = 0.0) -> Move:
        if unknown := set(placement.values()) - {CPU, *self._cards}:
            raise Conflict(f"no device {unknown}")
        if self.refuses:
            raise Conflict("its gate does not open")
        self._order = order = object()
        self._target |= placement
        others_before = {name: card.others for name, card in self._cards.items()}
        await self._answers(GATE_S, self.place_deadline_s)
        moved, short = self._demote(), None
        for layer in sorted(self.places, reverse=True):
            if self._order is not order:
                return Move(moved, 0.0, GATE_S, superseded=True)
            device = self._target[layer]
            if self.places[layer] != CPU or device == CPU:
                continue
            if not self._cards[device].take((self, layer), self.spec.layer_mib, self._now()):
                short = device
                self._target |= {i: CPU for i, p in self.places.items() if p == CPU}
                break
            self.on_promoted(self, device, others_before)
            if not await self._staged(order, layer, device):
                return Move(moved, 0.0, GATE_S, superseded=True)
            moved += 1
        return Move(moved, self.spec.stage_s, GATE_S, short_of_memory=short)

    def _demote(self) -> int:
        leaving = [i for i, p in self.places.items() if p not in (CPU, self._target[i])]
        for layer in leaving:
            self._cards[self.places[layer]].give_back((self, layer), self._now())
            self.places[layer] = CPU
        self._status = None
        return len(leaving)

    async def _staged(self, order: object, layer: int, device: str) -> bool:
        """Copy a layer to where its memory is; False if another order came meanwhile."""
        try:
            await self._answers(self.spec.stage_s, self.place_deadline_s)
        except BackendDied:
            self._cards[device].give_back((self, layer), self._now())
            raise
        if self._order is not order:
            self._cards[device].give_back((self, layer), self._now())
            return False
        self.places[layer], self._status = device, None
        return True

    async def _answers(self, seconds: float, deadline_s: float) -> None:
        """Take so long, or until the engine gives up on a worker that hangs."""
        await self._clock.sleep(seconds)
        gives_up_s = self._now() + deadline_s
        while self.hangs and self._now() < gives_up_s:
            self._check_alive()
            await self._clock.sleep(0.5)
        self._check_alive()
        if self.hangs:
            raise BackendDied(f"{self.name} does not answer")

    def _check_alive(self) -> None:
        if self._ended.done():
            raise BackendDied("the worker ended")

    def _now(self) -> float:
        return self._clock.now()
