"""The experts of each layer: find their tensors in the running model, copy them to a place, swap
them in.

Copying happens on any thread while the model decodes, since weights are only read. Swapping writes
three pointers a tensor and needs the gate. What was tried and measured before is told in
docs/architecture.md, "Live moves".
"""

import ctypes as c
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from proxy.worker.gate import Closed, Gate
from proxy.worker.llama import USAGE_WEIGHTS, LlamaLibrary, Tensor
from proxy.worker.moves import MAPPED, REPACKED

# Any ending counts: a bias or scale left behind would pull its operation back over the bus.
EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(?:up|gate|down|gate_up)_(?:ch|)exps\.")
# What moves in their place where a model has none.
DENSE_FFN = re.compile(r"blk\.(\d+)\.ffn_(?:up|gate|down)\.")
WEIGHT = re.compile(r"blk\.(\d+)\.(?:attn|ssm)[^#]*$")
# A copy goes in pieces of this size, so that steps which share the way (RPC has one connection) get
# in between.
CHUNK_BYTES = 4 << 20


@dataclass(slots=True)
class _Weight:
    """One expert tensor: the real struct, and the pointers it had in the mapped file."""

    tensor: "c._Pointer[Tensor]"
    name: str
    bytes: int
    home: tuple[int, int, int | None]  # buffer, data, extra


@dataclass(slots=True)
class _Layer:
    weights: list[_Weight]
    device: str  # the device that has this layer's attention, "CPU" if none
    place: str = MAPPED
    buffer: int | None = None  # ours, unless the layer is in the mapped file


@dataclass(slots=True)
class Staged:
    """A finished copy of one layer, not in use yet."""

    layer: int
    place: str
    buffer: int
    bytes: int
    pointers: list[tuple[int, int, int | None]] = field(default_factory=list)


class Experts:
    """All layers that have experts. `swap` needs a closed gate, the rest does not."""

    def __init__(
        self, llama: LlamaLibrary, gate: Gate, *, outputs_per_batch: bool, dense: bool = False
    ) -> None:
        """`dense`: the model has no experts, and its feed-forward weights are taken for them."""
        self._movable = DENSE_FFN if dense else EXPERTS
        self._llama = llama
        self._gate = gate
        # Every token of a batch may be asked for outputs (embeddings, drafts), not just one a
        # sequence.
        self._outputs_per_batch = outputs_per_batch
        self._devices = llama.devices()
        self._repack_type = llama.repack_type()
        self._repacks: dict[tuple[int, ...], bool] = {}
        self.block_count = 0
        self.layers: dict[int, _Layer] = {}
        # Device -> kind -> bytes, as of the last time the gate was closed.
        self.held: dict[str, dict[str, int]] = {}

    # --- finding them ---

    def discover(self, closed: Closed) -> None:
        """Walk the graph of the model and note each layer's expert tensors. Only those in host
        memory count: what llama.cpp itself put on a device is part of a larger buffer and cannot
        leave it alone."""
        llama = self._llama
        self.block_count = llama.model_n_layer(llama.get_model(closed.contexts[0]))
        found: dict[int, dict[str, _Weight]] = {}
        attention: dict[int, str] = {}
        for tensor in self._weights(closed.contexts[0]):
            name = tensor.contents.name.decode(errors="replace")
            if match := self._movable.match(name):
                buffer = tensor.contents.buffer
                if buffer and llama.buft_is_host(llama.buffer_type(buffer)):
                    home = (buffer, tensor.contents.data, tensor.contents.extra)
                    weight = _Weight(tensor, name, llama.nbytes(tensor), home)
                    found.setdefault(int(match[1]), {})[name] = weight
            elif match := WEIGHT.match(name):
                attention.setdefault(int(match[1]), self._device_of(tensor))
        self.layers = {
            index: _Layer(list(found[index].values()), attention.get(index, MAPPED))
            for index in sorted(found)
        }
        self._measure(closed)

    def _weights(self, context: int) -> Iterator["c._Pointer[Tensor]"]:
        llama = self._llama
        n = llama.n_seq_max(context)
        graph = llama.graph_reserve(context, n, n, n)
        for index in range(llama.graph_n_nodes(graph)):
            for source in llama.graph_node(graph, index).contents.src:
                if source:
                    tensor = c.cast(source, c.POINTER(Tensor))
                    if tensor.contents.buffer and tensor.contents.name.startswith(b"blk."):
                        yield tensor

    def _device_of(self, tensor: "c._Pointer[Tensor]") -> str:
        device = self._llama.buft_device(self._llama.buffer_type(tensor.contents.buffer))
        return self._llama.props(device).name.decode() if device else MAPPED

    # --- what there is ---

    def places(self) -> dict[int, str]:
        return {index: layer.place for index, layer in self.layers.items()}

    def layer_bytes(self, index: int) -> int:
        return sum(weight.bytes for weight in self.layers[index].weights)

    def repackable(self) -> list[int]:
        """The layers that have at least one tensor for which this CPU has a faster layout (tried at
        most once per type and shape)."""
        if self._repack_type is None:
            return []
        return [
            i for i, layer in self.layers.items() if any(map(self._repacks_tensor, layer.weights))
        ]

    def _repacks_tensor(self, weight: _Weight) -> bool:
        real = weight.tensor.contents
        key = (real.type, *real.ne)
        if key not in self._repacks:
            # The buffer type says what it can take by setting `extra`; memory that is not written
            # to costs nothing.
            buffer = self._llama.buft_alloc_buffer(self._repack_type, weight.bytes + 4096)
            if not buffer:
                return False
            shadow = _shadow(real)
            self._llama.tensor_alloc(buffer, c.byref(shadow), self._llama.buffer_base(buffer))
            self._repacks[key] = bool(shadow.extra)
            self._llama.buffer_free(buffer)
        return self._repacks[key]

    # --- moving them ---

    def stage(self, index: int, place: str, *, stop: Callable[[], bool]) -> Staged | None:
        """Copy a layer's tensors to `place`, from the file's own bytes. None: no memory there, or
        `stop()` said so meanwhile; then nothing has changed. Tensors that cannot be repacked stay
        where they are."""
        llama, layer = self._llama, self.layers[index]
        to_repack = place == REPACKED
        buffer_type = (
            self._repack_type if to_repack else llama.dev_buffer_type(self._devices[place])
        )
        chosen = [w for w in layer.weights if not to_repack or self._repacks_tensor(w)]
        align = llama.buft_alignment(buffer_type)
        sizes = [-(-llama.buft_alloc_size(buffer_type, w.tensor) // align) * align for w in chosen]
        buffer = llama.buft_alloc_buffer(buffer_type, sum(sizes))
        if not buffer:
            return None
        llama.buffer_set_usage(buffer, USAGE_WEIGHTS)
        staged = Staged(index, place, buffer, sum(sizes))
        moved = iter(sizes)
        byte = c.create_string_buffer(1)
        offset = llama.buffer_base(buffer)
        for weight in layer.weights:
            if weight not in chosen:
                staged.pointers.append(weight.home)
                continue
            shadow = _shadow(weight.tensor.contents)
            llama.tensor_alloc(buffer, c.byref(shadow), offset)
            for piece, source, at, size in self._pieces(shadow, weight, by_expert=to_repack):
                if stop():
                    llama.buffer_free(buffer)
                    return None
                llama.tensor_set(c.byref(piece), source, at, size)
                if not to_repack:
                    # Some devices only queue the bytes (RPC); reading one back waits for them, so
                    # that a decode step never finds more than one piece ahead of it.
                    llama.tensor_get(c.byref(piece), byte, at + size - 1, 1)
            staged.pointers.append((shadow.buffer, shadow.data, shadow.extra))
            offset += next(moved)
        return staged

    def _pieces(
        self, shadow: Tensor, weight: _Weight, *, by_expert: bool
    ) -> Iterator[tuple[Tensor, int, int, int]]:
        """(tensor, source address, offset in it, bytes) of each piece of a copy.

        A repacking buffer only takes whole tensors, but repacks rows in groups within one expert's
        matrix: so give it one expert at a time as a tensor of its own.
        """
        source = weight.home[1]
        if by_expert:
            step = shadow.nb[2]
            for expert in range(shadow.ne[2]):
                piece = _shadow(shadow)
                piece.buffer, piece.extra = shadow.buffer, shadow.extra
                piece.data = shadow.data + expert * step
                piece.ne[2] = 1
                yield piece, source + expert * step, 0, step
            return
        for at in range(0, weight.bytes, CHUNK_BYTES):
            yield shadow, source + at, at, min(CHUNK_BYTES, weight.bytes - at)

    def swap(
        self, closed: Closed, *, demote: Sequence[int] = (), promote: Staged | None = None
    ) -> list[int]:
        """Write the pointers, then reserve what the placement needs. Returns buffers to free once
        the gate is open.

        Where a device has no room for the compute buffers that the new placement needs, the
        promotion is undone (`places()` shows it): otherwise the next long prompt would fail.
        """
        for context in closed.contexts:
            self._llama.synchronize(context)
        unused = [
            self._write(index, MAPPED, None, [w.home for w in self.layers[index].weights])
            for index in demote
        ]
        if promote is not None:
            unused.append(
                self._write(promote.layer, promote.place, promote.buffer, promote.pointers)
            )
        if not self._reserve(closed) and promote is not None:
            home = [w.home for w in self.layers[promote.layer].weights]
            unused.append(self._write(promote.layer, MAPPED, None, home))
            self._reserve(closed)
        self._measure(closed)
        return [buffer for buffer in unused if buffer is not None]

    def free(self, buffers: Sequence[int]) -> None:
        """Give buffers back. Outside the gate: unmapping half a gigabyte takes tens of
        milliseconds."""
        for buffer in buffers:
            self._llama.buffer_free(buffer)

    def _write(
        self,
        index: int,
        place: str,
        buffer: int | None,
        pointers: Sequence[tuple[int, int, int | None]],
    ) -> int | None:
        layer = self.layers[index]
        for weight, (tensor_buffer, data, extra) in zip(layer.weights, pointers, strict=True):
            real = weight.tensor.contents
            real.buffer, real.data, real.extra = tensor_buffer, data, extra
        unused, layer.place, layer.buffer = layer.buffer, place, buffer
        return unused

    def _reserve(self, closed: Closed) -> bool:
        """Reserve the worst case of every context, then the graph of one step. Also drops the
        cached graphs, which would compute on the wrong device. False where a device has no room for
        it."""
        llama = self._llama
        enough = True
        for context in closed.contexts:
            sequences = llama.n_seq_max(context)
            batch = min(llama.n_ubatch(context), llama.n_ctx(context))
            batch = -(-batch // sequences) * sequences
            outputs = batch if self._outputs_per_batch else sequences
            worst = llama.graph_reserve(context, batch, sequences, outputs)
            enough = bool(worst) and enough
            enough = bool(llama.graph_reserve(context, sequences, sequences, sequences)) and enough
        return enough

    def _measure(self, closed: Closed) -> None:
        """Refresh `held` from the contexts' own books and ours."""
        held: dict[str, dict[str, int]] = {}

        def row(device: str) -> dict[str, int]:
            return held.setdefault(device, {"weights": 0, "kv": 0, "compute": 0, "experts": 0})

        models = set()
        for context in closed.contexts:
            model = self._llama.get_model(context)
            for buffer_type, (weights, kv, compute) in self._gate.breakdown(context).items():
                device = self._llama.buft_device(buffer_type)
                entry = row(self._llama.props(device).name.decode() if device else MAPPED)
                entry["weights"] += (
                    weights if model not in models else 0
                )  # several contexts share a model
                entry["kv"] += kv
                entry["compute"] += compute
            models.add(model)
        for layer in self.layers.values():
            if layer.buffer is not None:
                device = MAPPED if layer.place == REPACKED else layer.place
                row(device)["experts"] += self._llama.buffer_size(layer.buffer)
        self.held = held


def _shadow(real: Tensor) -> Tensor:
    """A copy of a tensor's struct that is nowhere yet."""
    shadow = Tensor.from_buffer_copy(real)
    shadow.buffer = shadow.data = shadow.extra = None
    return shadow
