"""Which batch a model is loaded with: what `tune` comes to on the devices there are."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final

import structlog
from cachetools import LRUCache

from proxy.catalog.entry import Entry
from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.local import Catalog
from proxy.engine.types import LoadOptions
from proxy.placement.budget import Budget
from proxy.placement.footprint import settings_of, ubatch_of
from proxy.placement.ubatch import UNKNOWN, choose_ubatch
from proxy.policy.model import ModelPolicy
from proxy.split import count_on_cpu
from proxy.threads import MODELS

log = structlog.get_logger()

# Not to the byte, so that the same choice is not made anew for each request.
CAPACITY_STEP: Final = 256 << 20
KEPT: Final = 256
# An embedding or a score is computed of a whole input at once, and so no input may be longer than
# this batch; a larger one costs scratch memory.
WHOLE_INPUT: Final = 2048

Capacity = Callable[[Sequence[str]], Sequence[Budget]]


class Batches:
    """Chooses batches, and remembers the choices: a plan takes too long for each request."""

    def __init__(self, catalog: Catalog, capacity: Capacity) -> None:
        """`capacity` tells what of the devices, with these RPC servers, a model could have."""
        self._catalog, self._capacity = catalog, capacity
        # What changes:
        self._chosen: LRUCache[object, int] = LRUCache(KEPT)

    async def choose(
        self, entry: Entry | None, policy: ModelPolicy, options: LoadOptions, layers: int
    ) -> int | None:
        """The batch for a model of `layers` layers; None where that is the engine's business, or
        the policy's `args` say it."""
        if options.engine != "hosted" or ubatch_of(options.args):
            return None
        if options.mode != "generation":
            whole = await MODELS.run(self._needs_whole_inputs, entry, options)
            return min(options.ctx, WHOLE_INPUT) if whole else None
        given = given_layers(policy, options, layers)
        devices = tuple(
            replace(budget, size_bytes=budget.size_bytes // CAPACITY_STEP * CAPACITY_STEP)
            for budget in self._capacity(options.rpc)
        )
        key = (entry, options, policy.tune, given, devices)
        if (known := self._chosen.get(key)) is not None:
            return known
        header = await MODELS.run(header_of, self._catalog, entry)
        choice = (policy.tune, header, settings_of(options), devices, given)
        try:
            ubatch = await asyncio.to_thread(choose_ubatch, *choice)
        except Exception:
            # A model of a kind that nobody has estimated yet: no reason to refuse a request.
            log.exception("ubatch_not_chosen", model=options.model)
            ubatch = UNKNOWN[policy.tune]
        self._chosen[key] = ubatch
        return ubatch

    async def longest_input(
        self, entry: Entry | None, options: LoadOptions, tokens: int
    ) -> int | None:
        """How many tokens an input of an embedding may have, in what is loaded with `options`. None
        where `tokens` are surely not too many, and where that is the engine's business."""
        batch = ubatch_of(options.args) or WHOLE_INPUT
        if options.engine != "hosted" or tokens < min(options.ctx, batch):
            return None
        if await MODELS.run(self._needs_whole_inputs, entry, options):
            return min(options.ctx, batch)
        return options.ctx - 1  # llama-server takes none that fills all of it

    def _needs_whole_inputs(self, entry: Entry | None, options: LoadOptions) -> bool:
        """Whether an input has to fit one batch: not where its last token alone counts and has
        seen all others."""
        header = header_of(self._catalog, entry)
        said = [value for name, value in pairwise(options.args) if name == "--pooling"]
        pooling = said[-1] if said else header.pooling if header else None
        causal = header is not None and header.hyper("attention.causal") is not False
        return not (pooling == "last" or (pooling == "rank" and causal))


def given_layers(policy: ModelPolicy, options: LoadOptions, layers: int) -> int | None:
    """How many of its `layers` layers a model is to have on the CPU; None: as few as fit."""
    own = policy.dense_cpu_layers if options.dense else policy.moe_cpu_layers
    split = own if options.split is None else options.split
    return None if split is None else count_on_cpu(split, layers)


def header_of(catalog: Catalog, entry: Entry | None) -> Header | None:
    """What is in a model's file; None where that cannot be read. Blocking."""
    try:
        return catalog.header(entry) if entry and not entry.refusal else None
    except (GgufError, OSError):
        return None
