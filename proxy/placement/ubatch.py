"""How many tokens of a prompt are computed at once, by what the policy tunes for. Pure.

It is chosen when a model is loaded and stays: the batch decides how much scratch memory a device
needs, whereas experts come and go.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from proxy.catalog.gguf import Header
from proxy.placement.budget import Budget, Packer
from proxy.placement.estimate import DEFAULT_UBATCH, Settings, estimate
from proxy.placement.plan import UBATCHES, Tune, plan

# Where nothing is known of the devices: what any of them has room for.
UNKNOWN: Final[dict[Tune, int]] = {"balanced": 512, "prompt": 1024, "generation": 512}


def choose_ubatch(
    tune: Tune,
    header: Header | None,
    settings: Settings,
    budgets: Sequence[Budget],
    cpu_layers: int | None = None,
) -> int:
    """The batch for a model on these devices, whose number of layers on the CPU is free (None), or
    given and then to be kept.

    A header of None: the file could not be read. What makes a large batch worth its memory is that
    experts' weights cross the bus once for each of them, so devices that never get weights for a
    batch (RPC) count as unknown ones.
    """
    if header is None or not any(b.streams_weights and b.attention for b in budgets):
        return UNKNOWN[tune]
    if not _fits(header, replace(settings, ubatch=DEFAULT_UBATCH), budgets, cpu_layers):
        return DEFAULT_UBATCH
    if cpu_layers is None:
        return plan(header, settings, budgets, tune=tune).settings.ubatch
    for size in UBATCHES[tune]:
        # Not more than all conversations together can have.
        possible = size < 2 * settings.ctx * settings.parallel
        if possible and _fits(header, replace(settings, ubatch=size), budgets, cpu_layers):
            return size
    return DEFAULT_UBATCH


def _fits(
    header: Header, settings: Settings, budgets: Sequence[Budget], cpu_layers: int | None
) -> bool:
    """Whether it fits with this number of layers on the CPU; None: with all of them."""
    every = header.layers
    arranger = Packer(estimate(header, settings), budgets)
    return arranger.arrange(every if cpu_layers is None else min(cpu_layers, every)).fits
