"""Makes expert caches smaller where memory stays short although all layers that can leave have.

A cache's size is set once, so this takes another backend: it is loaded beside the old one, which
finishes its answers, or after it where there is no room for both. Whole layers always go first;
they cost nothing to take back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from proxy.catalog.gguf import GgufError
from proxy.catalog.gguf_reader import read_header
from proxy.clock import Clock
from proxy.control.headroom import Headroom
from proxy.control.ports import Pool
from proxy.engine.types import LoadOptions
from proxy.errors import Hangs
from proxy.memory.snapshot import Snapshot
from proxy.observe.events import EventLog
from proxy.placement.device_budget import DeviceBudget
from proxy.placement.estimate import estimate
from proxy.placement.footprint import settings_of
from proxy.placement.rebalance import Tenant
from proxy.policy.model import Policies
from proxy.pool.state import Backend, BackendState, Name
from proxy.tasks import spawn
from proxy.threads import MODELS

log = structlog.get_logger()

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Holder:
    """A backend with an expert cache, and how many bytes it has of it in each memory domain."""

    backend: Backend
    cached: Mapping[str, int]


def short_domains(
    budgets: Mapping[str, DeviceBudget], tenants: Sequence[Tenant], outbound: Mapping[str, int]
) -> dict[str, int]:
    """Memory domain -> the bytes that have to be given back of it, and that no layer can give: none
    is there any more, and none is on its way out. Pure."""
    there = {layer.experts for tenant in tenants for layer in tenant.layers}
    return {
        domain: budget.deficit_bytes
        for domain, budget in budgets.items()
        if budget.deficit_bytes > 0 and domain not in there and not outbound.get(domain)
    }


def to_shrink(holders: Sequence[Holder], domain: str) -> Holder | None:
    """Whose cache is to give: idle ones first, the longest unused before the others. Pure."""
    there = [holder for holder in holders if holder.cached.get(domain)]
    return min(there, key=lambda x: (not x.backend.idle, x.backend.last_used_s), default=None)


def smaller(options: LoadOptions, lacking_bytes: int, least_bytes: int) -> LoadOptions:
    """With half of the cache, or less where more is lacking; with none where that would be of no
    use. Pure."""
    lacking_mib = -(-lacking_bytes // MIB)
    size = min(options.cache_mib // 2, options.cache_mib - lacking_mib)
    if size * MIB < max(least_bytes, MIB):
        return replace(options, cache_mib=0, cached_layers=0)
    return replace(options, cache_mib=size)


class CachePressure:
    """One for all devices. Called after each reading of memory, behind the balancer."""

    def __init__(
        self,
        *,
        pool: Pool,
        headroom: Headroom,
        policies: Callable[[], Policies],
        events: EventLog,
        clock: Clock,
    ) -> None:
        self._pool, self._headroom, self._policies = pool, headroom, policies
        self._events, self._clock = events, clock
        # What changes: since when each domain is short, and who was to be replaced. (That is tried
        # once: one that could not be loaded stays in its place.)
        self._since: dict[str, float] = {}
        self._tried: set[Name] = set()

    def look(self, _: Snapshot) -> None:
        """It has to last: what is given back is shown late, and a load is dear."""
        holders = self._holders()
        if not holders:
            self._since.clear()
            return
        headroom, now = self._headroom, self._clock.now()
        short = short_domains(headroom.budgets(), headroom.tenants(), headroom.outbound())
        self._since = {domain: self._since.get(domain, now) for domain in short}
        for domain, lacking in short.items():
            if now - self._since[domain] < self._policies().devices.settle_s:
                continue
            if holder := to_shrink(holders, domain):
                self._tried.add(holder.backend.name)
                shrink = self._shrink(holder.backend, lacking)
                spawn(shrink, name=f"{holder.backend.id}:cache")
                self._since.clear()
                return

    def gone(self, backend: Backend) -> None:
        self._tried.discard(backend.name)

    def _holders(self) -> list[Holder]:
        return [
            Holder(backend, self._headroom.by_domain(cached))
            for backend in self._headroom.serving()
            if backend.options.cache_mib and backend.state is BackendState.READY
            if backend.name not in self._tried and backend.successor is None
            if (cached := _cached(backend))
        ]

    async def _shrink(self, backend: Backend, lacking: int) -> None:
        try:
            least = await MODELS.run(_least, backend.options)
        except Hangs:
            return
        options = smaller(backend.options, lacking, least)
        self._events.publish(
            "cache_shrinks",
            backend=backend.id,
            model=backend.options.model,
            cache_bytes=backend.options.cache_mib * MIB,
            to_bytes=options.cache_mib * MIB,
        )
        await self._pool.replace(backend.id, options)


def _cached(backend: Backend) -> dict[str, int]:
    held = backend.engine.known().held.items()
    return {device: size for device, kinds in held if (size := kinds.get("cache", 0))}


def _least(options: LoadOptions) -> int:
    """The experts of one layer. Blocking."""
    try:
        layers = estimate(read_header(options.path), settings_of(options)).layers
    except (GgufError, OSError):
        return 0
    return max((layer.experts for layer in layers), default=0)
