"""The memory of one domain: what has to be given back of it, and what may still be taken. Pure."""

from dataclasses import dataclass, replace
from typing import Literal

# After a shortage: stand still until `settle` has passed, then one layer at a time until all is
# back.
Growth = Literal["bulk", "step", "frozen"]


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """The memory of one domain, as the pessimist sees it. None: not known."""

    free_bytes: int | None
    reserve_bytes: int
    low_bytes: int
    # What we hold above the limit, negative: below; None: no limit.
    over_limit_bytes: int | None = None
    promised_bytes: int = 0  # on its way here already, and not off `free_bytes` yet
    growth: Growth = "bulk"
    # An unused backend may give way to one in use, which is not to be often.
    may_preempt: bool = False
    experts: bool = True  # the policy lets experts be here

    @property
    def deficit_bytes(self) -> int:
        """What has to be given back now."""
        free = self.free_bytes
        short = free is not None and free < self.low_bytes
        missing = self.reserve_bytes - free if free is not None and short else 0
        return max(missing, self.over_limit_bytes or 0, 0)

    @property
    def spare_bytes(self) -> int | None:
        """What is left above reserve, limit and promises, negative where they are not kept; None
        where neither the size nor a limit is known."""
        bounds = [] if self.free_bytes is None else [self.free_bytes - self.reserve_bytes]
        bounds += [] if self.over_limit_bytes is None else [-self.over_limit_bytes]
        return min(bounds) - self.promised_bytes if bounds else None

    @property
    def available_bytes(self) -> int:
        """What experts may still take. An unknown size without a limit is no room at all."""
        return max(self.spare_bytes or 0, 0) if self.experts else 0

    def with_freed(self, size_bytes: int) -> "DeviceBudget":
        """The room once so much has left."""
        free, over = self.free_bytes, self.over_limit_bytes
        return replace(
            self,
            free_bytes=None if free is None else free + size_bytes,
            over_limit_bytes=None if over is None else over - size_bytes,
        )

    def merge(self, other: "DeviceBudget") -> "DeviceBudget":
        """The room on a card of which two devices tell."""
        pair = (self, other)
        frees = [budget.free_bytes for budget in pair if budget.free_bytes is not None]
        overs = [budget.over_limit_bytes for budget in pair if budget.over_limit_bytes is not None]
        return replace(
            self,
            free_bytes=min(frees, default=None),
            reserve_bytes=max(self.reserve_bytes, other.reserve_bytes),
            low_bytes=max(self.low_bytes, other.low_bytes),
            over_limit_bytes=max(overs, default=None),
            experts=self.experts and other.experts,
        )
