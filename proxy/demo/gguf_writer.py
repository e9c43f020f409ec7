"""Writes GGUF models with random weights, drawing the blocks of quantised types directly.

Drawing costs a tenth of quantising and holds one tensor in memory at a time.
The header side, reading, is `proxy.catalog.gguf_reader`.
"""

import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Kind
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
# MXFP4's sixteen values, doubled as ggml keeps them.
MXFP4_VALUES = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor to write.

    `shape` is in numpy's order, ggml's reversed: a matrix of n outputs and m inputs is (n, m).
    Values are drawn around `mean` with standard deviation `spread`; 0 makes them all `mean`.
    `live_rows`, for F32 and F16 only, keeps these rows and clears the others.
    """

    name: str
    shape: tuple[int, ...]
    type: Type = Type.F32
    spread: float = 0.0
    mean: float = 0.0
    live_rows: tuple[int, ...] | None = None


def write_model(
    path: Path,
    architecture: str,
    *,
    metadata: Mapping[str, object],
    tensors: Iterable[TensorSpec],
    seed: int = 0,
) -> None:
    """Write a model to `path`, whole or not at all: under another name first, then renamed.

    Keys of `metadata` that begin with a dot belong to the architecture.
    The same arguments give the same bytes.
    """
    specs = list(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        _write(part, architecture, metadata, specs, seed)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _write(
    path: Path,
    architecture: str,
    metadata: Mapping[str, object],
    specs: Sequence[TensorSpec],
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    with opened(path, architecture, metadata, specs) as writer:
        for spec in specs:
            writer.write_tensor_data(draw(spec, random))


@contextmanager
def opened(
    path: Path, architecture: str, metadata: Mapping[str, object], specs: Sequence[TensorSpec]
) -> Iterator[gguf.GGUFWriter]:
    """A file whose header is written, ready for the tensors' data, in the order of `specs`."""
    with closing(gguf.GGUFWriter(path, architecture)) as writer:
        for key, value in metadata.items():
            _add(writer, architecture + key if key.startswith(".") else key, value)
        for spec in specs:
            raw = None if spec.type in FLOATS else spec.type
            shape, dtype = stored_shape(spec), _dtype(spec.type)
            writer.add_tensor_info(spec.name, shape, dtype, stored_bytes(spec), raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        yield writer


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    kinds: list[tuple[type, Kind]] = [
        (bool, Kind.BOOL),
        (int, Kind.UINT32),
        (float, Kind.FLOAT32),
        (str, Kind.STRING),
    ]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        # Arrays of ints are signed in files of real models (token types).
        writer.add_array(key, value)
        return
    for python, kind in kinds:
        if isinstance(value, python):
            writer.add_key_value(key, value, kind)
            return
    raise TypeError(f"{key}: cannot write a {type(value).__name__}")


def draw(spec: TensorSpec, random: np.random.Generator) -> NDArray[Any]:
    """The tensor's data: floats for F32 and F16, else the bytes of its blocks, row by row."""
    if spec.type in FLOATS:
        values = np.full(spec.shape, spec.mean, dtype=np.float32)
        if spec.spread:
            values += random.standard_normal(spec.shape, dtype=np.float32) * np.float32(spec.spread)
        if spec.live_rows is not None:
            dead = np.ones(spec.shape[0], dtype=bool)
            dead[list(spec.live_rows)] = False
            values[dead] = 0
        return values.astype(_dtype(spec.type))
    if spec.mean or spec.live_rows is not None:
        raise ValueError(f"{spec.name}: only float tensors have a mean or live rows")
    shape = stored_shape(spec)
    size = gguf.GGML_QUANT_SIZES[spec.type][1]
    blocks = BLOCKS[spec.type](int(np.prod(shape)) // size, spec.spread, random)
    return blocks.reshape(shape)


def stored_bytes(spec: TensorSpec) -> int:
    """The size of the tensor's data, without padding."""
    return math.prod(stored_shape(spec)) * _dtype(spec.type).itemsize


def stored_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of what is written: of quantised types bytes, not values."""
    if spec.type in FLOATS:
        return spec.shape
    return gguf.quant_shape_to_byte_shape(spec.shape, spec.type)


def _dtype(kind: Type) -> np.dtype[Any]:
    return np.dtype(FLOATS.get(kind, np.uint8))


FLOATS: dict[Type, type] = {Type.F32: np.float32, Type.F16: np.float16}


def _scales(count: int, base: float, random: np.random.Generator) -> NDArray[np.float16]:
    """A different scale for each block, so that blocks in a wrong order give a wrong answer."""
    return (base * random.uniform(0.6, 1.4, (count, 1))).astype(np.float16)


def _q8_0(count: int, spread: float, random: np.random.Generator) -> Bytes:
    values = random.integers(-127, 128, (count, 32), dtype=np.int8)
    # Evenly spread over -127..127: the standard deviation is 127 / sqrt(3).
    scales = _scales(count, spread / 73.6, random)
    return np.hstack([scales.view(np.uint8), values.view(np.uint8)])


def _nibbles(count: int, random: np.random.Generator, *, low: int = 0, pairs: int = 16) -> Bytes:
    halves = random.integers(low, 16, (2, count, pairs), dtype=np.uint8)
    packed: Bytes = halves[0] | (halves[1] << np.uint8(4))
    return packed


def _q4_0(count: int, spread: float, random: np.random.Generator) -> Bytes:
    # A nibble n means n - 8; without the 0 the values are even around zero.
    scales = _scales(count, spread / 4.32, random)
    return np.hstack([scales.view(np.uint8), _nibbles(count, random, low=1)])


def _iq4_nl(count: int, spread: float, random: np.random.Generator) -> Bytes:
    # Laid out as Q4_0; a nibble stands for one of sixteen values from -127 to 113.
    scales = _scales(count, spread / 71.0, random)
    return np.hstack([scales.view(np.uint8), _nibbles(count, random)])


def _q4_k(count: int, spread: float, random: np.random.Generator) -> Bytes:
    # Eight sub-blocks, each with a scale and a minimum of six bits, here all 32:
    # a nibble n means 32 * (d * n - dmin).
    scales = _scales(count, spread / (32 * 4.61), random)
    minimums = (scales.astype(np.float32) * 7.5).astype(np.float16)
    packed = np.tile(np.array([0xA0] * 8 + [0] * 4, dtype=np.uint8), (count, 1))
    nibbles = _nibbles(count, random, pairs=128)
    return np.hstack([scales.view(np.uint8), minimums.view(np.uint8), packed, nibbles])


def _q6_k(count: int, spread: float, random: np.random.Generator) -> Bytes:
    # Six-bit values around 32, sixteen signed scales (here all 32), the block's own scale last.
    bits = random.integers(0, 256, (count, 192), dtype=np.uint8)
    sub_scales = np.full((count, 16), 32, dtype=np.uint8)
    scales = _scales(count, spread / (32 * 18.5), random)
    return np.hstack([bits, sub_scales, scales.view(np.uint8)])


def _mxfp4(count: int, spread: float, random: np.random.Generator) -> Bytes:
    # A scale is a bare power of two (byte e means 2 ** (e - 128)): two are mixed for the spread.
    scale = spread / float(MXFP4_VALUES.std())
    low = int(np.floor(np.log2(scale))) - 1
    share = ((scale / 2.0**low) ** 2 - 1) / 15
    exponents = np.where(random.random((count, 1)) < share, low + 2, low).astype(np.int16)
    exponents = (exponents + 128).astype(np.uint8)
    return np.hstack([exponents, _nibbles(count, random)])


def _bf16(count: int, spread: float, random: np.random.Generator) -> Bytes:
    values = random.standard_normal(count, dtype=np.float32) * np.float32(spread)
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(np.uint8)


BLOCKS: dict[Type, Callable[[int, float, np.random.Generator], Bytes]] = {
    Type.Q8_0: _q8_0,
    Type.Q4_0: _q4_0,
    Type.IQ4_NL: _iq4_nl,
    Type.Q4_K: _q4_k,
    Type.Q6_K: _q6_k,
    Type.MXFP4: _mxfp4,
    Type.BF16: _bf16,
}
