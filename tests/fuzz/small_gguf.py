"""Headers of real models without their vocabulary: some KB of structure, in which a change is
worth something."""

import struct
from pathlib import Path
from typing import Final

from proxy.catalog.ggml_types import NAMES
from proxy.catalog.gguf import Scalar, Value
from proxy.catalog.gguf_reader import DEFAULT_ALIGNMENT, read_header

TYPES: Final = {name: number for number, name in NAMES.items()}
TOKENS: Final = ("<s>", "</s>", "a", "b")


def small_header(path: Path) -> bytes:
    """The header of the model at `path`, with a vocabulary of four tokens."""
    header = read_header(path)
    metadata = {**header.metadata, "tokenizer.ggml.tokens": TOKENS}
    tensors, offset = [], 0
    for tensor in header.tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        place = struct.pack("<IQ", TYPES[tensor.type], offset)
        tensors.append(_text(tensor.name) + shape + place)
        offset += -(-tensor.size_bytes // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT
    keys = [_text(name) + _value(value) for name, value in metadata.items()]
    return b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join([*keys, *tensors])


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, tuple):
        kind = _scalar(value[0])[0] if value else 4
        return struct.pack("<IIQ", 9, kind, len(value)) + b"".join(_scalar(one)[1] for one in value)
    kind, data = _scalar(value)
    return struct.pack("<I", kind) + data


def _scalar(value: Scalar) -> tuple[int, bytes]:
    """GGUF's number for its type, and its bytes."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        return (10, struct.pack("<Q", value)) if value >= 0 else (11, struct.pack("<q", value))
    if isinstance(value, float):
        return 12, struct.pack("<d", value)
    return 8, _text(value)
