"""Headers as values, for what needs no file."""

from collections.abc import Mapping
from pathlib import Path

from proxy.catalog.gguf import Header, Tensor, Value

FILE = Path("model.gguf")
MIB = 1 << 20
Sized = tuple[tuple[int, ...], int]


def header(architecture: str, hyper: Mapping[str, Value], tensors: Mapping[str, Sized]) -> Header:
    """A header with these keys of the architecture, and tensors as name: (shape, bytes)."""
    metadata: dict[str, Value] = {"general.architecture": architecture}
    metadata |= {f"{architecture}.{key}": value for key, value in hyper.items()}
    listed = tuple(
        Tensor(name, "F16", shape, FILE, 0, size) for name, (shape, size) in tensors.items()
    )
    return Header((FILE,), sum(t.size_bytes for t in listed), metadata, {}, listed)


def hyper_only(architecture: str, **hyper: Value) -> Header:
    return header(architecture, {k.replace("__", "."): v for k, v in hyper.items()}, {})


def moe(
    layers: int, *, dense_mib: int = 10, experts_mib: int = 100, leading_dense: int = 0
) -> Header:
    """A mixture of experts with round sizes: 4 MiB of KV cache per 1024 tokens and layer."""
    tensors: dict[str, Sized] = {
        "token_embd.weight": ((1024, 32000), 60 * MIB),
        "output.weight": ((1024, 32000), 60 * MIB),
        "output_norm.weight": ((1024,), 4096),
    }
    for index in range(layers):
        block = f"blk.{index}."
        tensors[block + "attn_q.weight"] = ((1024, 1024), dense_mib * MIB)
        if index < leading_dense:
            tensors[block + "ffn_up.weight"] = ((1024, 2048), 4 * MIB)
            continue
        for part in ("up", "gate"):
            tensors[f"{block}ffn_{part}_exps.weight"] = ((1024, 512, 16), experts_mib * MIB // 4)
        tensors[f"{block}ffn_down_exps.weight"] = ((512, 1024, 16), experts_mib * MIB // 2)
    hyper: dict[str, Value] = {
        "block_count": layers,
        "embedding_length": 1024,
        "attention.head_count": 8,
        "attention.head_count_kv": 8,
        "attention.key_length": 128,
        "attention.value_length": 128,
        "expert_count": 16,
        "expert_used_count": 4,
    }
    return header("qwen3moe", hyper, tensors)
