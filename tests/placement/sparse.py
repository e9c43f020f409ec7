"""Models of real sizes whose files are a header and a hole: enough for all that only measures."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from math import prod
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from proxy.demo.gguf_writer import FLOATS, TensorSpec
from tests.support.shapes import SHAPES, Sizes

ALIGNMENT = 32
Metadata = Mapping[str, object]


def real_size(path: Path, shape: str, sizes: Sizes, *, vocabulary: int, tied: bool = False) -> Path:
    """A model of a shape of `tests.support.shapes`, with a vocabulary of numbers only."""
    architecture, metadata, body = SHAPES[shape](sizes)
    specs = [*ends(sizes, vocabulary, tied=tied), *body]
    return sparse(path, architecture, {".vocab_size": vocabulary} | metadata, specs)


def ends(sizes: Sizes, vocabulary: int, *, tied: bool = False) -> list[TensorSpec]:
    table = (vocabulary, sizes.width)
    names = ["token_embd.weight"] if tied else ["token_embd.weight", "output.weight"]
    return [
        *(TensorSpec(name, table, sizes.type) for name in names),
        TensorSpec("output_norm.weight", (sizes.width,)),
    ]


def sparse(path: Path, architecture: str, metadata: Metadata, specs: Sequence[TensorSpec]) -> Path:
    """Write the header and make the file as long as if the weights were there."""
    length = 0
    with closing(gguf.GGUFWriter(path, architecture)) as writer:
        writer.add_string("tokenizer.ggml.model", "no_vocab")
        for key, value in metadata.items():
            _add(writer, architecture + key if key.startswith(".") else key, value)
        for spec in specs:
            floats = spec.type in FLOATS
            shape = spec.shape if floats else gguf.quant_shape_to_byte_shape(spec.shape, spec.type)
            kind = np.dtype(FLOATS[spec.type] if floats else np.uint8)
            size = prod(shape) * kind.itemsize
            writer.add_tensor_info(spec.name, shape, kind, size, None if floats else spec.type)
            length += -(-size // ALIGNMENT) * ALIGNMENT
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + length + ALIGNMENT)
    return path


def _add(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)  # type: ignore[arg-type]


QWEN3_30B_A3B = Sizes(
    *(48, 2048, 128, 8, 768, 32, 4, 128, 40960), type=Type.Q4_K, experts_type=Type.Q4_K
)
GPT_OSS_20B = Sizes(
    *(24, 2880, 32, 4, 2880, 64, 8, 64, 131072), type=Type.Q8_0, experts_type=Type.MXFP4
)
GPT_OSS_120B = Sizes(
    *(36, 2880, 128, 4, 2880, 64, 8, 64, 131072), type=Type.Q8_0, experts_type=Type.MXFP4
)
MIXTRAL_8X7B = Sizes(
    *(32, 4096, 8, 2, 14336, 32, 8, 128, 32768), type=Type.Q4_K, experts_type=Type.Q4_K
)
GLM_45_AIR = Sizes(
    *(46, 4096, 128, 8, 1408, 96, 8, 128, 131072), type=Type.Q4_0, experts_type=Type.Q4_0
)
QWEN3_8B = Sizes(*(36, 4096, 0, 0, 0, 32, 8, 128, 40960), type=Type.Q4_K)
DEEPSEEK = Sizes(
    *(28, 2048, 64, 6, 1408, 16, 1, 128, 163840), type=Type.Q4_0, experts_type=Type.Q4_0
)
