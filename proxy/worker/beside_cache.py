"""Layers that llama.cpp's expert cache leaves alone, so that their experts can move.

Where `--moe-cache-mib` is given, llama.cpp makes a cache with the first context: of all layers
whose experts are in host memory in that moment. It keeps their addresses and goes on reading there,
so a layer that it has must never move, not even into the CPU's fast layout. The others it never
looks at again.

All experts are in the mapped file then, for they come to devices later. So the layers that are to
be left alone are said to be on their device while a context is made, and are what they were
afterwards. Nothing computes in between.
"""

import ctypes as c
import re
import sys
import traceback
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from proxy.engine.tensor_names import EXPERTS
from proxy.worker.gate import Gate
from proxy.worker.llama import USAGE_WEIGHTS, LlamaLibrary, Tensor
from proxy.worker.next_step import MAPPED
from proxy.worker.staging import Pointers

NONE: Final[frozenset[int]] = frozenset()
# Of what a layer computes with, apart from its experts, what every layer has.
HOME = re.compile(r"blk\.(\d+)\.(?:attn|ssm)")


@dataclass(slots=True)
class _Layer:
    experts: list["c._Pointer[Tensor]"] = field(default_factory=list)
    device: str = MAPPED


class BesideCache:
    """Which layers are left alone. All but `spared` runs on llama-server's thread."""

    def __init__(self, llama: LlamaLibrary, gate: Gate, *, cached: int) -> None:
        """The experts of the first `cached` layers are the cache's."""
        self._llama, self._gate, self._first = llama, gate, cached
        # What changes: what is not what it was as long as a context is made, the buffers that are
        # there for it, of which model and layers that is, and by model the layers that it was said
        # of whenever a context was made. (A server can have several models, and contexts of each.)
        self._changed: list[tuple[c._Pointer[Tensor], Pointers]] = []
        self._buffers: list[int] = []
        self._trying: tuple[int, frozenset[int]] = 0, NONE
        self._spared: dict[int, frozenset[int]] = {}
        gate.contexts_by(self._begins, self._ends, self._goes)

    def spared(self, model: int) -> frozenset[int]:
        """The layers of a model that may move: none where nobody saw how its contexts were made."""
        return self._spared.get(model, NONE)

    def _begins(self, model: int) -> None:
        self._trying = model, NONE
        try:
            self._trying = model, frozenset(self._say_on_device(model))
        except Exception:  # it is called from C, which would go on and not know
            traceback.print_exc()
            self._undo()

    def _ends(self, context: int | None) -> None:
        model, trying = self._trying
        self._undo()
        if context is not None:
            # An earlier one may have made the cache.
            self._spared[model] = trying & self._spared.get(model, trying)

    def _goes(self, model: int) -> None:
        """Another one may come to its address."""
        self._spared.pop(model, None)

    def _undo(self) -> None:
        for tensor, (buffer, data, extra) in self._changed:
            real = tensor.contents
            real.buffer, real.data, real.extra = buffer, data, extra
        for held in self._buffers:
            self._llama.buffer_free(held)
        self._changed, self._buffers = [], []

    def _say_on_device(self, model: int) -> Iterable[int]:
        """Returns the layers of which it is said now."""
        by_device: dict[str, dict[int, _Layer]] = defaultdict(dict)
        for index, layer in self._layers(model).items():
            if index >= self._first and layer.device != MAPPED and self._in_host(layer):
                by_device[layer.device][index] = layer
        said: list[int] = []
        for device, layers in by_device.items():
            buffer = self._room_for_one(device, [t for x in layers.values() for t in x.experts])
            if buffer is None:
                sys.stderr.write(f"worker: {device} has no room for one tensor: all is cached\n")
                continue
            base = self._llama.buffer_base(buffer)
            for index, layer in layers.items():
                for tensor in layer.experts:
                    real = tensor.contents
                    self._changed.append((tensor, (real.buffer, real.data, real.extra)))
                    real.buffer, real.data, real.extra = buffer, base, None
                said.append(index)
        return said

    def _room_for_one(self, device: str, tensors: list["c._Pointer[Tensor]"]) -> int | None:
        """A buffer in which each of these could be: nothing is ever written into it, but some
        backends look whether a tensor is within its buffer."""
        llama = self._llama
        kind = llama.dev_buffer_type(llama.device(device))
        size = max(llama.buft_alloc_size(kind, tensor) for tensor in tensors)
        buffer: int | None = llama.buft_alloc_buffer(kind, size)
        if buffer:
            llama.buffer_set_usage(buffer, USAGE_WEIGHTS)
            self._buffers.append(buffer)
        return buffer

    def _layers(self, model: int) -> dict[int, _Layer]:
        """The model's layers with experts; none where this build does not tell of its tensors."""
        found: dict[int, _Layer] = defaultdict(_Layer)
        for address in self._gate.tensors(model) or ():
            tensor = c.cast(address, c.POINTER(Tensor))
            name = tensor.contents.name.decode(errors="replace")
            if match := EXPERTS.match(name):
                found[int(match[1])].experts.append(tensor)
            elif (match := HOME.match(name)) and tensor.contents.buffer:
                device = self._llama.buft_device(self._llama.buffer_type(tensor.contents.buffer))
                if device:
                    found[int(match[1])].device = self._llama.device_name(device)
        return {index: layer for index, layer in found.items() if layer.experts}

    def _in_host(self, layer: _Layer) -> bool:
        llama = self._llama
        buffers = [tensor.contents.buffer for tensor in layer.experts]
        return all(x and llama.buft_is_host(llama.buffer_type(x)) for x in buffers)
