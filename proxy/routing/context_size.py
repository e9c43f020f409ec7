"""Which context a model is loaded with where a request asks for one: somewhat more, since chats
grow and each larger `num_ctx` would be one more load.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import structlog

from proxy.catalog.entry import Entry
from proxy.catalog.gguf import Header
from proxy.catalog.local import Catalog
from proxy.engine.types import LoadOptions
from proxy.placement.budget import Budget
from proxy.placement.footprint import settings_of
from proxy.placement.plan import Plan, plan
from proxy.policy.model import ModelPolicy
from proxy.routing.batch_size import Capacity, header_of
from proxy.threads import MODELS

log = structlog.get_logger()

MOST: Final = 2**31 - 1  # llama.cpp counts tokens in 32 bits


def steps(asked: int, step: int, usual: int, most: int | None) -> tuple[int, int]:
    """The contexts to load in the place of `asked`: what is taken where there is room for it, and
    what is taken anyway. Neither is less than `asked`, nor more than `most`, what the model was
    trained for (None: not known).

    What the model is usually loaded with is enough where that serves it.
    """
    if step == 1:
        return asked, asked
    bound = most or MOST
    if asked <= usual:
        bound = min(bound, usual)
    rounded = -(-asked // step) * step
    doubled = step
    while doubled < asked:
        doubled *= 2
    return max(min(doubled, bound), asked), max(min(rounded, bound), asked)


class Contexts:
    """Chooses contexts for loads."""

    def __init__(self, catalog: Catalog, capacity: Capacity) -> None:
        """`capacity` tells what of the devices, with these RPC servers, a model could have."""
        self._catalog, self._capacity = catalog, capacity

    async def choose(
        self, entry: Entry | None, policy: ModelPolicy, options: LoadOptions, trained: int | None
    ) -> int:
        """The context for `options`, whose own a request has asked for."""
        doubled, rounded = steps(options.ctx, policy.ctx_step, policy.ctx, trained)
        if doubled == options.ctx:
            return options.ctx
        budgets = self._capacity(options.rpc) if options.engine == "hosted" else ()
        header = await MODELS.run(header_of, self._catalog, entry)
        if header is None or not any(budget.attention for budget in budgets):
            return rounded
        try:
            return await asyncio.to_thread(_with_room, options, header, budgets, doubled, rounded)
        except Exception:
            # A model of a kind that nobody has estimated yet: no reason to refuse a request.
            log.exception("context_not_chosen", model=options.model)
            return rounded


def _with_room(
    options: LoadOptions, header: Header, budgets: Sequence[Budget], doubled: int, rounded: int
) -> int:
    """`doubled` where no more experts are on the CPU for it than for what was asked, else `rounded`
    where the devices have room for that at all, else what was asked."""

    def planned(ctx: int) -> Plan:
        settings = settings_of(replace(options, ctx=ctx))
        return plan(header, settings, budgets, ubatch=settings.ubatch)

    asked, larger = planned(options.ctx), planned(doubled)
    if larger.fits and larger.moe_cpu_layers <= asked.moe_cpu_layers:
        return doubled
    return rounded if planned(rounded).fits else options.ctx
