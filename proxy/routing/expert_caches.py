"""Which expert cache a model is loaded with: what `moe_cache` comes to on the devices there are."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog
from cachetools import LRUCache

from proxy.catalog.entry import Entry
from proxy.catalog.local import Catalog
from proxy.engine.build_options import NO_CACHE, has_expert_cache
from proxy.engine.types import LoadOptions
from proxy.placement.expert_cache import ExpertCache, choose_cache
from proxy.placement.footprint import settings_of
from proxy.policy.model import ModelPolicy
from proxy.pool.state import Backend
from proxy.routing.batch_size import KEPT, Capacity, given_layers, header_of
from proxy.split import AUTO
from proxy.threads import MODELS

log = structlog.get_logger()

# The share of what experts could have that a cache gets, as `moe-proxy bench` measured it for what
# is to be loaded; 0: none, or nobody measured it.
MeasuredShare = Callable[[LoadOptions], Awaitable[float]]


async def nobody_measured(_: LoadOptions) -> float:
    """For where there are no measurements."""
    return 0.0


class ExpertCaches:
    """Chooses caches for loads."""

    def __init__(self, catalog: Catalog, capacity: Capacity, measured: MeasuredShare) -> None:
        """`capacity` tells what of the devices, with these RPC servers, a model could have."""
        self._catalog, self._capacity, self._measured = catalog, capacity, measured
        # What changes: why there is none for the last load of a model that asked for one.
        self._lacking: LRUCache[str, str] = LRUCache(KEPT)

    async def warn(self, backend: Backend) -> None:
        """Before it is started: note on it that it has no cache although one was asked for."""
        if (why := self._lacking.get(backend.options.model)) and not backend.options.cache_mib:
            backend.warn(f"moe_cache: {why}")

    async def choose(
        self, entry: Entry | None, policy: ModelPolicy, options: LoadOptions, layers: int
    ) -> LoadOptions:
        """`options` of a model of `layers` layers, with the cache that it is to have. Why there is
        none although a size is asked for is in the log, and told by `warn`."""
        asked = policy.moe_cache
        self._lacking.pop(options.model, None)
        if options.engine != "hosted" or options.mode != "generation" or not asked:
            return options
        if not await MODELS.run(has_expert_cache, options.libdir):
            cache = ExpertCache(why=NO_CACHE)
        else:
            share = await self._measured(options) if asked == AUTO else 0.0
            size = None if asked == AUTO else asked
            if not share and not size:
                return options
            given = given_layers(policy, options, layers)
            cache = await self._chosen(entry, options, size, share, given)
        if cache.why is not None and asked != AUTO:
            self._lacking[options.model] = cache.why
            log.warning("no_expert_cache", model=options.model, why=cache.why)
        return replace(options, cache_mib=cache.size_mib, cached_layers=cache.layers)

    async def _chosen(
        self,
        entry: Entry | None,
        options: LoadOptions,
        size: int | None,
        share: float,
        given: int | None,
    ) -> ExpertCache:
        header = await MODELS.run(header_of, self._catalog, entry)
        if header is None:
            return ExpertCache(why="its file cannot be read")
        budgets, settings = tuple(self._capacity(options.rpc)), settings_of(options)
        try:
            return await asyncio.to_thread(
                choose_cache,
                header,
                settings,
                budgets,
                size_bytes=size,
                share=share,
                cpu_layers=given,
            )
        except Exception:
            # A model of a kind that nobody has estimated yet: no reason to refuse a request.
            log.exception("cache_not_chosen", model=options.model)
            return ExpertCache(why="what it needs is not known")
