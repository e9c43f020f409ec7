"""How large llama.cpp's expert cache is, and which layers it has: the first ones, whose experts
stay in host memory for good. The last ones are whole on the device, and move. Pure.

Both are chosen when a model is loaded and stay: the cache's size is set once, and what it has can
never move.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from proxy.catalog.gguf import Header
from proxy.placement.budget import Budget
from proxy.placement.estimate import Estimate, Settings, estimate
from proxy.placement.plan import Plan, plan
from proxy.text import gib

MIB: Final = 1 << 20
# Of what experts could have of the device, what a cache gets where `moe-proxy bench` tries one: all
# of it, and as much as the layers that are whole.
SHARES: Final = (1.0, 0.5)


@dataclass(frozen=True, slots=True)
class ExpertCache:
    """`size_mib` of 0: there is none, and `why` says why not. It has the experts of the first
    `layers` layers."""

    size_mib: int = 0
    layers: int = 0
    why: str | None = None

    @property
    def size_bytes(self) -> int:
        return self.size_mib * MIB


def choose_cache(
    header: Header,
    settings: Settings,
    budgets: Sequence[Budget],
    *,
    size_bytes: int | None = None,
    share: float = 0.0,
    cpu_layers: int | None = None,
) -> ExpertCache:
    """The cache for a model on these devices: of `size_bytes`, or of a `share` of what experts
    could have there; less where there is less. `cpu_layers`: how many layers are to be on the CPU;
    None: as few as fit beside it.

    Without any budget nothing is known of devices: then all is as asked, and all layers are cached.
    """
    made = estimate(header, settings)
    every = max((layer.index + 1 for layer in made.layers if layer.experts), default=0)
    if not every or settings.dense:
        return ExpertCache(why="it has no experts")
    if cpu_layers == 0:
        return ExpertCache(why="no layer's experts are to be on the CPU")
    staying = every if cpu_layers is None else min(cpu_layers, every)
    if not budgets:
        return _of(made, size_bytes or 0, staying)
    if len(budgets) > 1:
        return ExpertCache(why="there are several devices, and builds differ in what that means")
    device = budgets[0]
    if not device.attention:
        return ExpertCache(why="no device may have attention")
    if cpu_layers is None and _planned(header, settings, device, None).moe_cpu_layers == 0:
        return ExpertCache(why="all experts fit on the device")
    bare = _planned(header, settings, device, every).devices[0].total_bytes
    room = max(device.size_bytes - bare, 0)
    wanted = int(room * share) if size_bytes is None else min(size_bytes, room)
    wanted = min(wanted, made.experts_bytes)
    if size_bytes is None and share >= 1:
        return _of(made, wanted, every)
    if cpu_layers is None:
        beside = replace(device, size_bytes=device.size_bytes - wanted)
        staying = _planned(header, settings, beside, None).moe_cpu_layers
    return _of(made, wanted, staying)


def plan_with_cache(made: Plan, header: Header, cache: ExpertCache) -> Plan:
    """A plan for one device, with a cache on it."""
    device, asked = made.budgets[0], made.settings
    beside = replace(device, size_bytes=max(device.size_bytes - cache.size_bytes, 0))
    planned = plan(header, asked, (beside,), ubatch=asked.ubatch, cpu_layers=cache.layers)
    held = tuple(replace(each, cache_bytes=cache.size_bytes) for each in planned.devices)
    fits = held[0].total_bytes <= device.size_bytes
    layout = replace(planned.layout, held=held, fits=fits)
    problems = made.problems
    if made.fits and not fits:
        over = gib(held[0].total_bytes - device.size_bytes)
        problems += (f"{device.name}: {over} too much with a cache of {gib(cache.size_bytes)}",)
    return replace(planned, layout=layout, budgets=made.budgets, problems=problems)


def _of(made: Estimate, wanted: int, layers: int) -> ExpertCache:
    """llama.cpp refuses a cache that has no room for the experts of one token; where layers differ
    it is divided, so what is smaller than a whole layer is not worth a try."""
    size, least = min(wanted, made.experts_bytes), max(layer.experts for layer in made.layers)
    if size < max(least, MIB):
        return ExpertCache(why=f"{gib(size)} is less than one layer's experts take ({gib(least)})")
    return ExpertCache(size // MIB, layers)


def _planned(header: Header, settings: Settings, device: Budget, cpu_layers: int | None) -> Plan:
    return plan(header, settings, (device,), ubatch=settings.ubatch, cpu_layers=cpu_layers)
