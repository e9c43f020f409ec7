"""From a header to bytes: what each layer of a model holds, and what a device needs to compute.
Pure; nothing is loaded.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from proxy.catalog.gguf import Header
from proxy.placement.attention import GUESSED, attention_of, trunk_layers
from proxy.placement.compute import F32, Batch, LayerRange, compute_bytes
from proxy.placement.kv import cells, kv_bytes, padded, state_bytes
from proxy.placement.work import Work, by_block, is_movable, work_of

DEFAULT_UBATCH: Final = 512
FLOAT_TYPES: Final = ("f32", "f16", "bf16")
# Tensors that turn tokens into vectors: llama.cpp keeps them on the CPU whatever else it does.
INPUT: Final = ("token_embd.", "position_embd.", "token_types.", "per_layer_token_embd.")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a model is to be loaded with. `ctx` is in tokens for one of `parallel` conversations."""

    ctx: int
    parallel: int = 1
    key_type: str = "f16"
    value_type: str = "f16"
    ubatch: int = DEFAULT_UBATCH
    flash_attention: bool = True
    # llama-server asks for one output per conversation, for embeddings one per token.
    per_token_outputs: bool = False
    # A model without experts whose feed-forward weights move in their place.
    dense: bool = False


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """What one layer holds: `dense` stays where its attention is, `experts` can move (or what moves
    in their place)."""

    index: int
    dense: int
    experts: int
    kv: int


@dataclass(frozen=True)
class Estimate:
    """A model under some settings. `notes` says what could not be known from the header."""

    settings: Settings
    blocks: int  # all layers in the file, which is what llama.cpp splits over devices
    layers: tuple[LayerBytes, ...]
    work: tuple[Work, ...]
    input_bytes: int  # on the CPU
    output_bytes: int  # with the last layer
    vocabulary: int
    notes: tuple[str, ...]

    @cached_property
    def experts_bytes(self) -> int:
        return sum(layer.experts for layer in self.layers)

    @cached_property
    def weights_bytes(self) -> int:
        """All weights, those of experts too."""
        held = sum(layer.dense + layer.experts for layer in self.layers)
        return held + self.input_bytes + self.output_bytes

    @cached_property
    def kv_bytes(self) -> int:
        return sum(layer.kv for layer in self.layers)

    def compute_bytes(
        self, layers: Sequence[int], away: Collection[int], *, streams_weights: bool = True
    ) -> int:
        """The scratch memory of a device that has the attention of these consecutive layers, where
        those in `away` have their experts on the CPU."""
        last = bool(layers) and layers[-1] == len(self.layers) - 1
        stretch = LayerRange(
            layers=tuple(self.work[index] for index in layers),
            last_of_model=last,
            vocabulary=self.vocabulary if last else 0,
            experts_away=frozenset(i for i, index in enumerate(layers) if index in away),
            streams_weights=streams_weights,
        )
        return compute_bytes(stretch, self._batch)

    def experts_only_bytes(self) -> int:
        """The scratch memory of a device that has experts but no attention."""
        routed = [w for w in self.work if w.experts]
        if not routed:
            return max((2 * w.width + 3 * w.inner for w in self.work), default=0) * self._size
        work = max(routed, key=lambda w: w.expert_inner * w.used)
        *inward, (outward, _) = work.expert_steps
        # At most a token's inner results and what is made of them, or that and the outer ones.
        inner = work.expert_inner + max(sum(width for width, _ in inward), outward)
        return (2 * work.width + inner * work.used) * self._size

    @property
    def _size(self) -> int:
        """Bytes of one number for each token of a batch."""
        return self._batch.tokens * F32

    @cached_property
    def _batch(self) -> Batch:
        asked = self.settings
        full = padded(asked.ctx)
        tokens = min(full * asked.parallel, asked.ubatch)
        windows = {work.window for work in self.work}
        cached = self.kv_bytes > 0
        return Batch(
            tokens=tokens,
            outputs=tokens if asked.per_token_outputs else min(tokens, asked.parallel),
            cells={w: cells(asked.ctx, w, tokens) if cached else tokens for w in windows},
            flash_attention=asked.flash_attention,
            turned_keys=self._turned(asked.key_type),
            turned_values=self._turned(asked.value_type),
        )

    def _turned(self, kind: str) -> bool:
        heads = {w.query // w.heads for w in self.work if w.heads and not w.latent}
        return kind not in FLOAT_TYPES and bool(heads) and all(n % 64 == 0 for n in heads)


def estimate(header: Header, settings: Settings) -> Estimate:
    """What the model of this header holds and needs under these settings."""
    blocks = by_block(header.tensors)
    attention = attention_of(header)
    state = state_bytes(header, parallel=settings.parallel)
    notes = []
    if header.architecture in GUESSED:
        notes.append(
            f"{header.architecture} keeps a cache of a kind of its own: its size is a guess"
        )
    if state is None and any(layer.kind in ("recurrent", "both") for layer in attention):
        notes.append("the recurrent layers' state is not in the sum: its size is not known")
    layers, work = [], []
    for index in range(trunk_layers(header)):
        tensors = blocks.get(index, {})
        moving = (t for name, t in tensors.items() if is_movable(name, dense=settings.dense))
        experts = sum(tensor.size_bytes for tensor in moving)
        held = kv_bytes(
            attention[index],
            ctx=settings.ctx,
            parallel=settings.parallel,
            ubatch=settings.ubatch,
            key_type=settings.key_type,
            value_type=settings.value_type,
        )
        if attention[index].kind in ("recurrent", "both"):
            held += state or 0
        dense = sum(t.size_bytes for t in tensors.values()) - experts
        layers.append(LayerBytes(index, dense, experts, held))
        work.append(work_of(header, index, attention[index], tensors, dense=settings.dense))
    ends = blocks.get(None, {})
    entry = sum(t.size_bytes for name, t in ends.items() if name.startswith(INPUT))
    leave = sum(t.size_bytes for t in ends.values()) - entry
    embedding = ends.get("token_embd.weight")
    writes = any(layer.kind != "none" for layer in attention)
    if embedding and writes and "output.weight" not in ends:
        leave += embedding.size_bytes  # tied: a second copy, where the output is computed
    vocabulary = embedding.shape[1] if embedding and writes and len(embedding.shape) > 1 else 0
    return Estimate(
        settings, header.layers, tuple(layers), tuple(work), entry, leave, vocabulary, tuple(notes)
    )
