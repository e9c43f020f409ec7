"""The scratch memory that a prompt batch needs on a device: llama.cpp's graph for a stretch of
layers, in the order in which it is computed, put through its allocator. Pure.

Only results as wide as a token's are in it. Normalisation, rotation, biases and sums work in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from proxy.placement.scratch import AllocTrace, Op, peak_bytes
from proxy.placement.work import Work

F32, F16, I64, I32 = 4, 2, 8, 4  # bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """What is reserved for: `tokens` at once, over caches of `cells` by window (0: no window)."""

    tokens: int
    outputs: int
    cells: Mapping[int, int]
    flash_attention: bool = True
    # Quantised keys and values are rotated on their way into the cache and out of it.
    turned_keys: bool = False
    turned_values: bool = False


@dataclass(frozen=True, slots=True)
class LayerRange:
    """A device's layers: consecutive ones with attention there, and which of them have their
    experts elsewhere. `first`: token embeddings come from the CPU; `outputs`: the width of the
    vocabulary if this device computes the logits, else 0. `streams_weights`: large batches use
    experts that are on the CPU by copying their weights here (CUDA, Vulkan; not RPC)."""

    layers: tuple[Work, ...]
    last_of_model: bool
    vocabulary: int
    experts_away: frozenset[int] = frozenset()  # positions in `layers`
    streams_weights: bool = True


def compute_bytes(stretch: LayerRange, batch: Batch) -> int:
    """The size of the device's compute buffer."""
    if not stretch.layers and not stretch.vocabulary:
        return 0
    return peak_bytes(_Graph(stretch, batch).nodes())


class _Graph:
    """Writes the graph down. `_x` is the node that holds the tokens between two parts."""

    def __init__(self, stretch: LayerRange, batch: Batch) -> None:
        self._stretch = stretch
        self._batch = batch
        self._tape = AllocTrace()
        self._tokens = batch.tokens
        self._mask: dict[int, int] = {}
        self._indexes: dict[int, int] = {}
        self._x = self._positions = -1

    def nodes(self) -> Sequence[Op]:
        layers = self._stretch.layers
        width = layers[0].width if layers else 0
        self._x = self._rows(width)
        self._inputs(layers)
        chosen = self._tape.add(self._batch.outputs * I32)
        for position, layer in enumerate(layers):
            last = self._stretch.last_of_model and position == len(layers) - 1
            self._attention(layer, chosen if last else None)
            self._feed_forward(layer, away=position in self._stretch.experts_away)
        if self._stretch.vocabulary:
            normed = self._sum(width, self._x)
            self._rows(self._stretch.vocabulary, normed)
        return self._tape.nodes

    def _inputs(self, layers: Sequence[Work]) -> None:
        self._positions = self._tape.add(self._tokens * I32)
        cell = F16 if self._batch.flash_attention else F32
        for window in dict.fromkeys(layer.window for layer in layers if layer.query):
            self._indexes[window] = self._tape.add(self._tokens * I64 * 2)
            cells = self._batch.cells[window]
            self._mask[window] = self._tape.add(cells * self._tokens * cell)

    def _rows(self, width: int, *sources: int) -> int:
        return self._tape.add(width * self._tokens * F32, *sources)

    def _sum(self, width: int, *sources: int) -> int:
        return self._tape.add(width * self._tokens * F32, *sources, in_place=True)

    def _attention(self, layer: Work, chosen: int | None) -> None:
        before = self._x
        normed = self._rows(layer.width, before)
        if not layer.query and not layer.recurrent:
            return
        attended = self._attend(layer, normed) if layer.query else -1
        attended = self._recur(layer, normed) if layer.recurrent else attended
        out = self._rows(layer.width, attended)
        if chosen is not None:
            self._tokens = self._batch.outputs
            out = self._rows(layer.width, out, chosen)
            before = self._rows(layer.width, before, chosen)
        self._x = self._sum(layer.width, out, before)

    def _attend(self, layer: Work, normed: int) -> int:
        if layer.latent:
            query, keys = self._latent(layer, normed)
        else:
            query, keys = self._ordinary(layer, normed)
        stored = self._tape.add(0, *keys, self._indexes[layer.window])
        mask = self._mask[layer.window]
        if self._batch.flash_attention:
            attended = self._rows(layer.attended, query, mask, stored)
        else:
            scores = self._rows(self._batch.cells[layer.window] * layer.heads, query, stored)
            weights = self._again(scores, mask, in_place=True)
            attended = self._rows(layer.attended, weights)
        if layer.unfolded:
            return self._again(self._rows(layer.unfolded, attended))
        if not self._batch.flash_attention:
            attended = self._again(attended)
        return self._again(attended) if self._batch.turned_values else attended

    def _ordinary(self, layer: Work, normed: int) -> tuple[int, tuple[int, ...]]:
        """The query, and what is stored."""
        if layer.fused:
            value = self._rows(layer.query + layer.key + layer.value, normed)
            query = self._rows(layer.query, value, self._positions)
            key = self._rows(layer.key, value, self._positions)
            return query, (value, key)
        # A result that was reshaped into heads is not overwritten, so that its rotation (or
        # normalisation) takes a place of its own.
        query = self._rows(layer.query, self._rows(layer.query, normed), self._positions)
        query = self._again(query) if self._batch.turned_keys else query
        value = self._rows(layer.value, normed)
        value = self._again(value) if self._batch.turned_values else value
        key = self._rows(layer.key, self._rows(layer.key, normed), self._positions)
        return query, (value, self._again(key) if self._batch.turned_keys else key)

    def _again(self, node: int, *more: int, in_place: bool = False) -> int:
        return self._tape.add(self._tape.nodes[node].size_bytes, node, *more, in_place=in_place)

    def _latent(self, layer: Work, normed: int) -> tuple[int, tuple[int, ...]]:
        ranked = self._rows(layer.query_rank, normed) if layer.query_rank else normed
        query = self._rows(layer.latent, ranked)
        absorbed = self._rows(layer.attended, query)
        turned = self._rows(layer.query - layer.attended, query, self._positions)
        wide = self._rows(layer.query, absorbed, turned)
        compressed = self._rows(layer.key, normed)
        kept = self._rows(layer.value, compressed)
        rotated = self._rows(layer.key - layer.value, compressed, self._positions)
        return wide, (self._rows(layer.key, kept, rotated),)

    def _recur(self, layer: Work, normed: int) -> int:
        mixed = self._rows(layer.recurrent, normed)
        convolved = self._rows(layer.recurrent, mixed)
        return self._rows(layer.recurrent, convolved, mixed)

    def _feed_forward(self, layer: Work, *, away: bool) -> None:
        if not layer.inner and not layer.experts:
            return
        before = self._x
        normed = self._rows(layer.width, before)
        out = self._experts(layer, normed, away=away) if layer.experts else -1
        if inner := layer.shared_inner or layer.inner:
            dense = self._dense(layer, normed, inner, away=away)
            out = dense if out < 0 else self._sum(layer.width, out, dense)
        self._x = self._sum(layer.width, out, before)

    def _dense(self, layer: Work, normed: int, inner: int, *, away: bool) -> int:
        away = away and bool(layer.inner_steps)
        if away and not self._stretch.streams_weights:
            return self._rows(layer.width, self._tape.add(0, normed))
        # What is away is copied here, one matrix after another.
        steps = iter(layer.inner_steps if away else ())

        def copied() -> tuple[int, ...]:
            return tuple(self._tape.add(size) for size in islice(steps, 1))

        up = self._rows(inner, normed, *copied())
        if layer.gated or layer.shared_inner:
            active = self._rows(inner, self._rows(inner, normed, *copied()), up)
        else:
            active = self._sum(inner, up)
        return self._rows(layer.width, active, *copied())

    def _experts(self, layer: Work, normed: int, *, away: bool) -> int:
        logits = self._rows(layer.experts, normed)
        order = self._rows(layer.experts, logits)
        weights = self._rows(layer.used, logits, order)
        if away and not self._stretch.streams_weights:
            asked = self._tape.add(0, normed, order)  # the CPU does the work,
            down = self._rows(layer.width * layer.used, asked)  # and its results come back
        else:
            down = self._apply(layer, normed, order, away=away)
        weighted = self._sum(layer.width * layer.used, down, weights)
        total = self._rows(layer.width, weighted)
        # In place: the third and all that follow take no more than the second.
        for _ in range(min(layer.used - 2, 2)):
            total = self._sum(layer.width, total, weighted)
        return total

    def _apply(self, layer: Work, normed: int, order: int, *, away: bool) -> int:
        *inward, (_, outward_bytes) = layer.expert_steps
        made = []
        for width, size_bytes in inward:
            copied = (self._tape.add(size_bytes),) if away else ()
            made.append(self._rows(width * layer.used, normed, order, *copied))
        active = self._rows(layer.expert_inner * layer.used, *reversed(made))
        copied = (self._tape.add(outward_bytes),) if away else ()
        return self._rows(layer.width * layer.used, active, order, *copied)
