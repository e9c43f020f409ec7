"""What a model could have of devices when it is loaded: of those here, and of what the fleet would
lend; and what it lacks of that here."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from proxy.catalog.gguf import GgufError, Header
from proxy.catalog.headers import header_at
from proxy.control.capacity import budgets_of, capacity
from proxy.engine.types import LoadOptions
from proxy.errors import Hangs
from proxy.memory.ledger import Ledger
from proxy.memory.watch import MemoryWatch
from proxy.placement.budget import Budget
from proxy.placement.estimate import estimate
from proxy.placement.footprint import settings_of
from proxy.policy.model import Policies
from proxy.threads import MODELS


class Elsewhere(Protocol):
    """Who asks the fleet."""

    def offered(self, rpc: Sequence[str]) -> Mapping[str, int]:
        """Devices that a model with these `rpc` could have beside those here, with their bytes."""

    async def look(self, options: LoadOptions) -> None:
        """Before a load is planned: what that would be now."""


class Room:
    """Asked for each load."""

    def __init__(
        self,
        watch: MemoryWatch,
        ledger: Ledger,
        policies: Callable[[], Policies],
        elsewhere: Elsewhere,
    ) -> None:
        self._watch, self._ledger, self._policies = watch, ledger, policies
        self._elsewhere = elsewhere

    def on_devices(self, rpc: Sequence[str]) -> Sequence[Budget]:
        """What a model with these RPC servers may have of each device, as was seen last."""
        there = budgets_of(self._elsewhere.offered(rpc), self._policies())
        return [*capacity(self._watch, self._ledger, self._policies(), rpc), *there]

    async def look(self, options: LoadOptions) -> None:
        """Returns when that was seen not long ago."""
        await self._elsewhere.look(options)
        await self._watch.recent()

    async def lacking(self, options: LoadOptions) -> tuple[int, int] | None:
        """The bytes that are missing on this machine's own devices if all of the model is to be on
        some, and what the policies leave free of any other one; None where its file does not
        tell."""
        await self._watch.recent()
        here = capacity(self._watch, self._ledger, self._policies(), ())
        try:
            needed = await MODELS.run(_needed, options)
        except Hangs:  # it is not loaded anyway, and says why
            return None
        if needed is None:
            return None
        missing = max(needed - sum(each.size_bytes for each in here), 0)
        return missing, self._policies().devices.reserve_bytes


def _needed(options: LoadOptions) -> int | None:
    try:
        return whole_bytes(header_at(options.path), options)
    except (GgufError, OSError):
        return None


def whole_bytes(header: Header, options: LoadOptions) -> int:
    """Everything of a model on devices. Scratch memory counts twice: each of several devices has
    some of its own, and none is used to its last byte. Pure."""
    found = estimate(header, settings_of(options))
    every = range(len(found.layers))
    weights = found.weights_bytes - found.input_bytes
    return weights + found.kv_bytes + 2 * found.compute_bytes(every, ())
