"""Reads the header of a GGUF file, or of all parts of a split model.

Our own reader, because the `gguf` package makes arrays of every token and merge of the vocabulary:
for a vocabulary of 152k tokens it took 13 s of processor time on a small machine, this one 4 ms.
Files come from anywhere: a count is checked against what the file can hold before it is believed.
"""

import itertools
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.catalog.cursor import MAX_HEADER_BYTES, Cursor
from proxy.catalog.ggml_types import NAMES, size_of
from proxy.catalog.gguf import BadNumbers, GgufError, Header, Scalar, Tensor, Value
from proxy.catalog.gguf_bounds import problem_of
from proxy.catalog.limits import Limits
from proxy.catalog.parts import parts_of
from proxy.files import check_regular, open_regular

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32
MAX_ALIGNMENT: Final = 1 << 24
# Bounds that no real file comes near.
MAX_KEYS: Final = 1 << 12
MAX_TENSORS: Final = 1 << 16
MAX_ARRAY_STRINGS: Final = 1 << 20
MAX_DIMENSIONS: Final = 4
MAX_NAME_BYTES: Final = 256
# What is kept of a header without its vocabulary, and with it.
KEPT_BYTES: Final = 4 << 20
ALL_BYTES: Final = 160 << 20
# No way to keep weights comes near.
MAX_WEIGHTS_PER_BYTE: Final = 64
# Longer arrays (vocabularies) are skipped, unless asked for, and only their length is kept.
KEPT_ELEMENTS: Final = 1024
# What stands before the vocabulary is rarely more.
BEGINNING_BYTES: Final = 16 << 10

STRING: Final = 8
ARRAY: Final = 9
BOOL: Final = 7
# GGUF value types of a fixed size, as struct formats.
FORMATS: Final[dict[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


def read_header(path: Path, *, keep: int = KEPT_ELEMENTS) -> Header:
    """The header of the model at `path`; any part of a split model stands for the whole.

    Arrays of more than `keep` elements are skipped.
    Raises GgufError for what is not a whole GGUF, OSError where a file cannot be read.
    """
    files = parts_of(path)
    limits = Limits(ALL_BYTES if keep > KEPT_ELEMENTS else KEPT_BYTES)
    metadata, lengths, tensors = _read_file(files[0], keep, limits)
    total = check_regular(files[0]).st_size
    for file in files[1:]:
        total += check_regular(file).st_size
        tensors += _read_file(file, keep, limits)[2]
        if len(tensors) > MAX_TENSORS:
            raise GgufError(f"{file}: the parts together have more tensors than any real model")
    declared = metadata.get("split.count", 1)
    if isinstance(declared, int) and declared > 1 and declared != len(files):
        raise GgufError(f"{files[0]}: one of {declared} files, but its name says {len(files)}")
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors):
        raise GgufError(f"{files[0]}: two tensors have the same name")
    if problem := problem_of(metadata, lengths):
        raise BadNumbers(f"{files[0]}: {problem}")
    return Header(files, total, metadata, lengths, tuple(tensors))


def read_beginning(path: Path) -> dict[str, Value]:
    """The metadata that stands before the vocabulary, without reading further.

    Raises what `read_header` raises, except for what it would find only later.
    """
    with open_regular(path) as file:
        size, limits = os.fstat(file.fileno()).st_size, Limits(KEPT_BYTES)
        cursor = Cursor(path, file, size, limits, read_bytes=BEGINNING_BYTES)
        metadata: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(_counts(cursor)[1]):
            key = cursor.string("a key")
            if key.startswith("tokenizer."):
                break
            kind = cursor.number("I", key)
            value: Value | None
            if kind == ARRAY:
                value, lengths[key] = _array(cursor, key, KEPT_ELEMENTS)
            else:
                value = _scalar(cursor, kind, key)
            if value is not None:
                metadata[key] = value
    if problem := problem_of(metadata, lengths):
        raise BadNumbers(f"{path}: {problem}")
    return metadata


_Contents = tuple[dict[str, Value], dict[str, int], list[Tensor]]


def _read_file(path: Path, keep: int, limits: Limits) -> _Contents:
    with open_regular(path) as file:
        return _read(Cursor(path, file, os.fstat(file.fileno()).st_size, limits), keep)


def _counts(cursor: Cursor) -> tuple[int, int]:
    """How many tensors and keys there are, which is where every file begins."""
    if cursor.take(4, "magic") != MAGIC:
        raise cursor.error("this is not a GGUF file")
    version = cursor.number("I", "version")
    if version not in VERSIONS:
        hint = " (big-endian?)" if version & 0xFFFF == 0 else ""
        raise cursor.error(f"GGUF version {version}{hint} is not supported")
    tensor_count = cursor.counter("tensors", MAX_TENSORS, each=24)
    return tensor_count, cursor.counter("keys", MAX_KEYS, each=13)


def _read(cursor: Cursor, keep: int) -> _Contents:
    tensor_count, key_count = _counts(cursor)
    metadata: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    for _ in range(key_count):
        key = cursor.string("a key")
        kind = cursor.number("I", key)
        if key in metadata or key in lengths:
            raise cursor.error(f"key {key!r} comes twice")
        if kind == ARRAY:
            kept, lengths[key] = _array(cursor, key, keep)
            if kept is not None:
                metadata[key] = kept
        else:
            metadata[key] = _scalar(cursor, kind, key)
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    # Not a bool either, which Python takes for a number.
    if type(alignment) is not int or not _is_power_of_two(alignment):
        raise cursor.error(f"alignment {alignment!r} is not a power of two")
    start = -(-cursor.position // alignment) * alignment
    return metadata, lengths, _place(cursor, start, infos)


def _is_power_of_two(value: int) -> bool:
    return 0 < value <= MAX_ALIGNMENT and value & (value - 1) == 0


def _scalar(cursor: Cursor, kind: int, key: str) -> Scalar:
    if kind == STRING:
        return cursor.string(key)
    if kind not in FORMATS:
        raise cursor.error(f"{key}: value type {kind} is unknown")
    value: Scalar = struct.unpack("<" + FORMATS[kind], cursor.take(_size(kind), key))[0]
    return value


def _array(cursor: Cursor, key: str, keep: int) -> tuple[tuple[Scalar, ...] | None, int]:
    kind = cursor.number("I", key)
    if kind == STRING:
        length = cursor.counter(key, MAX_ARRAY_STRINGS, each=8)
        if length <= keep:
            return tuple(cursor.string(key) for _ in range(length)), length
        cursor.skip_strings(length, key)
        return None, length
    if kind not in FORMATS:
        raise cursor.error(f"{key}: arrays of value type {kind} are not supported")
    length = cursor.counter(key, MAX_HEADER_BYTES, each=_size(kind))
    if length <= keep:
        cursor.keep(length, 0, key)
        data = cursor.take(length * _size(kind), key)
        return struct.unpack(f"<{length}{FORMATS[kind]}", data), length
    cursor.skip(length * _size(kind), key)
    return None, length


def _size(kind: int) -> int:
    return struct.calcsize("<" + FORMATS[kind])


@dataclass(frozen=True, slots=True)
class _Info:
    """A tensor as the header lists it; `offset` counts from where the data begins."""

    name: str
    type: int
    shape: tuple[int, ...]
    offset: int


def _tensor_info(cursor: Cursor) -> _Info:
    name = cursor.string("a tensor's name")
    if len(name) > MAX_NAME_BYTES:
        raise cursor.error(f"tensor {name[:80]!r}... has too long a name")
    dimensions = cursor.number("I", name)
    if dimensions > MAX_DIMENSIONS:
        raise cursor.error(f"tensor {name!r} has {dimensions} dimensions")
    shape = struct.unpack(f"<{dimensions}Q", cursor.take(8 * dimensions, name))
    # Without dimensions it is one number, to ggml too.
    return _Info(name, cursor.number("I", name), shape or (1,), cursor.number("Q", name))


def _at_least_one(length: int) -> int:
    return max(length, 1)


def _place(cursor: Cursor, start: int, infos: list[_Info]) -> list[Tensor]:
    """Where each tensor's bytes are; one of an unknown type reaches to where the next begins."""
    # Quantised types of other builds are unknown here, and their models still want to be listed.
    starts = sorted({info.offset for info in infos} | {max(cursor.size - start, 0)})
    after = dict(itertools.pairwise(starts))
    tensors = []
    for info in infos:
        size = size_of(info.type, info.shape)
        if size is None:
            size = after.get(info.offset, 0)
            size -= info.offset if size else 0
        elif size < 0:
            raise cursor.error(f"tensor {info.name!r}: rows of {info.shape[0]} are no whole blocks")
        if math.prod(map(_at_least_one, info.shape)) > MAX_WEIGHTS_PER_BYTE * cursor.size:
            raise cursor.error(f"tensor {info.name!r} has more weights than the file can hold")
        end = start + info.offset + size
        if end > cursor.size:
            raise cursor.error(
                f"tensor {info.name!r} ends at byte {end}, the file at {cursor.size}: truncated?"
            )
        kind = NAMES.get(info.type, f"type {info.type}")
        tensors.append(Tensor(info.name, kind, info.shape, cursor.path, start + info.offset, size))
    return tensors
