"""Architectures as the files of real models have them, small: metadata and tensors for each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from proxy.demo.gguf_writer import TensorSpec
from proxy.demo.model import ends, experts, matrix, norm
from proxy.demo.vocabulary import Vocabulary

SIGMOID = 2
POOLING_MEAN, POOLING_RANK = 1, 4


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a test may choose. `type` is for dense weights, `experts_type` for those of experts."""

    layers: int = 12
    width: int = 256
    experts: int = 16
    experts_used: int = 4
    expert_width: int = 256
    heads: int = 8
    kv_heads: int = 2
    head_width: int = 32
    context: int = 8192
    type: Type = Type.Q8_0
    experts_type: Type = Type.Q8_0

    def common(self) -> dict[str, object]:
        """The keys that every decoder needs."""
        return {
            ".context_length": self.context,
            ".embedding_length": self.width,
            ".block_count": self.layers,
            ".feed_forward_length": 2 * self.expert_width,
            ".attention.head_count": self.heads,
            ".attention.head_count_kv": self.kv_heads,
            ".attention.key_length": self.head_width,
            ".attention.value_length": self.head_width,
            ".attention.layer_norm_rms_epsilon": 1e-6,
            ".rope.freq_base": 1e6,
        }

    def routed(self) -> dict[str, object]:
        """The keys that every mixture of experts needs."""
        return {
            ".expert_count": self.experts,
            ".expert_used_count": self.experts_used,
            ".expert_feed_forward_length": self.expert_width,
        }

    def dense(self, name: str, shape: tuple[int, ...], gain: float = 1.0) -> TensorSpec:
        """A dense weight, in Q8_0 where a row has no whole blocks of the type asked for."""
        whole = shape[-1] % GGML_QUANT_SIZES[self.type][0] == 0
        return matrix(name, shape, self.type if whole else Type.Q8_0, gain)


Shape = Callable[[Sizes], tuple[str, dict[str, object], Iterator[TensorSpec]]]


def qwen3moe(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    def layers() -> Iterator[TensorSpec]:
        for block in blocks(sizes):
            yield from attention(sizes, block, normed=True)
            yield norm(block + "ffn_norm", sizes.width)
            yield from routed(sizes, block)

    return "qwen3moe", sizes.common() | sizes.routed(), layers()


def qwen3(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    def layers() -> Iterator[TensorSpec]:
        for block in blocks(sizes):
            yield from attention(sizes, block, normed=True)
            yield norm(block + "ffn_norm", sizes.width)
            yield from feed_forward(sizes, block, sizes.width * 4)

    return "qwen3", sizes.common() | {".feed_forward_length": sizes.width * 4}, layers()


def llama(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    def layers() -> Iterator[TensorSpec]:
        for block in blocks(sizes):
            yield from attention(sizes, block)
            yield norm(block + "ffn_norm", sizes.width)
            yield from feed_forward(sizes, block, sizes.width * 4)

    counts = {
        ".feed_forward_length": sizes.width * 4,
        ".rope.dimension_count": sizes.head_width,
    }
    return "llama", sizes.common() | counts, layers()


def mixtral(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    """Mixtral files carry the architecture `llama`, and their experts' width as the plain one."""

    def layers() -> Iterator[TensorSpec]:
        for block in blocks(sizes):
            yield from attention(sizes, block)
            yield norm(block + "ffn_norm", sizes.width)
            yield from routed(sizes, block)

    counts = {
        ".expert_count": sizes.experts,
        ".expert_used_count": sizes.experts_used,
        ".feed_forward_length": sizes.expert_width,
        ".rope.dimension_count": sizes.head_width,
    }
    return "llama", sizes.common() | counts, layers()


def gpt_oss(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    """Biases everywhere, attention sinks, every other layer with a sliding window, YaRN."""
    width, count, inner = sizes.width, sizes.experts, sizes.expert_width

    def layers() -> Iterator[TensorSpec]:
        for block in blocks(sizes):
            yield from attention(sizes, block, biased=True)
            yield bias(block + "attn_output", width)
            yield TensorSpec(block + "attn_sinks.weight", (sizes.heads,), spread=1.0)
            yield norm(block + "post_attention_norm", width)
            yield from routed(sizes, block)
            yield bias(block + "ffn_gate_inp", count)
            yield bias(block + "ffn_gate_exps", count, inner)
            yield bias(block + "ffn_up_exps", count, inner)
            yield bias(block + "ffn_down_exps", count, width)

    own: dict[str, object] = {
        ".attention.sliding_window": 128,
        ".rope.freq_base": 150000.0,
        ".rope.scaling.type": "yarn",
        ".rope.scaling.factor": 32.0,
        ".rope.scaling.original_context_length": 4096,
    }
    return "gpt-oss", sizes.common() | sizes.routed() | own, layers()


def deepseek2(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    """Latent attention, a dense first layer, then routed and shared experts."""
    width, heads, latent, rope = sizes.width, sizes.heads, 128, 32
    plain, value = sizes.head_width, sizes.head_width

    def layers() -> Iterator[TensorSpec]:
        for index, block in enumerate(blocks(sizes)):
            yield norm(block + "attn_norm", width)
            yield sizes.dense(block + "attn_q_a", (latent, width))
            yield norm(block + "attn_q_a_norm", latent)
            yield sizes.dense(block + "attn_q_b", (heads * (plain + rope), latent))
            yield sizes.dense(block + "attn_kv_a_mqa", (latent + rope, width))
            yield norm(block + "attn_kv_a_norm", latent)
            yield sizes.dense(block + "attn_k_b", (heads, latent, plain))
            yield sizes.dense(block + "attn_v_b", (heads, value, latent))
            yield sizes.dense(block + "attn_output", (width, heads * value))
            yield norm(block + "ffn_norm", width)
            yield from dense_then_shared(sizes, block, index)

    own: dict[str, object] = {
        ".attention.head_count_kv": 1,
        ".attention.key_length": latent + rope,
        ".attention.value_length": latent,
        ".attention.key_length_mla": plain + rope,
        ".attention.value_length_mla": value,
        ".attention.q_lora_rank": latent,
        ".attention.kv_lora_rank": latent,
        ".rope.dimension_count": rope,
        ".leading_dense_block_count": 1,
        ".expert_shared_count": 1,
        ".expert_weights_scale": 1.5,
        ".expert_weights_norm": True,
        ".expert_gating_func": SIGMOID,
    }
    return "deepseek2", sizes.common() | sizes.routed() | own, layers()


def glm4moe(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    """Biased attention, half of each head rotated, a dense first layer, then a shared expert."""

    def layers() -> Iterator[TensorSpec]:
        for index, block in enumerate(blocks(sizes)):
            yield from attention(sizes, block, normed=True, biased=True)
            yield norm(block + "post_attention_norm", sizes.width)
            yield from dense_then_shared(sizes, block, index)

    own: dict[str, object] = {
        ".rope.dimension_count": sizes.head_width // 2,
        ".leading_dense_block_count": 1,
        ".expert_shared_count": 1,
        ".expert_weights_scale": 1.0,
        ".expert_weights_norm": True,
        ".expert_gating_func": SIGMOID,
    }
    return "glm4moe", sizes.common() | sizes.routed() | own, layers()


def bert(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    """An encoder for embeddings."""
    width = sizes.width

    def layers() -> Iterator[TensorSpec]:
        yield TensorSpec("token_types.weight", (2, width), spread=0.1)
        yield TensorSpec("position_embd.weight", (sizes.context, width), spread=0.3)
        yield from layer_norm("token_embd_norm", width)
        for block in blocks(sizes):
            for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
                yield sizes.dense(block + part, (width, width))
                yield bias(block + part, width)
            yield from layer_norm(block + "attn_output_norm", width)
            yield sizes.dense(block + "ffn_up", (4 * width, width))
            yield bias(block + "ffn_up", 4 * width)
            yield sizes.dense(block + "ffn_down", (width, 4 * width))
            yield bias(block + "ffn_down", width)
            yield from layer_norm(block + "layer_output_norm", width)

    own: dict[str, object] = {
        ".context_length": sizes.context,
        ".embedding_length": width,
        ".block_count": sizes.layers,
        ".feed_forward_length": 4 * width,
        ".attention.head_count": sizes.heads,
        ".attention.layer_norm_epsilon": 1e-12,
        ".attention.causal": False,
        ".pooling_type": POOLING_MEAN,
        "tokenizer.ggml.token_type_count": 2,
    }
    return "bert", own, layers()


def bert_rerank(sizes: Sizes) -> tuple[str, dict[str, object], Iterator[TensorSpec]]:
    """The same encoder with the head that scores a document for a query."""
    architecture, metadata, body = bert(sizes)

    def tensors() -> Iterator[TensorSpec]:
        yield from body
        yield sizes.dense("cls", (sizes.width, sizes.width))
        yield bias("cls", sizes.width)
        yield matrix("cls.output", (1, sizes.width), Type.F32)
        yield bias("cls.output", 1)

    return architecture, metadata | {".pooling_type": POOLING_RANK}, tensors()


SHAPES: dict[str, Shape] = {
    "qwen3moe": qwen3moe,
    "gpt-oss": gpt_oss,
    "mixtral": mixtral,
    "deepseek2": deepseek2,
    "glm4moe": glm4moe,
    "qwen3": qwen3,
    "llama": llama,
    "bert": bert,
    "bert-rerank": bert_rerank,
}
ENCODERS = frozenset({"bert", "bert-rerank"})


def embeddings(shape: str, sizes: Sizes, vocabulary: Vocabulary) -> Iterator[TensorSpec]:
    """What turns tokens into vectors and back; encoders have no way back."""
    if shape in ENCODERS:
        yield TensorSpec("token_embd.weight", (vocabulary.size, sizes.width), Type.F16, 1.0)
    else:
        yield from ends(sizes.width, vocabulary.size, vocabulary.printable)


def blocks(sizes: Sizes) -> Iterator[str]:
    return (f"blk.{index}." for index in range(sizes.layers))


def attention(
    sizes: Sizes, block: str, *, normed: bool = False, biased: bool = False
) -> Iterator[TensorSpec]:
    outer, inner = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
    yield norm(block + "attn_norm", sizes.width)
    for part, rows in (("attn_q", outer), ("attn_k", inner), ("attn_v", inner)):
        yield sizes.dense(block + part, (rows, sizes.width))
        if biased:
            yield bias(block + part, rows)
    if normed:
        yield norm(block + "attn_q_norm", sizes.head_width, 2.0)
        yield norm(block + "attn_k_norm", sizes.head_width)
    yield sizes.dense(block + "attn_output", (sizes.width, outer))


def feed_forward(sizes: Sizes, block: str, inner: int, suffix: str = "") -> Iterator[TensorSpec]:
    yield sizes.dense(f"{block}ffn_gate{suffix}", (inner, sizes.width))
    yield sizes.dense(f"{block}ffn_up{suffix}", (inner, sizes.width))
    yield sizes.dense(f"{block}ffn_down{suffix}", (sizes.width, inner), 2.0)


def routed(sizes: Sizes, block: str) -> Iterator[TensorSpec]:
    yield matrix(block + "ffn_gate_inp", (sizes.experts, sizes.width), Type.F32, 2.0)
    yield from experts(block, sizes.experts, sizes.width, sizes.expert_width, sizes.experts_type)


def dense_then_shared(sizes: Sizes, block: str, index: int) -> Iterator[TensorSpec]:
    if index == 0:
        yield from feed_forward(sizes, block, 2 * sizes.expert_width)
        return
    yield from routed(sizes, block)
    yield TensorSpec(block + "exp_probs_b.bias", (sizes.experts,), spread=0.1)
    yield from feed_forward(sizes, block, sizes.expert_width, "_shexp")


def bias(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name + ".bias", shape, spread=0.05)


def layer_norm(name: str, width: int) -> Iterator[TensorSpec]:
    yield norm(name, width)
    yield TensorSpec(name + ".bias", (width,), spread=0.1)
