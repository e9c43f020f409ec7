"""What of a model has to be in RAM to be quick. Pure."""

from collections.abc import Sequence

from proxy.catalog.gguf import Header
from proxy.placement.budget import Budget
from proxy.placement.estimate import Settings, estimate
from proxy.placement.plan import plan


def cpu_resident(
    header: Header, settings: Settings, budgets: Sequence[Budget], cpu_layers: int | None
) -> int:
    """Bytes of weights that no device takes: embeddings, and the experts of the layers on the CPU.
    `cpu_layers` of None: of as few as these devices allow. Without a device, all there is.
    """
    if not any(budget.attention for budget in budgets):
        return estimate(header, settings).weights_bytes
    made = plan(header, settings, budgets, ubatch=settings.ubatch, cpu_layers=cpu_layers)
    return made.host_bytes
