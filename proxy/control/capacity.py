"""What of each device's memory can be ours: for what is decided once, when a model is loaded."""

from collections.abc import Mapping, Sequence

from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.placement.budget import Budget
from proxy.policy.model import Policies


def capacity(
    watch: MemoryWatch, ledger: Ledger, policies: Policies, rpc: Sequence[str]
) -> list[Budget]:
    """What a model with these RPC servers may have of each device, within reserves and limits."""
    return budgets_of(device_sizes(watch, ledger, policies, rpc), policies)


def device_sizes(
    watch: MemoryWatch, ledger: Ledger, policies: Policies, rpc: Sequence[str]
) -> dict[str, int]:
    """What is free or ours on each device that a model with these RPC servers will use. Devices are
    known once a worker has reported them, sizes where they can be read. Before that, it is what the
    drivers' cards have, unless a policy is about a device by a name that no card has yet.
    """
    snapshot = watch.latest()
    readings = snapshot.devices or ({} if policies.devices.named else snapshot.cards)
    return {
        name: reading.free_bytes + (ledger.ours(name) or 0)
        for name, reading in readings.items()
        if reading.free_bytes is not None
        and (not name.startswith("RPC") or reading.description in rpc)
    }


def budgets_of(vram: Mapping[str, int], policies: Policies) -> list[Budget]:
    """What the policies leave of each device: its reserve stays free, its limit is kept."""
    budgets = []
    for name, size in vram.items():
        rules = policies.devices.for_device(name)
        usable = max(size - rules.reserve_bytes, 0)
        if rules.limit_bytes is not None:
            usable = min(usable, rules.limit_bytes)
        budgets.append(
            Budget(
                name,
                usable,
                attention=rules.attention,
                experts=rules.experts,
                # An RPC server is never sent weights for one batch.
                streams_weights=not name.startswith("RPC"),
            )
        )
    return budgets
