"""Who gives up device memory, and who gets it: which experts of which backend leave or come next.
Pure.

Memory is counted by *domain*: a device, or several that are on one card and share what it has. Two
rules, each with a gap of its own between giving and taking, so that they cannot chase each other:

*Shrink*: free memory in a domain is below `low` (or we hold more than its limit). Experts leave
until `reserve` is free again, all in one go.

*Grow*: experts come back only as far as `reserve` stays free with them. What was given back after a
shrink has to last for `settle` first, and then one layer comes at a time. A layer that comes leaves
at least `reserve` free, which is not less than `low`: so by itself it can never be the reason for a
shrink. Only others' growth can, and each of their growths costs at most one shrink and one `settle`
of standing still.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from proxy.engine.types import CPU, Layer
from proxy.placement.device_budget import DeviceBudget

# How much comes at a time when nobody was short lately: enough to be quick, little enough to
# measure between.
GROW_BYTES = 1 << 30
# Experts leave because memory is short ("pressure"), for a newcomer ("room") or for a backend that
# is in use ("use"); they come because there is room ("free").
Why = Literal["pressure", "room", "use", "free"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """One backend, as a holder of device memory. The places of its layers are domains."""

    id: str
    layers: Sequence[Layer]
    pinned_cpu: Set[int]  # layers that are meant to be on the CPU; under "auto" none
    auto: bool
    busy: bool = False
    use: float = 0.0  # how much it is used: recent tokens a second
    last_used_s: float = 0.0
    moving: bool = False
    # Domains that may have experts of layers whose attention is in another.
    expert_only: Set[str] = frozenset()

    def may_have(self, layer: Layer, domain: str) -> bool:
        """Whether the experts of a layer that are on the CPU may go to a domain: where its
        attention is, or one for experts only. With attention on the CPU they stay there too."""
        if layer.experts != CPU or layer.attention_device == CPU or layer.index in self.pinned_cpu:
            return False
        return layer.attention_device == domain or domain in self.expert_only


@dataclass(frozen=True, slots=True)
class Relocation:
    """The experts of one layer of a tenant come to a domain, or leave it for the CPU."""

    tenant: str
    layer: int
    domain: str
    why: Why

    @property
    def place(self) -> str:
        """Where they go."""
        return self.domain if self.why == "free" else CPU


def rebalance(tenants: Sequence[Tenant], budgets: Mapping[str, DeviceBudget]) -> list[Relocation]:
    """What is to move now, all of it for one reason: what has to leave, else what may come, else
    what gives way. So what leaves is given to nobody before it has left, and who had to leave is
    there again when the others' room is given.

    No layer moves twice. Experts go where their attention is before they go where there are experts
    only. An unused backend gives way for one layer at a time.
    """
    decided = _Round(tenants)
    for domain, budget in budgets.items():
        decided.reclaim(domain, budget.deficit_bytes, "pressure")
    if decided.relocations or any(tenant.moving for tenant in tenants):
        return decided.relocations
    open_for_more = {
        domain: budget
        for domain, budget in budgets.items()
        if budget.experts and budget.growth != "frozen"
    }
    lodgings = {domain for tenant in tenants for domain in tenant.expert_only}
    for domain in sorted(open_for_more, key=lambda domain: domain in lodgings):
        decided.fill(domain, open_for_more[domain])
    for domain, budget in open_for_more.items():
        if budget.may_preempt and not decided.relocations:
            decided.preempt(domain, budget)
    return decided.relocations


def make_room(
    tenants: Sequence[Tenant], needed: Mapping[str, int], budgets: Mapping[str, DeviceBudget]
) -> tuple[list[Relocation], dict[str, int]]:
    """Room for a newcomer that takes `needed` bytes of each domain, by demoting experts of those
    that are there.

    Returns what moves, and per domain the bytes that are still missing after that (empty: it fits).
    """
    decided, missing = _Round(tenants), {}
    for domain, size_bytes in needed.items():
        spare_bytes = budgets[domain].spare_bytes if domain in budgets else None
        if spare_bytes is None:
            continue  # not known: the newcomer has to try
        left_bytes = decided.reclaim(domain, size_bytes - spare_bytes, "room")
        if left_bytes > 0:
            missing[domain] = left_bytes
    return decided.relocations, missing


class _Round:
    """What one round has decided so far. Each step sees what those before it have done: a layer
    that moves already is nobody's candidate any more."""

    def __init__(self, tenants: Sequence[Tenant]) -> None:
        self._tenants = tenants
        # What changes:
        self.relocations: list[Relocation] = []
        self._moved: set[tuple[str, int]] = set()

    def reclaim(
        self, domain: str, size_bytes: int, why: Why, tenants: Sequence[Tenant] | None = None
    ) -> int:
        """Demote until so much of a domain is free; returns what is still missing.

        1. Idle backends, the longest unused first, as far as their experts go.
        2. Busy ones down to what they were explicitly given, the least used first.
        3. Busy ones beyond it: an explicit split is kept unless memory runs out.
        """
        tenants = self._tenants if tenants is None else tenants
        idle = sorted((t for t in tenants if not t.busy), key=lambda t: t.last_used_s)
        busy = sorted((t for t in tenants if t.busy), key=lambda t: (t.use, t.last_used_s))
        for tenant, of in (
            *((t, None) for t in idle),
            # Under an explicit split, its layers are meant to be on the CPU anyway.
            *((t, None if t.auto else t.pinned_cpu) for t in busy),
            *((t, None) for t in busy),
        ):
            for layer in self._held(tenant, domain):
                if size_bytes <= 0:
                    return size_bytes
                if of is None or layer.index in of:
                    self._move(tenant, layer, domain, why)
                    size_bytes -= layer.experts_bytes
        return size_bytes

    def fill(self, domain: str, budget: DeviceBudget) -> None:
        """Promote into what is spare: backends in use first, by how much they are used."""
        left_bytes, bulk_bytes = (
            budget.available_bytes,
            GROW_BYTES if budget.growth == "bulk" else 0,
        )
        first = True
        for tenant, layer in self._wanted(domain):
            if layer.experts_bytes > left_bytes:
                return  # what does not fit for this one is not for a lesser one
            if not first and bulk_bytes < layer.experts_bytes:
                return
            self._move(tenant, layer, domain, "free")
            left_bytes -= layer.experts_bytes
            bulk_bytes -= layer.experts_bytes
            first = False

    def preempt(self, domain: str, budget: DeviceBudget) -> None:
        """Have backends that are not in use, and that nobody gave a number, make room for the next
        layer of one that is, where that is enough for it."""
        tenant, layer = next(self._wanted(domain), (None, None))
        if tenant is None or layer is None or not tenant.busy or budget.spare_bytes is None:
            return
        lacking_bytes = layer.experts_bytes - budget.spare_bytes
        idle = [tenant for tenant in self._tenants if not tenant.busy and tenant.auto]
        theirs_bytes = sum(x.experts_bytes for t in idle for x in self._held(t, domain))
        if 0 < lacking_bytes <= theirs_bytes:
            self.reclaim(domain, max(lacking_bytes, GROW_BYTES), "use", idle)

    def _held(self, tenant: Tenant, domain: str) -> list[Layer]:
        """Layers whose experts stay in a domain so far, the first ones first."""
        return [
            layer
            for layer in tenant.layers
            if layer.experts == domain and (tenant.id, layer.index) not in self._moved
        ]

    def _wanted(self, domain: str) -> Iterator[tuple[Tenant, Layer]]:
        """Layers whose experts could come to a domain, the most used backend's first, and of each
        the last ones first."""
        for tenant in sorted(
            self._tenants, key=lambda t: (t.busy, t.use, t.last_used_s), reverse=True
        ):
            for layer in reversed(tenant.layers):
                moved = (tenant.id, layer.index) in self._moved
                if not moved and tenant.may_have(layer, domain):
                    yield tenant, layer

    def _move(self, tenant: Tenant, layer: Layer, domain: str, why: Why) -> None:
        self._moved.add((tenant.id, layer.index))
        self.relocations.append(Relocation(tenant.id, layer.index, domain, why))
