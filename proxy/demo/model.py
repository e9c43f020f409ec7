"""The demo's model: a mixture of experts in the shape of Qwen3-MoE, random weights, real template.

It says nothing sensible, but it costs what a model of its size costs, and its words are harmless.
"""

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gguf import GGMLQuantizationType as Type

from proxy.demo.gguf_writer import TensorSpec, write_model
from proxy.demo.vocabulary import build_vocabulary

# Part of the file's name: to be raised whenever the bytes written here change.
VERSION = 1
# How far logits lie apart (standard deviation): one word wins clearly, and yet sampling varies.
LOGIT_SPREAD = 3.0


@dataclass(frozen=True, slots=True)
class Qwen3Moe:
    """Sizes of a model; the defaults are the demo's: 270 MB, of which a token reads a third."""

    layers: int = 12
    width: int = 768
    experts: int = 16
    experts_used: int = 4
    expert_width: int = 512
    heads: int = 12
    kv_heads: int = 4
    head_width: int = 64
    context: int = 32768
    type: Type = Type.Q8_0

    def metadata(self) -> dict[str, object]:
        """The keys that llama.cpp reads for this architecture, without the tokenizer."""
        return {
            ".context_length": self.context,
            ".embedding_length": self.width,
            ".block_count": self.layers,
            ".feed_forward_length": self.expert_width * self.experts_used,
            ".expert_feed_forward_length": self.expert_width,
            ".expert_count": self.experts,
            ".expert_used_count": self.experts_used,
            ".attention.head_count": self.heads,
            ".attention.head_count_kv": self.kv_heads,
            ".attention.key_length": self.head_width,
            ".attention.value_length": self.head_width,
            ".attention.layer_norm_rms_epsilon": 1e-6,
            ".rope.freq_base": 1e6,
        }

    def tensors(self, tokens: int, printable: tuple[int, ...]) -> Iterator[TensorSpec]:
        """All tensors, for a vocabulary of `tokens` entries of which `printable` are ever said."""
        width, kind = self.width, self.type
        yield from ends(width, tokens, printable)
        for layer in range(self.layers):
            block = f"blk.{layer}."
            yield norm(block + "attn_norm", width)
            # Above 1 so that a token looks at some others rather than at the average of all.
            yield norm(block + "attn_q_norm", self.head_width, 2.0)
            yield norm(block + "attn_k_norm", self.head_width)
            yield matrix(block + "attn_q", (self.heads * self.head_width, width), kind)
            yield matrix(block + "attn_k", (self.kv_heads * self.head_width, width), kind)
            yield matrix(block + "attn_v", (self.kv_heads * self.head_width, width), kind)
            yield matrix(block + "attn_output", (width, self.heads * self.head_width), kind)
            yield norm(block + "ffn_norm", width)
            yield matrix(block + "ffn_gate_inp", (self.experts, width), Type.F32, 2.0)
            yield from experts(block, self.experts, width, self.expert_width, kind)


def ends(width: int, tokens: int, printable: tuple[int, ...]) -> Iterator[TensorSpec]:
    """Embedding and output. All but `printable` tokens get the logit 0, so they never win."""
    yield TensorSpec("token_embd.weight", (tokens, width), Type.F16, 1.0)
    yield norm("output_norm", width)
    spread = LOGIT_SPREAD * width**-0.5
    yield TensorSpec("output.weight", (tokens, width), Type.F16, spread, live_rows=printable)


def experts(block: str, count: int, width: int, inner: int, kind: Type) -> Iterator[TensorSpec]:
    """The three expert tensors of a layer, down made larger to make up for what silu takes away."""
    yield matrix(block + "ffn_gate_exps", (count, inner, width), kind)
    yield matrix(block + "ffn_up_exps", (count, inner, width), kind)
    yield matrix(block + "ffn_down_exps", (count, width, inner), kind, 2.0)


def matrix(name: str, shape: tuple[int, ...], kind: Type, gain: float = 1.0) -> TensorSpec:
    """A weight that keeps the size of its input, times `gain`; inputs are the last dimension."""
    return TensorSpec(name + ".weight", shape, kind, gain * shape[-1] ** -0.5)


def norm(name: str, width: int, value: float = 1.0) -> TensorSpec:
    """The weight of a normalisation, the same for every element."""
    return TensorSpec(name + ".weight", (width,), mean=value)


def demo_model(folder: Path) -> Path:
    """The demo's model in `folder`, written there if it is not yet: about 270 MB, a few seconds."""
    path = folder / f"moe-proxy-demo-v{VERSION}-Q8_0.gguf"
    if not path.exists():
        write_demo_model(path, Qwen3Moe(), name="moe-proxy demo")
    return path


def write_demo_model(path: Path, shape: Qwen3Moe, *, name: str, seed: int = 0) -> None:
    """Write a model of `shape` with the built vocabulary and a ChatML template to `path`."""
    vocabulary = build_vocabulary()
    metadata: dict[str, object] = {
        "general.name": name,
        **shape.metadata(),
        **vocabulary.metadata,
        "tokenizer.chat_template": chatml_template(),
    }
    tensors = shape.tensors(vocabulary.size, vocabulary.printable)
    write_model(path, "qwen3moe", metadata=metadata, tensors=tensors, seed=seed)


def chatml_template() -> str:
    """llama-cpp-python's own ChatML template, from its installed source.

    Read rather than imported: the import would load llama.cpp's library into this process.
    Raises LookupError if it is not there.
    """
    package = importlib.util.find_spec("llama_cpp")
    for folder in (package and package.submodule_search_locations) or ():
        source = Path(folder, "llama_chat_format.py")
        if not source.exists():
            continue
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            match node:
                case ast.Assign([ast.Name("CHATML_CHAT_TEMPLATE")], ast.Constant(str(template))):
                    return template
    raise LookupError("llama-cpp-python is not installed, or has no CHATML_CHAT_TEMPLATE")
