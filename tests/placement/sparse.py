"""Models of real sizes whose files are a header and a hole: enough for all that only measures."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gguf import GGMLQuantizationType as Type

from proxy.demo.gguf_writer import TensorSpec, opened, stored_bytes
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
    head = {"tokenizer.ggml.model": "no_vocab"} | dict(metadata)
    with opened(path, architecture, head, specs):
        pass
    length = sum(-(-stored_bytes(spec) // ALIGNMENT) * ALIGNMENT for spec in specs)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + length + ALIGNMENT)
    return path


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
