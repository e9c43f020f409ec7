"""What goes with a generated model: eyes (a projector) and an adapter, with random weights too."""

from collections.abc import Iterator
from pathlib import Path

from gguf import GGMLQuantizationType as Type

from proxy.demo.gguf_writer import TensorSpec, write_model
from proxy.demo.model import matrix, norm

# Four by four patches: an image is sixteen tokens.
IMAGE, PATCH = 32, 8
INNER = 64


def projector(path: Path, *, width: int = 256) -> Path:
    """A vision encoder of one layer in front of a model with embeddings of `width`."""
    # The kind whose encoder is the plainest, and whose marks are in no text.
    metadata: dict[str, object] = {
        ".projector_type": "janus_pro",
        ".has_vision_encoder": True,
        ".use_gelu": True,
        ".vision.image_size": IMAGE,
        ".vision.patch_size": PATCH,
        ".vision.embedding_length": INNER,
        ".vision.feed_forward_length": 2 * INNER,
        ".vision.projection_dim": width,
        ".vision.block_count": 1,
        ".vision.attention.head_count": 2,
        ".vision.attention.layer_norm_epsilon": 1e-6,
        ".vision.image_mean": [0.5, 0.5, 0.5],
        ".vision.image_std": [0.5, 0.5, 0.5],
    }
    write_model(path, "clip", metadata=metadata, tensors=_encoder(width))
    return path


def _encoder(width: int) -> Iterator[TensorSpec]:
    patches = (IMAGE // PATCH) ** 2
    yield TensorSpec("v.patch_embd.weight", (INNER, 3, PATCH, PATCH), Type.F16, spread=0.2)
    yield TensorSpec("v.position_embd.weight", (patches, INNER), spread=0.3)
    for name in ("v.blk.0.ln1", "v.blk.0.ln2", "v.post_ln"):
        yield norm(name, INNER)
        yield TensorSpec(name + ".bias", (INNER,))
    for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
        yield matrix("v.blk.0." + part, (INNER, INNER), Type.F16)
    yield matrix("v.blk.0.ffn_up", (2 * INNER, INNER), Type.F16)
    yield matrix("v.blk.0.ffn_down", (INNER, 2 * INNER), Type.F16)
    yield matrix("mm.0", (width, INNER), Type.F16)
    yield TensorSpec("mm.0.bias", (width,))
    yield matrix("mm.1", (width, width), Type.F16)
    yield TensorSpec("mm.1.bias", (width,))


def adapter(path: Path, *, architecture: str = "qwen3moe", width: int = 256) -> Path:
    """A LoRA adapter that turns the queries of the first layer upside down."""
    rank = 4
    name = "blk.0.attn_q.weight"
    tensors = [
        TensorSpec(name + ".lora_a", (rank, width), spread=1.0),
        TensorSpec(name + ".lora_b", (width, rank), spread=1.0),
    ]
    metadata: dict[str, object] = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(rank),
    }
    write_model(path, architecture, metadata=metadata, tensors=tensors)
    return path
