"""How much of other machines a model needs that `rpc = "fleet"` has lent: what it takes of devices
as a whole, and this machine's own do not have."""

from collections.abc import Sequence

from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.headers import header_at
from proxy.engine.types import LoadOptions
from proxy.errors import Hangs
from proxy.placement.budget import Budget
from proxy.placement.estimate import estimate
from proxy.placement.footprint import settings_of
from proxy.threads import MODELS


async def lacking_bytes(options: LoadOptions, budgets: Sequence[Budget]) -> int | None:
    """What is missing beside these budgets; None where the model's file does not tell."""
    try:
        needed = await MODELS.run(_needed, options)
    except Hangs:  # it is not loaded anyway, and says why
        return None
    return None if needed is None else max(needed - sum(each.size_bytes for each in budgets), 0)


def _needed(options: LoadOptions) -> int | None:
    try:
        return whole_bytes(header_at(options.path), options)
    except (GgufError, OSError):
        return None


def whole_bytes(header: Header, options: LoadOptions) -> int:
    """Everything of a model on devices. Scratch memory counts twice: each of several devices has
    some of its own, and none is used to its last byte."""
    found = estimate(header, settings_of(options))
    every = range(len(found.layers))
    weights = found.weights_bytes - found.input_bytes
    return weights + found.kv_bytes + 2 * found.compute_bytes(every, ())
