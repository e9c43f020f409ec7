"""How many conversations a model is loaded for, where its policy leaves that to us."""

import asyncio

import structlog
from cachetools import LRUCache

from proxy.catalog.entry import Entry
from proxy.catalog.local import Catalog
from proxy.engine.types import LoadOptions
from proxy.placement.footprint import settings_of
from proxy.placement.parallel import MOST, choose_parallel
from proxy.policy.model import ModelPolicy
from proxy.routing.batch_size import KEPT, Capacity, given_layers, header_of
from proxy.split import AUTO
from proxy.threads import MODELS

log = structlog.get_logger()


class Conversations:
    """Chooses `parallel` for loads, and remembers the choices: those whose start is refused ask for
    each request, and it takes several plans."""

    def __init__(self, catalog: Catalog, capacity: Capacity) -> None:
        """`capacity` tells what of the devices, with these RPC servers, a model could have."""
        self._catalog, self._capacity = catalog, capacity
        # What changes:
        self._chosen: LRUCache[object, int] = LRUCache(KEPT)

    async def choose(
        self, entry: Entry | None, policy: ModelPolicy, options: LoadOptions, layers: int
    ) -> int:
        """How many at once, for a model of `layers` layers."""
        if policy.parallel != AUTO or options.engine != "hosted":
            return options.parallel
        given = given_layers(policy, options, layers)
        budgets = tuple(self._capacity(options.rpc))
        key = (entry, options, given, budgets)
        if (known := self._chosen.get(key)) is not None:
            return known
        header = await MODELS.run(header_of, self._catalog, entry)
        choice = (header, settings_of(options), budgets, given)
        try:
            parallel = await asyncio.to_thread(choose_parallel, *choice)
        except Exception:
            # A model of a kind that nobody has estimated yet: no reason to refuse a request.
            log.exception("parallel_not_chosen", model=options.model)
            parallel = MOST
        self._chosen[key] = parallel
        return parallel
