"""Counts with labels, for Prometheus. Its library, which takes 1.7 MiB and 30 ms to load, is not
needed to count: `proxy.observe.exposition` has it, which is loaded when somebody asks.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

Labels = tuple[str, ...]


class Tally:
    """How many, by labels. Only grows."""

    def __init__(self, name: str, text: str, labels: Labels) -> None:
        self.name, self.text, self.labels = name, text, labels
        self.counts: dict[Labels, float] = {}

    def add(self, labels: Labels, count: float = 1) -> None:
        self.counts[labels] = self.counts.get(labels, 0) + count


class Spread:
    """How many were how large, by labels. Only grows."""

    def __init__(self, name: str, text: str, labels: Labels, bounds: Sequence[float]) -> None:
        """`bounds`: in ascending order, the largest value that counts as each size."""
        self.name, self.text, self.labels, self.bounds = name, text, labels, tuple(bounds)
        self.sums: dict[Labels, float] = {}
        self._counts: dict[Labels, list[int]] = {}

    def add(self, labels: Labels, value: float) -> None:
        if labels not in self.sums:
            self.sums[labels], self._counts[labels] = 0.0, [0] * (len(self.bounds) + 1)
        self.sums[labels] += value
        self._counts[labels][bisect_left(self.bounds, value)] += 1

    def up_to(self, labels: Labels) -> Iterator[tuple[float, int]]:
        """Each bound, infinity last, and how many were not larger."""
        total = 0
        for bound, count in zip((*self.bounds, float("inf")), self._counts[labels], strict=True):
            total += count
            yield bound, total
