"""Which step leads next from where experts are to where they should be. Pure; `mover` performs the
steps.

A *place* is "CPU" (the mapped file), "CPU_REPACK" (the CPU's fast layout, in RAM) or a device's
name. A *target* says "CPU" for both kinds of CPU place: repacking is this process's own business.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

MAPPED = "CPU"
REPACKED = "CPU_REPACK"


@dataclass(frozen=True, slots=True)
class Demote:
    """Give these layers back to the mapped file, all at one stop of the gate: nothing is copied."""

    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Promote:
    """Copy one layer to a device in the background, then swap it in."""

    layer: int
    device: str


@dataclass(frozen=True, slots=True)
class Repack:
    """Copy one layer that stays on the CPU into the fast layout, then swap it in."""

    layer: int


@dataclass(frozen=True, slots=True)
class Unpack:
    """Give the RAM of a repacked layer back: it is in the mapped file again."""

    layer: int


Step = Demote | Promote | Repack | Unpack


def on_cpu(place: str) -> bool:
    return place in (MAPPED, REPACKED)


def next_step(
    places: Mapping[int, str], target: Mapping[int, str], *, repackable: Collection[int]
) -> Step | None:
    """The next step, or None when every layer is where it should be and as fast as it can be there.

    1. Layers that must leave a device go first, together: that frees the memory which others wait
    for.
    2. Promotions go from the last layer backwards, so that the layers on the CPU are always the
    first ones and
       their number describes the state exactly, as `--n-cpu-moe` does.
    3. Then layers that stay on the CPU are repacked, the first ones first: those stay there the
    longest.
    """
    leaving = [
        layer for layer, place in places.items() if not on_cpu(place) and target[layer] != place
    ]
    if leaving:
        return Demote(tuple(sorted(leaving)))
    coming = [layer for layer, place in places.items() if on_cpu(place) and target[layer] != MAPPED]
    if coming:
        return Promote(max(coming), target[max(coming)])
    waiting = [layer for layer in repackable if places[layer] == MAPPED and target[layer] == MAPPED]
    return Repack(min(waiting)) if waiting else None


def victim(places: Mapping[int, str]) -> int | None:
    """The layer that leaves its device next where memory has run out: the first one, as N has it.
    None: nothing is on a device."""
    return min((layer for layer, place in places.items() if not on_cpu(place)), default=None)


def is_placed(places: Mapping[int, str], target: Mapping[int, str]) -> bool:
    """Whether every layer is on the right side; repacking may still be going on."""
    return all(
        place == target[layer] or (on_cpu(place) and target[layer] == MAPPED)
        for layer, place in places.items()
    )
