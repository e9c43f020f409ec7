"""Whether a backend stays loaded however long it is idle and whoever needs its memory: what the
policies say of it, and what somebody has said since."""

from dataclasses import dataclass


@dataclass(slots=True)
class Pinned:
    """Whoever spoke last counts. Somebody's word is of the model: it goes over to what is loaded of
    it besides, or in this one's place."""

    by_policy: bool = False
    by_hand: bool | None = None  # None: nobody said anything since the policies did

    def __bool__(self) -> bool:
        return self.by_policy if self.by_hand is None else self.by_hand

    def set(self, pinned: bool, *, by_policy: bool) -> bool:
        """Take it down; whether that made a difference."""
        before = bool(self)
        if not by_policy:
            self.by_hand = pinned
        elif pinned != self.by_policy:
            self.by_policy, self.by_hand = pinned, None
        return bool(self) != before
