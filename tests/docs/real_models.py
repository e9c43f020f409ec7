"""The models of the recipes: headers as large as the files that people download, and a hole."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from proxy.demo.gguf_writer import TensorSpec
from tests.placement import sparse
from tests.support.shapes import SHAPES, Sizes

MORE_BITS = ("attn_v", "ffn_down", "ffn_down_exps", "ffn_down_shexp")
# What a row that is no whole number of its blocks has instead.
WITHOUT_BLOCKS_OF_256 = {Type.Q4_K: Type.Q5_0, Type.Q6_K: Type.Q8_0}


@dataclass(frozen=True, slots=True)
class Real:
    """A model as it is downloaded. `file_gb`: how large that is there, to within a few percent."""

    shape: str
    sizes: Sizes
    vocabulary: int
    file_gb: float
    quantised: Callable[[TensorSpec, int], TensorSpec] = lambda spec, _: spec

    def write(self, path: Path) -> Path:
        architecture, metadata, body = SHAPES[self.shape](self.sizes)
        specs = [*sparse.ends(self.sizes, self.vocabulary), *body]
        made = [self.quantised(spec, self.sizes.layers) for spec in specs]
        return sparse.sparse(path, architecture, {".vocab_size": self.vocabulary} | metadata, made)


def q4_k_m(spec: TensorSpec, layers: int) -> TensorSpec:
    """llama.cpp's mixture of this name: more bits for the output, and in half of the layers for
    values and for the way down."""
    kind = spec.type
    if spec.name == "output.weight" or (kind == Type.Q4_K and _has_more(spec.name, layers)):
        kind = Type.Q6_K
    if spec.shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = WITHOUT_BLOCKS_OF_256[kind]
    return replace(spec, type=kind)


def _has_more(name: str, layers: int) -> bool:
    block, _, rest = name.removeprefix("blk.").partition(".")
    if rest.removesuffix(".weight") not in MORE_BITS:
        return False
    layer, eighth = int(block), layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


QWEN3_CODER = replace(sparse.QWEN3_30B_A3B, context=262144)
GLM_45_AIR = replace(sparse.GLM_45_AIR, type=Type.Q4_K, experts_type=Type.Q4_K)
# By the names that the recipes pull them by.
REAL = {
    "hf.co/ggml-org/gpt-oss-20b-GGUF": Real("gpt-oss", sparse.GPT_OSS_20B, 201088, 12.1),
    "hf.co/unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M": Real(
        "qwen3moe", sparse.QWEN3_30B_A3B, 151936, 18.6, q4_k_m
    ),
    "hf.co/unsloth/Qwen3-Coder-30B-A3B-Instruct-GGUF:Q4_K_M": Real(
        "qwen3moe", QWEN3_CODER, 151936, 18.6, q4_k_m
    ),
    "hf.co/unsloth/GLM-4.5-Air-GGUF:Q4_K_M": Real("glm4moe", GLM_45_AIR, 151552, 72.9, q4_k_m),
    "hf.co/ggml-org/gpt-oss-120b-GGUF": Real("gpt-oss", sparse.GPT_OSS_120B, 201088, 63.4),
}
