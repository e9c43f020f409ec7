"""How much scratch memory a graph takes: llama.cpp's own way of giving places to results, without
the results. Pure.

A graph reuses the place of a result that nobody needs any more, and holes stay (ggml-alloc.c: best
fit, in place where an operation may). With the holes the peak is up to a quarter above what is
alive at once, so it is played through rather than summed up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

ALIGNMENT: Final = 128


@dataclass(frozen=True, slots=True)
class Op:
    """One result: its size, the nodes (by their place in the list) that it is made from, and
    whether it may overwrite one of them. Size 0: it takes no place (it is stored elsewhere)."""

    size_bytes: int
    sources: tuple[int, ...] = ()
    in_place: bool = False


class AllocTrace:
    """A graph in the order in which it is computed."""

    def __init__(self) -> None:
        self.nodes: list[Op] = []

    def add(self, size_bytes: int, *sources: int, in_place: bool = False) -> int:
        """Append a node; returns its place in the list."""
        self.nodes.append(Op(-(-size_bytes // ALIGNMENT) * ALIGNMENT, sources, in_place))
        return len(self.nodes) - 1


def peak_bytes(nodes: Sequence[Op]) -> int:
    """The size of the buffer in which every node finds a place while it is needed."""
    left = [0] * len(nodes)
    for node in nodes:
        for source in node.sources:
            left[source] += 1
    space = _Arena()
    places: dict[int, int] = {}
    for index, node in enumerate(nodes):
        place = _taken_over(index, node, nodes, left, places) if node.in_place else None
        if node.size_bytes:
            places[index] = space.take(node.size_bytes) if place is None else place
        for source in node.sources:
            left[source] -= 1
            if left[source] == 0 and source in places:
                space.give(places.pop(source), nodes[source].size_bytes)
    return space.end


def _taken_over(
    index: int, node: Op, nodes: Sequence[Op], left: Sequence[int], places: dict[int, int]
) -> int | None:
    for source in node.sources:
        same = nodes[source].size_bytes == node.size_bytes
        if same and left[source] == 1 and source in places:
            return places.pop(source)
    return None


class _Arena:
    """Free blocks of an endless buffer, by offset; the last one is endless."""

    def __init__(self) -> None:
        self.end = 0
        self._free: list[tuple[int, int]] = []  # (offset, size), holes below `_top`
        self._top = 0

    def take(self, size: int) -> int:
        fitting = [(block, -offset) for offset, block in self._free if block >= size]
        if not fitting:
            offset, self._top = self._top, self._top + size
            self.end = max(self.end, self._top)
            return offset
        block, negative = min(fitting)
        offset = -negative
        place = self._free.index((offset, block))
        self._free[place : place + 1] = [(offset + size, block - size)] if block > size else []
        return offset

    def give(self, offset: int, size: int) -> None:
        self._free.append((offset, size))
        self._free.sort()
        merged: list[tuple[int, int]] = []
        for start, block in self._free:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + block)
            else:
                merged.append((start, block))
        if merged[-1][0] + merged[-1][1] == self._top:
            self._top = merged.pop()[0]
        self._free = merged
