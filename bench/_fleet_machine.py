"""A made-up machine of a fleet: what it holds is made up, who gives way and who gets memory is
decided as on a real one."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeVar

from proxy.engine.types import CPU, Layer
from proxy.fleet.state import Loaded, Node
from proxy.placement.device_budget import DeviceBudget
from proxy.placement.rebalance import Relocation, Tenant, make_room, rebalance

T = TypeVar("T")

GB: Final = 10**9
NODE_BYTES: Final = 24 * GB
RESERVE_BYTES: Final = GB // 2
LAYERS: Final = 24
SLOTS: Final = 4
CTX: Final = 8192
LOAD_S: Final = 6.0
DEVICE: Final = "GPU0"


@dataclass(slots=True)
class Running:
    """A model that a machine has loaded. Its first bytes stay on the device, its experts may."""

    least_bytes: int
    layers: list[Layer]
    busy: int = 0
    ready_s: float = 0.0
    used_s: float = 0.0
    line: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        return not self.busy and not self.line

    @property
    def experts_bytes(self) -> int:
        """Of those on the device."""
        return sum(layer.experts_bytes for layer in self.layers if layer.experts == DEVICE)


@dataclass(slots=True)
class Machine:
    name: str
    running: dict[str, Running] = field(default_factory=dict)
    # How long each decision took, and how many experts moved.
    decisions_s: list[float] = field(default_factory=list)
    moved_bytes: int = 0

    @property
    def free_bytes(self) -> int:
        held = sum(each.least_bytes + each.experts_bytes for each in self.running.values())
        return NODE_BYTES - held

    def told(self) -> Node:
        """What a front would know of it."""
        loaded = tuple(
            Loaded(model, CTX, SLOTS, each.busy, len(each.line))
            for model, each in self.running.items()
        )
        idle = sum(each.least_bytes for each in self.running.values() if each.is_idle)
        experts = sum(each.experts_bytes for each in self.running.values())
        free = max(self.free_bytes - RESERVE_BYTES, 0)
        return Node(self.name, loaded, free, experts, idle)

    def load(self, model: str, least_bytes: int, experts_bytes: int, now_s: float) -> Running:
        """Experts of others leave for it, then idle models end, the longest idle first. Where that
        is not enough it has what there is: a real one would wait until something has ended."""
        needed = {DEVICE: least_bytes}
        while True:
            moves, missing = self._decide(
                lambda: make_room(self._tenants(), needed, self._budget())
            )
            self._apply(moves)
            idle = [name for name, each in self.running.items() if each.is_idle]
            if not missing or not idle:
                break
            del self.running[min(idle, key=lambda name: self.running[name].used_s)]
        each_bytes = experts_bytes // LAYERS
        layers = [Layer(index, CPU, each_bytes, DEVICE) for index in range(LAYERS)]
        running = self.running[model] = Running(least_bytes, layers, ready_s=now_s + LOAD_S)
        self.settle()
        return running

    def settle(self) -> None:
        """Until nothing is to move any more, as after a while on a real one."""
        while moves := self._decide(partial(rebalance, self._tenants(), self._budget())):
            self._apply(moves)

    def _decide(self, decide: Callable[[], T]) -> T:
        began_s = time.perf_counter()
        decided = decide()
        self.decisions_s.append(time.perf_counter() - began_s)
        return decided

    def _tenants(self) -> list[Tenant]:
        return [
            Tenant(
                model,
                each.layers,
                pinned_cpu=frozenset(),
                auto=True,
                busy=not each.is_idle,
                use=float(each.busy),
                last_used_s=each.used_s,
            )
            for model, each in self.running.items()
        ]

    def _budget(self) -> Mapping[str, DeviceBudget]:
        free = self.free_bytes
        return {DEVICE: DeviceBudget(free, RESERVE_BYTES, RESERVE_BYTES // 2, may_preempt=True)}

    def _apply(self, moves: Sequence[Relocation]) -> None:
        for move in moves:
            layers = self.running[move.tenant].layers
            layers[move.layer] = replace(layers[move.layer], experts=move.place)
            self.moved_bytes += layers[move.layer].experts_bytes
