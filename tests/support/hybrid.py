"""A small hybrid: state-space layers with an attention layer among them, and experts in all."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from proxy.demo.gguf_writer import TensorSpec, write_model
from proxy.demo.model import norm
from proxy.demo.vocabulary import build_vocabulary
from tests.support import archive, shapes
from tests.support.shapes import Sizes, attention, bias, blocks, embeddings, routed

# The kernel of the convolution, the state of one channel, and what shares its inputs.
KERNEL, STATE, GROUPS, HEAD = 4, 64, 1, 64
ATTENTION_EVERY = 3


def hybrid_model(layers: int = 6) -> Path:
    """Granite 4's shape (`granitehybrid`): every third layer attends, the others are Mamba 2."""
    sizes = Sizes(layers=layers)
    code = b"".join(Path(m.__file__ or "").read_bytes() for m in (shapes, archive))
    digest = hashlib.sha256(code + Path(__file__).read_bytes()).hexdigest()[:8]
    path = archive.cache_folder() / "models" / f"granitehybrid-{layers}l-{digest}.gguf"
    if not path.exists():
        vocabulary = build_vocabulary()
        metadata = {"general.name": "test granitehybrid"} | vocabulary.metadata | _metadata(sizes)
        tensors = [*embeddings("granitehybrid", sizes, vocabulary), *_layers(sizes)]
        write_model(path, "granitehybrid", metadata=metadata, tensors=tensors)
    return path


def _attends(index: int) -> bool:
    return index % ATTENTION_EVERY == ATTENTION_EVERY - 1


def _metadata(sizes: Sizes) -> dict[str, object]:
    inner = 2 * sizes.width
    kv_heads = [sizes.kv_heads if _attends(index) else 0 for index in range(sizes.layers)]
    return (
        sizes.common()
        | sizes.routed()
        | {
            ".attention.head_count_kv": kv_heads,
            ".feed_forward_length": sizes.expert_width,
            ".ssm.conv_kernel": KERNEL,
            ".ssm.inner_size": inner,
            ".ssm.state_size": STATE,
            ".ssm.time_step_rank": inner // HEAD,
            ".ssm.group_count": GROUPS,
        }
    )


def _layers(sizes: Sizes) -> Iterator[TensorSpec]:
    for index, block in enumerate(blocks(sizes)):
        yield from attention(sizes, block) if _attends(index) else _state_space(sizes, block)
        yield norm(block + "ffn_norm", sizes.width)
        yield from routed(sizes, block)


def _state_space(sizes: Sizes, block: str) -> Iterator[TensorSpec]:
    inner = 2 * sizes.width
    heads, mixed = inner // HEAD, inner + 2 * GROUPS * STATE
    yield norm(block + "attn_norm", sizes.width)
    yield sizes.dense(block + "ssm_in", (inner + mixed + heads, sizes.width))
    yield TensorSpec(block + "ssm_conv1d.weight", (mixed, KERNEL), spread=0.5)
    yield bias(block + "ssm_conv1d", mixed)
    yield bias(block + "ssm_dt", heads)
    yield TensorSpec(block + "ssm_a", (heads, 1), mean=-1.0)
    yield TensorSpec(block + "ssm_d", (heads, 1), mean=1.0)
    yield TensorSpec(block + "ssm_norm.weight", (GROUPS, inner // GROUPS), mean=1.0)
    yield sizes.dense(block + "ssm_out", (sizes.width, inner))
