"""Copies of one layer's expert tensors in another place: a device, or repacked in RAM.

They are made on any thread while the model decodes, since weights are only read, and always from
the mapped file's bytes: the present place may have another layout.
"""

import ctypes as c
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from proxy.worker.llama import USAGE_WEIGHTS, LlamaLibrary, Tensor
from proxy.worker.next_step import REPACKED
from proxy.worker.piece_size import MOST_BYTES, PieceSize

# Devices that copies and steps reach on one and the same way.
SHARED_WAY = "RPC"

Pointers = tuple[int, int, int | None]  # where a tensor is: buffer, data, extra


@dataclass(slots=True)
class Weight:
    """One expert tensor: the real struct, and where it is in the mapped file."""

    tensor: "c._Pointer[Tensor]"
    name: str
    bytes: int
    mmap_ptr: Pointers


@dataclass(frozen=True, slots=True)
class Copy:
    """One buffer, and where in it each tensor is, in their order. A tensor that cannot be in such a
    place is where it was in the file."""

    buffer: int
    pointers: list[Pointers] = field(default_factory=list)


class Copier:
    """Makes copies. It does not know where tensors are used from."""

    def __init__(self, llama: LlamaLibrary, piece_size: PieceSize) -> None:
        """`piece_size`: how copies go where steps share their way."""
        self._llama, self._piece_size = llama, piece_size
        self._devices = llama.devices()
        self._repack_type = llama.repack_type()
        # What changes: which types and shapes there is a faster layout for, as far as tried.
        self._repacks: dict[tuple[int, ...], bool] = {}

    def can_repack(self, weight: Weight) -> bool:
        """Whether this CPU has a faster layout for such a tensor (tried at most once per type and
        shape)."""
        if self._repack_type is None:
            return False
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

    def copy(
        self, weights: Sequence[Weight], place: str, *, stop: Callable[[], bool]
    ) -> Copy | None:
        """Copy tensors to `place`, a device or REPACKED. None: no memory there, or `stop()` said so
        meanwhile; then nothing is left of it."""
        llama = self._llama
        to_repack = place == REPACKED
        buffer_type = (
            self._repack_type if to_repack else llama.dev_buffer_type(self._devices[place])
        )
        chosen = [w for w in weights if not to_repack or self.can_repack(w)]
        align = llama.buft_alignment(buffer_type)
        sizes = [-(-llama.buft_alloc_size(buffer_type, w.tensor) // align) * align for w in chosen]
        buffer = llama.buft_alloc_buffer(buffer_type, sum(sizes))
        if not buffer:
            return None
        llama.buffer_set_usage(buffer, USAGE_WEIGHTS)
        piece_size = self._piece_size if place.startswith(SHARED_WAY) else None
        if piece_size:
            piece_size.begin(stop)
        copy = Copy(buffer)
        moved = iter(sizes)
        byte = c.create_string_buffer(1)
        offset = llama.buffer_base(buffer)
        for weight in weights:
            if weight not in chosen:
                copy.pointers.append(weight.mmap_ptr)
                continue
            shadow = _shadow(weight.tensor.contents)
            llama.tensor_alloc(buffer, c.byref(shadow), offset)
            pieces = _experts(shadow, weight) if to_repack else _pieces(shadow, weight, piece_size)
            for piece, source, at, size in pieces:
                if stop():
                    llama.buffer_free(buffer)
                    return None
                llama.tensor_set(c.byref(piece), source, at, size)
                if not to_repack:
                    # Some devices only queue the bytes (RPC); reading one back waits for them, so
                    # that a decode step never finds more than one piece ahead of it.
                    llama.tensor_get(c.byref(piece), byte, at + size - 1, 1)
                if piece_size:
                    piece_size.piece_done()
            copy.pointers.append((shadow.buffer, shadow.data, shadow.extra))
            offset += next(moved)
        return copy


# (tensor, source address, offset in it, bytes) of each piece of a copy
_Pieces = Iterator[tuple[Tensor, int, int, int]]


def _pieces(shadow: Tensor, weight: Weight, piece_size: PieceSize | None) -> _Pieces:
    at = 0
    while at < weight.bytes:
        size = min(piece_size.bytes if piece_size else MOST_BYTES, weight.bytes - at)
        yield shadow, weight.mmap_ptr[1] + at, at, size
        at += size


def _experts(shadow: Tensor, weight: Weight) -> _Pieces:
    """A repacking buffer only takes whole tensors, but repacks rows in groups within one expert's
    matrix: so give it one expert at a time as a tensor of its own."""
    step = shadow.nb[2]
    for expert in range(shadow.ne[2]):
        piece = _shadow(shadow)
        piece.buffer, piece.extra = shadow.buffer, shadow.extra
        piece.data = shadow.data + expert * step
        piece.ne[2] = 1
        yield piece, weight.mmap_ptr[1] + expert * step, 0, step


def _shadow(real: Tensor) -> Tensor:
    """A copy of a tensor's struct that is nowhere yet."""
    shadow = Tensor.from_buffer_copy(real)
    shadow.buffer = shadow.data = shadow.extra = None
    return shadow
