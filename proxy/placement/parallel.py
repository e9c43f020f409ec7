"""How many conversations a backend computes at once where nobody says. Pure.

Each has a KV cache of its own for as long as the model is loaded, in memory that experts could
have.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

from proxy.catalog.gguf import Header
from proxy.placement.budget import Budget
from proxy.placement.estimate import Settings
from proxy.placement.plan import Plan, plan
from proxy.split import AUTO

# llama-server's own number; what is taken where nothing is known of the devices.
MOST: Final = 4
# A layer of experts on the CPU costs every token its share, a second conversation is rare where one
# person asks: so all further ones together may move at most this share of the layers to the CPU.
WORTH: Final = 0.05


def most(parallel: int | Literal["auto"]) -> int:
    """What a policy's `parallel` comes to at most."""
    return MOST if parallel == AUTO else parallel


def choose_parallel(
    header: Header | None,
    settings: Settings,
    budgets: Sequence[Budget],
    cpu_layers: int | None = None,
) -> int:
    """From 1 to MOST conversations for a model on these devices, whose number of layers on the CPU
    is free (None), or given and then to be kept. `settings.parallel` is not looked at.

    A header of None: the file could not be read.
    """
    if header is None or not any(budget.attention for budget in budgets):
        return MOST

    def planned(parallel: int) -> Plan:
        asked = replace(settings, parallel=parallel)
        return plan(header, asked, budgets, ubatch=settings.ubatch, cpu_layers=cpu_layers)

    alone = planned(1)
    movable = sum(1 for layer in alone.estimate.layers if layer.experts)
    allowed = alone.moe_cpu_layers + int(WORTH * movable)
    for parallel in range(MOST, 1, -1):
        made = planned(parallel)
        if made.fits and made.moe_cpu_layers <= allowed:
            return parallel
    return 1
