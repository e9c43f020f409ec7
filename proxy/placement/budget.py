"""Layers on devices: as many experts as fit, and nothing over a budget. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from proxy.engine.types import CPU
from proxy.placement.estimate import Estimate

Away = Literal["none", "some", "all"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be used of a device, in bytes, and what for. `streams_weights`: it takes part in
    large batches of experts that are on the CPU (all but RPC devices)."""

    name: str
    size_bytes: int
    attention: bool = True
    experts: bool = True
    streams_weights: bool = True


@dataclass(frozen=True, slots=True)
class Usage:
    """What a device holds, in bytes."""

    name: str
    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    experts_bytes: int = 0
    cache_bytes: int = 0  # llama.cpp's expert cache

    @property
    def total_bytes(self) -> int:
        held = self.weights_bytes + self.kv_bytes + self.compute_bytes + self.experts_bytes
        return held + self.cache_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """For each layer the device of its attention and the place of its experts. `split` is
    llama.cpp's `--tensor-split`; `fits`: every budget is kept."""

    attention: tuple[str, ...]
    experts: tuple[str, ...]
    split: tuple[int, ...]
    held: tuple[Usage, ...]
    fits: bool


class Packer:
    """Lays one model out over some devices. Raises ValueError where none may have attention."""

    def __init__(self, estimate: Estimate, budgets: Sequence[Budget]) -> None:
        if not any(budget.attention for budget in budgets):
            raise ValueError("no device may have attention")
        self._estimate = estimate
        self._budgets = budgets
        self._together = all(budget.attention and budget.experts for budget in budgets)
        self._scratch: dict[tuple[bool, Away, bool], int] = {}

    def arrange(self, cpu_layers: int) -> Layout:
        """The layout with the experts of the first `cpu_layers` layers on the CPU.

        Each device takes layers from the end until it is full, the last device first, so that a
        layer's experts are on the device of its attention. Where the policy keeps the two apart,
        attention is spread by budget, as llama.cpp does, and experts go where there is room.
        """
        counts = self._packed(cpu_layers) if self._together else self._spread()
        attention = [
            budget.name
            for budget, count in zip(self._budgets, counts, strict=True)
            for _ in range(count)
        ]
        experts = self._expert_places(attention, cpu_layers)
        held = tuple(
            held_by(self._estimate, budget, attention, experts) for budget in self._budgets
        )
        within = all(
            each.total_bytes <= budget.size_bytes
            for each, budget in zip(held, self._budgets, strict=True)
        )
        # Where no device may have experts, they stay on the CPU unasked.
        placed = all(
            experts[layer.index] != CPU
            for layer in self._estimate.layers
            if layer.experts and layer.index >= cpu_layers
        )
        fits = within and placed
        return Layout(tuple(attention), tuple(experts), self._split(counts), held, fits)

    def _packed(self, cpu_layers: int) -> list[int]:
        """How many layers each device takes; the first one takes all that are left."""
        counts = [0] * len(self._budgets)
        end = len(self._estimate.layers)
        for place in range(len(self._budgets) - 1, 0, -1):
            start = end
            size = self._budgets[place].size_bytes
            while start > 0 and self._need(place, start - 1, end, cpu_layers) <= size:
                start -= 1
            counts[place], end = end - start, start
        counts[0] = end
        return counts

    def _need(self, place: int, start: int, end: int, cpu_layers: int) -> int:
        layers = self._estimate.layers[start:end]
        total = sum(layer.dense + layer.kv for layer in layers)
        total += sum(layer.experts for layer in layers if layer.index >= cpu_layers)
        last = end == len(self._estimate.layers)
        total += self._estimate.output_bytes if last else 0
        away: Away = "none" if start >= cpu_layers else "all" if end <= cpu_layers else "some"
        return total + self._usual_scratch(last, away, self._budgets[place].streams_weights)

    def _usual_scratch(self, last: bool, away: Away, streams: bool) -> int:
        """Scratch memory depends on which kinds of layers there are, and hardly on how many, so it
        is measured once for each kind of stretch."""
        key = (last, away, streams)
        if key not in self._scratch:
            count = len(self._estimate.layers)
            gone = {"none": 0, "some": count // 2, "all": count}[away]
            self._scratch[key] = self._estimate.compute_bytes(
                range(count if last else count - 1), range(gone), streams_weights=streams
            )
        return self._scratch[key]

    def _spread(self) -> list[int]:
        """llama.cpp's own split of layers, by size; the output counts as one layer more."""
        sizes = [budget.size_bytes if budget.attention else 0 for budget in self._budgets]
        if not sum(sizes):
            sizes = [int(budget.attention) for budget in self._budgets]
        slots, layers = self._estimate.blocks + 1, len(self._estimate.layers)
        reached = [sum(sizes[:place]) for place in range(len(sizes) + 1)]
        edges = [min(-(-part * slots // reached[-1]), layers) for part in reached]
        return [end - start for start, end in pairwise(edges)]

    def _expert_places(self, attention: Sequence[str], cpu_layers: int) -> list[str]:
        """Each layer's place: at home where that may have experts, else where most room is."""
        movable = [layer for layer in self._estimate.layers if layer.experts]
        places = list(attention)
        for layer in movable:
            if layer.index < cpu_layers:
                places[layer.index] = CPU
        if self._together:
            return places
        room = self._room(attention)
        for layer in reversed(movable):
            home = attention[layer.index]
            if layer.index < cpu_layers:
                break
            if room.get(home, -1) < layer.experts:
                home = max(room, key=lambda name: room[name], default=CPU)
            places[layer.index] = home
            room[home] = room.get(home, 0) - layer.experts
        return places

    def _room(self, attention: Sequence[str]) -> dict[str, int]:
        """What each device that may have experts has left for them."""
        nobody = [CPU] * len(attention)
        found = {}
        for budget in self._budgets:
            if budget.experts:
                held = held_by(self._estimate, budget, attention, nobody)
                scratch = 0 if held.compute_bytes else self._estimate.experts_only_bytes()
                found[budget.name] = budget.size_bytes - held.total_bytes - scratch
        return found

    def _split(self, counts: Sequence[int]) -> tuple[int, ...]:
        """Parts that give each device just these layers. The output, and layers that are not
        loaded, count with the last."""
        beyond = self._estimate.blocks + 1 - sum(counts)
        last = max((place for place, count in enumerate(counts) if count), default=0)
        return tuple(count + beyond * (place == last) for place, count in enumerate(counts))


def held_by(
    estimate: Estimate, budget: Budget, attention: Sequence[str], experts: Sequence[str]
) -> Usage:
    """What a device holds where these are, layer by layer, the device of the attention and the
    place of the experts."""
    name = budget.name
    indexes = [index for index, home in enumerate(attention) if home == name]
    guests = [layer for layer in estimate.layers if experts[layer.index] == name and layer.experts]
    last = bool(indexes) and indexes[-1] == len(estimate.layers) - 1
    compute = estimate.experts_only_bytes() if guests and not indexes else 0
    if indexes:
        away = [index for index in indexes if experts[index] != name]
        compute = estimate.compute_bytes(indexes, away, streams_weights=budget.streams_weights)
    return Usage(
        name=name,
        weights_bytes=sum(estimate.layers[index].dense for index in indexes)
        + estimate.output_bytes * last,
        kv_bytes=sum(estimate.layers[index].kv for index in indexes),
        compute_bytes=compute,
        experts_bytes=sum(layer.experts for layer in guests),
    )
