"""The experts of each layer: find their tensors in the running model, and swap copies of them in.

Swapping writes three pointers a tensor and needs the gate; the copies are made before, by
`proxy.worker.staging`. What was tried and measured before is told in docs/architecture.md, "Live
moves".
"""

import ctypes as c
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from proxy.engine.tensor_names import EXPERTS, FEED_FORWARD
from proxy.worker.gate import Gate, HeldGate
from proxy.worker.libraries import LlamaError
from proxy.worker.llama import LlamaLibrary, ModelGoneError, Tensor
from proxy.worker.next_step import MAPPED, REPACKED, victim
from proxy.worker.piece_size import PieceSize
from proxy.worker.staging import Copier, Copy, Pointers, Weight

MODEL_GONE = "llama-server has freed the model whose experts were to move"
ATTENTION = re.compile(r"blk\.(\d+)\.(?:attn|ssm)[^#]*$")
# What llama.cpp's expert cache has in the graph of a layer that it caches.
CACHED = re.compile(r"moe_cache\.(?:slot_map-|blk\.)(\d+)")
OF_LAYERS = (b"blk.", b"moe_cache.")


@dataclass(slots=True)
class _Layer:
    weights: list[Weight]
    device: str  # the device that has this layer's attention, "CPU" if none
    place: str = MAPPED
    buffer: int | None = None  # ours, unless the layer is in the mapped file


@dataclass(frozen=True, slots=True)
class Staged:
    """A finished copy of one layer, not in use yet."""

    layer: int
    place: str
    copy: Copy


class Experts:
    """All layers that have experts. `swap` needs a closed gate, the rest does not."""

    def __init__(
        self,
        llama: LlamaLibrary,
        gate: Gate,
        *,
        outputs_per_batch: bool,
        dense: bool = False,
        spared: Callable[[int], frozenset[int]] | None = None,
        cache_bytes: int = 0,
    ) -> None:
        """`dense`: the model has no experts, and its feed-forward weights are taken for them.
        `spared`: where llama.cpp has an expert cache, of at most `cache_bytes`, the layers of a
        model that it leaves alone; all others must never move."""
        self._spared, self._cache_bytes = spared, cache_bytes
        self._movable = FEED_FORWARD if dense else EXPERTS
        self._llama = llama
        self._gate = gate
        # Every token of a batch may be asked for outputs (embeddings, drafts), not just one a
        # sequence.
        self._outputs_per_batch = outputs_per_batch
        self._copier = Copier(llama, PieceSize(lambda: gate.steps, lambda: gate.stepping))
        # What changes, each time that llama-server has loaded its model:
        self.block_count = 0
        self.layers: dict[int, _Layer] = {}
        # Layers with experts that the cache may have: they are in none of what moves.
        self.cached: tuple[int, ...] = ()
        # The layers that have at least one tensor for which this CPU has a faster layout.
        self.repackable: frozenset[int] = frozenset()
        # The devices that the model is computed on, the CPU's memory among them; None: unknown.
        self.devices: frozenset[str] | None = None
        # Device -> kind -> bytes, as of the last time the gate was closed.
        self.held: dict[str, dict[str, int]] = {}
        self._forgotten: list[int] = []

    # --- finding them ---

    @property
    def gone(self) -> bool:
        """Whether llama-server has freed the model: what is known of its tensors is stale."""
        return self._gate.watched is None

    def forget(self) -> bool:
        """Let go of our buffers of a model that is gone: nobody refers to them any more, and
        `free_forgotten` gives them back. Loaded anew, its experts are in the mapped file. Returns
        whether that is news."""
        self._forgotten += [x.buffer for x in self.layers.values() if x.buffer is not None]
        for layer in self.layers.values():
            layer.place, layer.buffer = MAPPED, None
        news, self.held = bool(self.held), {}
        return news

    def free_forgotten(self) -> None:
        forgotten, self._forgotten = self._forgotten, []
        self.free(forgotten)

    def discover(self, held_gate: HeldGate) -> None:
        """Walk the graph of the model and note each layer's expert tensors. Only those in host
        memory count: what llama.cpp itself put on a device is part of a larger buffer and cannot
        leave it alone. What was known of an earlier model has to be forgotten before.

        Raises LlamaError where there is no graph to walk.
        """
        llama, context = self._llama, held_gate.contexts[0]
        model = llama.get_model(context)
        self.block_count = llama.model_n_layer(model)
        found: dict[int, dict[str, Weight]] = {}
        attention: dict[int, str] = {}
        cached: set[int] = set()
        for tensor in self._weights(context):
            name = tensor.contents.name.decode(errors="replace")
            if match := self._movable.match(name):
                buffer = tensor.contents.buffer
                if buffer and llama.buft_is_host(llama.buffer_type(buffer)):
                    mmap_ptr = (buffer, tensor.contents.data, tensor.contents.extra)
                    weight = Weight(tensor, name, llama.nbytes(tensor), mmap_ptr)
                    found.setdefault(int(match[1]), {})[name] = weight
            elif match := ATTENTION.match(name):
                buffer_type = llama.buffer_type(tensor.contents.buffer)
                attention.setdefault(int(match[1]), self._device_of(buffer_type))
            elif match := CACHED.match(name):
                cached.add(int(match[1]))
        movable = movable_layers(found, cached, self._spared(model) if self._spared else None)
        self.cached = tuple(sorted((found.keys() | cached) - movable))
        self.layers = {
            index: _Layer(list(found[index].values()), attention.get(index, MAPPED))
            for index in sorted(movable)
        }
        can_repack = self._copier.can_repack
        self.repackable = frozenset(
            index for index, layer in self.layers.items() if any(map(can_repack, layer.weights))
        )
        computing = {self._device_of(kind) for kind in self._gate.breakdown(context)}
        self.devices = frozenset(computing) if computing else None
        if self._spared is not None and self.layers:
            # What was reserved is for these layers' experts on their devices.
            self._reserve(held_gate)
        self._measure(held_gate)
        self._gate.watch(model)

    def _weights(self, context: int) -> Iterator["c._Pointer[Tensor]"]:
        llama = self._llama
        n = llama.n_seq_max(context)
        graph = llama.graph_reserve(context, n, n, n)
        if not graph:
            raise LlamaError("llama.cpp cannot reserve the graph of one step")
        for index in range(llama.graph_n_nodes(graph)):
            for source in llama.graph_node(graph, index).contents.src:
                if source:
                    tensor = c.cast(source, c.POINTER(Tensor))
                    if tensor.contents.buffer and tensor.contents.name.startswith(OF_LAYERS):
                        yield tensor

    def _device_of(self, buffer_type: int) -> str:
        device = self._llama.buft_device(buffer_type)
        return self._llama.device_name(device) if device else MAPPED

    # --- what there is ---

    def places(self) -> dict[int, str]:
        return {index: layer.place for index, layer in self.layers.items()}

    def layer_bytes(self, index: int) -> int:
        return sum(weight.bytes for weight in self.layers[index].weights)

    # --- moving them ---

    def stage(self, index: int, place: str, *, stop: Callable[[], bool]) -> Staged | None:
        """Copy a layer's tensors to `place`. None: no memory there, or `stop()` said so meanwhile;
        then nothing has changed. Raises ModelGoneError."""
        gate = self._gate
        with gate.pinned() as there:  # the copy is made from the model's own mapped file
            if there:
                weights = self.layers[index].weights
                copy = self._copier.copy(weights, place, stop=lambda: stop() or gate.model_leaves)
                if copy is not None:
                    return Staged(index, place, copy)
                if not gate.model_leaves:
                    return None
        raise ModelGoneError(MODEL_GONE)

    def discard(self, staged: Staged) -> None:
        """Give back a copy that has not been swapped in."""
        self.free([staged.copy.buffer])

    def swap(
        self, held_gate: HeldGate, *, demote: Sequence[int] = (), promote: Staged | None = None
    ) -> list[int]:
        """Write the pointers, then reserve what the placement needs. Returns buffers to free once
        the gate is open.

        Where a device has no room for the compute buffers that the new placement needs, the
        promotion is undone, and if that is not enough, more layers leave their devices (`places()`
        shows it): otherwise the next long prompt would fail.

        Raises ModelGoneError, with nothing written.
        """
        if self.gone:
            raise ModelGoneError(MODEL_GONE)
        for context in held_gate.contexts:
            self._llama.synchronize(context)
        unused = [buffer for index in demote for buffer in self._demote(index)]
        if promote is not None:
            copy = promote.copy
            unused += self._write(promote.layer, promote.place, copy.buffer, copy.pointers)
        if not self._reserve(held_gate):
            if promote is not None:
                unused += self._demote(promote.layer)
            self._make_room(held_gate, unused)
            unused = []
        self._measure(held_gate)
        return unused

    def _make_room(self, held_gate: HeldGate, unused: list[int]) -> None:
        """Give memory back, at first what is unused, until the reservation holds or nothing is on a
        device any more. Here the gate waits for it: the next step needs what it frees."""
        self.free(unused)
        while not self._reserve(held_gate):
            layer = victim(self.places())
            if layer is None:
                return
            self.free(self._demote(layer))

    def free(self, buffers: Sequence[int]) -> None:
        """Give buffers back. Outside the gate: unmapping half a gigabyte takes tens of
        milliseconds."""
        for buffer in buffers:
            self._llama.buffer_free(buffer)

    def _demote(self, index: int) -> list[int]:
        return self._write(index, MAPPED, None, [w.mmap_ptr for w in self.layers[index].weights])

    def _write(
        self, index: int, place: str, buffer: int | None, pointers: Sequence[Pointers]
    ) -> list[int]:
        """Use a layer from another place. Returns the buffer that it was in, if it had one."""
        layer = self.layers[index]
        for weight, (tensor_buffer, data, extra) in zip(layer.weights, pointers, strict=True):
            real = weight.tensor.contents
            real.buffer, real.data, real.extra = tensor_buffer, data, extra
        unused, layer.place, layer.buffer = layer.buffer, place, buffer
        return [] if unused is None else [unused]

    def _reserve(self, held_gate: HeldGate) -> bool:
        """Reserve the worst case of every context, then the graph of one step. Also drops the
        cached graphs, which would compute on the wrong device. False where a device has no room for
        it."""
        llama = self._llama
        enough = True
        for context in held_gate.contexts:
            sequences = llama.n_seq_max(context)
            batch = min(llama.n_ubatch(context), llama.n_ctx(context))
            batch = -(-batch // sequences) * sequences
            outputs = batch if self._outputs_per_batch else sequences
            worst = llama.graph_reserve(context, batch, sequences, outputs)
            enough = bool(worst) and enough
            enough = bool(llama.graph_reserve(context, sequences, sequences, sequences)) and enough
        return enough

    def _measure(self, held_gate: HeldGate) -> None:
        """Refresh `held` from the contexts' own books and ours."""
        held: dict[str, dict[str, int]] = {}

        def row(device: str) -> dict[str, int]:
            return held.setdefault(device, {"weights": 0, "kv": 0, "compute": 0, "experts": 0})

        models = set()
        for context in held_gate.contexts:
            model = self._llama.get_model(context)
            for buffer_type, (weights, kv, compute) in self._gate.breakdown(context).items():
                entry = row(self._device_of(buffer_type))
                entry["weights"] += (
                    weights if model not in models else 0
                )  # several contexts share a model
                entry["kv"] += kv
                entry["compute"] += compute
            models.add(model)
        cache_left = self._cache_bytes
        for device, kinds in held.items() if cache_left else ():
            if device != MAPPED:
                # The contexts' books have it under the KV cache.
                kinds["cache"] = min(kinds["kv"], cache_left)
                kinds["kv"] -= kinds["cache"]
                cache_left -= kinds["cache"]
        for layer in self.layers.values():
            if layer.buffer is not None:
                device = MAPPED if layer.place == REPACKED else layer.place
                row(device)["experts"] += self._llama.buffer_size(layer.buffer)
        self.held = held


def movable_layers(
    found: Collection[int], cached: Collection[int], spared: Collection[int] | None
) -> frozenset[int]:
    """Of the layers whose experts were `found` in host memory, those that may move: with an expert
    cache only those that it leaves alone, and that are not seen to be `cached` all the same.
    Without one (`spared` is None) all, unless one is there that nobody told us of."""
    if spared is None:
        return frozenset() if cached else frozenset(found)
    return (frozenset(found) & frozenset(spared)) - frozenset(cached)
