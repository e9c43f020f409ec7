"""Who gives up device memory, and who gets it: which experts of which backend leave or come next.
Pure.

Two rules, each with a gap of its own between giving and taking, so that they cannot chase each
other:

*Shrink*: free memory on a device is below `low` (or we hold more than its limit). Experts leave
until `reserve` is free again, all in one go.

*Grow*: experts come back only as far as `reserve` stays free with them. What was given back after a
shrink has to last for `settle` first, and then one layer comes at a time. A layer that comes leaves
at least `reserve` free, which is not less than `low`: so by itself it can never be the reason for a
shrink. Only others' growth can, and each of their growths costs at most one shrink and one `settle`
of standing still.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Literal

from proxy.engine.types import CPU, Layer

# How much comes at a time when nobody was short lately: enough to be quick, little enough to
# measure between.
GROW_BYTES = 1 << 30
# After a shortage: stand still until `settle` has passed, then one layer at a time until all is
# back.
Growth = Literal["bulk", "step", "frozen"]


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """The memory of one device, in bytes, as the pessimist sees it. None: not known."""

    free: int | None
    reserve: int
    low: int
    over_limit: int | None = None  # what we hold above the limit, negative: below; None: no limit
    promised: int = 0  # on its way here already, and not in `free` yet
    growth: Growth = "bulk"
    may_preempt: bool = (
        False  # an unused backend may give way to one in use, which is not to be often
    )
    experts: bool = True  # the policy lets experts be here

    @property
    def deficit(self) -> int:
        """What has to be given back now."""
        missing = self.reserve - self.free if self.free is not None and self.free < self.low else 0
        return max(missing, self.over_limit or 0, 0)

    @property
    def available(self) -> int:
        """What may still be taken. An unknown size without a limit is no room at all."""
        bounds = [self.free - self.reserve] if self.free is not None else []
        bounds += [-self.over_limit] if self.over_limit is not None else []
        return max(min(bounds, default=0) - self.promised, 0) if self.experts else 0

    def with_freed(self, size: int) -> "DeviceBudget":
        """The room once so much has left."""
        free = None if self.free is None else self.free + size
        over = None if self.over_limit is None else self.over_limit - size
        return replace(self, free=free, over_limit=over)

    def merge(self, other: "DeviceBudget") -> "DeviceBudget":
        """The room on a card of which two devices tell."""
        frees = [budget.free for budget in (self, other) if budget.free is not None]
        overs = [budget.over_limit for budget in (self, other) if budget.over_limit is not None]
        return replace(
            self,
            free=min(frees, default=None),
            reserve=max(self.reserve, other.reserve),
            over_limit=max(overs, default=None),
            experts=self.experts and other.experts,
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """One backend, as a holder of device memory."""

    id: str
    layers: Sequence[Layer]
    pinned_cpu: Set[int]  # layers that are meant to be on the CPU; under "auto" none
    auto: bool
    busy: bool = False
    use: float = 0.0  # how much it is used: recent tokens a second
    last_used_s: float = 0.0
    moving: bool = False
    expert_only: Set[str] = (
        frozenset()
    )  # devices that may have experts of layers whose home is another

    def on(self, device: str, *, of: Set[int] | None = None) -> list[Layer]:
        """Layers whose experts are on a device (among those in `of`), the first ones first."""
        return [x for x in self.layers if x.experts == device and (of is None or x.index in of)]

    def candidates(self, device: str) -> list[Layer]:
        """Layers whose experts could go to a device, the last ones first: home, or to one that is
        for experts only."""
        return [
            x
            for x in reversed(self.layers)
            if x.experts == CPU and x.index not in self.pinned_cpu
            if x.attention_device == device or device in self.expert_only
        ]


@dataclass(slots=True)
class Changes:
    """Backend -> layer -> where its experts go, and why: "pressure", "room", "use" or "free"."""

    moves: dict[str, dict[int, str]] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def add(self, tenant: str, layers: Iterable[Layer], place: str, why: str) -> None:
        for layer in layers:
            self.moves.setdefault(tenant, {})[layer.index] = place
            self.why[tenant] = why


def rebalance(tenants: Sequence[Tenant], budgets: Mapping[str, DeviceBudget]) -> Changes:
    """What is to move now. Nothing is ever shrunk and grown at once on a device."""
    changes = Changes()
    for device, budget in budgets.items():
        if budget.deficit:
            _reclaim(changes, tenants, device, budget.deficit, "pressure")
        elif not any(t.moving for t in tenants):
            _fill(changes, tenants, device, budget)
    return changes


def make_way(
    tenants: Sequence[Tenant], needed: Mapping[str, int], budgets: Mapping[str, DeviceBudget]
) -> tuple[Changes, dict[str, int]]:
    """Room for a newcomer that takes `needed` bytes of each device, by demoting experts of those
    that are there.

    Returns the moves, and per device what is still missing after them (empty: it fits).
    """
    changes, missing = Changes(), {}
    for device, size in needed.items():
        budget = budgets.get(device)
        if budget is None or budget.free is None:
            continue  # not known: the newcomer has to try
        lacking = size - max(budget.free - budget.reserve - budget.promised, 0)
        if budget.over_limit is not None:
            lacking = max(lacking, size + budget.over_limit)
        if lacking > 0:
            left = _reclaim(changes, tenants, device, lacking, "room")
            if left > 0:
                missing[device] = left
    return changes, missing


def _reclaim(changes: Changes, tenants: Sequence[Tenant], device: str, size: int, why: str) -> int:
    """Demote until `size` bytes of a device are free; returns what is still missing.

    1. Idle backends, the longest unused first, as far as their experts go.
    2. Busy ones down to what they were explicitly given, the least used first.
    3. Busy ones beyond it: an explicit split is kept unless memory runs out.
    """
    idle = sorted((t for t in tenants if not t.busy), key=lambda t: t.last_used_s)
    busy = sorted((t for t in tenants if t.busy), key=lambda t: (t.use, t.last_used_s))
    for tenant, of in (
        *((t, None) for t in idle),
        *((t, None if t.auto else t.pinned_cpu) for t in busy),
        *((t, None) for t in busy),
    ):
        # Under an explicit split, its layers are meant to be on the CPU anyway.
        for layer in tenant.on(device, of=of):
            if size <= 0:
                return size
            if layer.index not in changes.moves.get(tenant.id, {}):
                changes.add(tenant.id, [layer], CPU, why)
                size -= layer.experts_bytes
    return size


def _fill(changes: Changes, tenants: Sequence[Tenant], device: str, budget: DeviceBudget) -> None:
    """Promote into what is spare: backends in use first, by how much they are used."""
    if budget.growth == "frozen":
        return
    available, bulk = budget.available, GROW_BYTES if budget.growth == "bulk" else 0
    first = True
    for tenant in sorted(tenants, key=lambda t: (t.busy, t.use, t.last_used_s), reverse=True):
        for layer in tenant.candidates(device):
            if layer.experts_bytes > available:
                if first and tenant.busy and budget.may_preempt:
                    _preempt(changes, tenants, device, layer.experts_bytes - available)
                return  # what does not fit for this one is not for a lesser one
            if not first and bulk < layer.experts_bytes:
                return
            changes.add(tenant.id, [layer], device, "free")
            available -= layer.experts_bytes
            bulk -= layer.experts_bytes
            first = False


def _preempt(changes: Changes, tenants: Sequence[Tenant], device: str, size: int) -> None:
    """Have backends that are not in use, and that nobody gave a number, make room for one that
    is."""
    idle = [tenant for tenant in tenants if not tenant.busy and tenant.auto]
    _reclaim(changes, idle, device, max(size, GROW_BYTES), "use")
