"""How fast answers were written at each split, as requests had it: noted while they were."""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Final

KEPT: Final = 20  # of each split, seconds in which it was so


class SplitSpeeds:
    """Of all models since the proxy began."""

    def __init__(self) -> None:
        # What changes: model -> split -> tokens per second of one answer; and which split a model
        # had at the last look.
        self._speeds: dict[str, dict[int, deque[float]]] = {}
        self._last: dict[str, int | None] = {}

    def note(self, model: str, split: int | None, tokens_per_second: float) -> bool:
        """For the last second or so one answer was written at this speed, and this is the split
        now. Returns whether that says something: not in a second in which the split changed."""
        before, self._last[model] = self._last.get(model), split
        if split is None or before != split or tokens_per_second <= 0:
            return False
        kept = self._speeds.setdefault(model, {}).setdefault(split, deque(maxlen=KEPT))
        kept.append(tokens_per_second)
        return True

    def of(self, model: str) -> Mapping[int, float]:
        """The median for each split that the model had."""
        return {split: median(kept) for split, kept in self._speeds.get(model, {}).items()}
